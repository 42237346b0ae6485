"""Reproduction of the two papers' tables and figures: a recipe for each, its runs, and its table with both numbers."""
