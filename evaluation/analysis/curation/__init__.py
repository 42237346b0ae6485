"""Choosing images from a pool by their features: balanced over its clusters, or like one's own."""
