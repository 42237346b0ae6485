"""Masks of segmentation tasks: networks that predict them, and what is measured; they need torch."""
