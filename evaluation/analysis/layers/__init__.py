"""What each layer of a model holds: likeness between layers, rank, dimension, attention, frequencies, diversity."""
