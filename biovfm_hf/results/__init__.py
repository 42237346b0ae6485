"""Comparison of results: published figures, corrected p-values and ranks."""
