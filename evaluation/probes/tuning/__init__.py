"""Training the weights of an encoder with a head for classes; all but its settings needs torch."""
