"""MedMNIST-C: corruptions that simulate worse acquisition, to measure a model's loss of accuracy."""
