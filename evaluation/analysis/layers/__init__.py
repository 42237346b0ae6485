"""Layer-by-layer analysis: similarity of layers (CKA), rank, dimension, attention, frequencies, diversity."""
