"""Segmentation probes: networks that predict masks, and their metrics; they need torch."""
