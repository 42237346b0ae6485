"""Analyses beyond a score: scaling, layers, curation of data, and composition of mixtures."""
