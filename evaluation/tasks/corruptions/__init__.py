"""MedMNIST-C: images as worse acquisition would give them, and how much more often a model is then wrong."""
