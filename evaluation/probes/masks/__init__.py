"""Segmentation probes: networks that predict masks, and their metrics; all but settings needs torch."""
