"""Curation: choosing images from a pool by their features, balanced over clusters or similar to a user's own."""
