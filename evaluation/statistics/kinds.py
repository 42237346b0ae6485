"""Kinds of tasks, by MedMNIST's names: what labels and scores look like, and which metrics apply."""

BINARY = "binary-class"
MULTICLASS = "multi-class"
MULTILABEL = "multi-label, binary-class"
ORDINAL = "ordinal-regression"
TASKS = (BINARY, MULTICLASS, MULTILABEL, ORDINAL)
SEGMENTATION = "segmentation"  # our own name: MedMNIST has no such task
DETECTION = "detection"  # likewise
