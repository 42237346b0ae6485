"""Curation: chooses images from a pool by their features, balanced over clusters or similar to your own images."""
