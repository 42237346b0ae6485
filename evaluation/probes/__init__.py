"""Probes: each turns the features (or images) of three splits into validation and test scores."""
