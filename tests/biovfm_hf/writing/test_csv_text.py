"""The text of a CSV file."""

import doctest

import pytest

from biovfm_hf.writing import csv_text


def test_its_example_and_a_value_without_a_column() -> None:
    assert doctest.testmod(csv_text).failed == 0
    with pytest.raises(ValueError, match="score"):
        csv_text.csv_text([{"task": "busi", "score": 1}], ["task"])
