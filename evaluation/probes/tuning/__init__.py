"""Training the weights of an encoder with a head for classes; it needs torch."""
