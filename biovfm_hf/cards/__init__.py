"""What the cards of datasets and models share."""
