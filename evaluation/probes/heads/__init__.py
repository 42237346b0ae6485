"""Linear heads on feature vectors; they need torch, so a probe imports them when it runs."""
