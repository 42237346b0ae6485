"""Probes: each turns features (or images) of three splits into validation and test scores."""
