"""The random sources of MedMNIST-C, which its code seeds alike and draws from in a fixed order."""

import random
from copy import deepcopy

import numpy as np


class RandomSources:
    """Three sources from one seed: `python` (random), `legacy` (numpy's RandomState) and `generator` (its successor).

    The benchmark's code uses the global sources of the first two; with the same seed and order, these give the same
    numbers.
    """

    def __init__(self, seed: int):
        self.python = random.Random(seed)
        self.legacy = np.random.RandomState(seed)
        self.generator = np.random.default_rng(seed)

    def copy(self) -> "RandomSources":
        """Sources that continue as these would, without advancing them."""
        return deepcopy(self)
