"""Columns of the test cases as groups: sex or site as they are, ages and other numbers in bands."""

import re
from itertools import pairwise

import numpy as np

from ...tasks.classes import is_missing

MAX_GROUPS = 8  # a column with more different numbers is divided into bands
AGE_BANDS = (20, 40, 60, 80)  # years, as in Seyyed-Kalantari et al. (2021)
OLDEST = 120  # years; larger numbers are not ages, such as the 411 in ChestX-ray14
YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # of the units of DICOM's age strings, as in 006M
# The letters of a column's name, such as `Patient Age` or `age_years`.
AGE_NAME = re.compile("(patients?|subjects?)?age(in)?(years?|yrs?|y)?")
UNKNOWN = "unknown"
ALSO_MISSING = {"-", "?", "none", "missing", UNKNOWN}  # in a column of groups; a label may be "none"


def bands(name: str, values: np.ndarray) -> np.ndarray:
    """A text column (n,) as groups: values as they are, many different numbers in bands, missing ones "unknown".

    Ages are divided at 20, 40, 60 and 80 years, other numbers at their quartiles. An age is a number of years or
    DICOM's age string (`005Y`, `006M`); one below 0 or above 120 is unknown. Words among ages stay groups of their
    own; a column of other numbers has none.
    """
    groups = np.array([_known(str(value).strip()) for value in np.asarray(values).reshape(-1).astype(str)], object)
    is_age = AGE_NAME.fullmatch("".join(re.findall("[a-z]", name.lower()))) is not None
    parsed = [None if group == UNKNOWN else (_age if is_age else _number)(group) for group in groups]
    numbers = np.array([np.nan if number is None else number for number in parsed])
    is_number = np.array([number is not None for number in parsed], bool)
    if not is_age and not (is_number | (groups == UNKNOWN)).all():
        return groups.astype(str)
    groups[is_number & ~_possible(numbers, is_age)] = UNKNOWN
    known = is_number & (groups != UNKNOWN)
    if len(np.unique(numbers[known])) > MAX_GROUPS:
        groups[known] = _divided(numbers[known], AGE_BANDS if is_age else None)
    elif is_age:
        groups[known] = [f"{years:g}" for years in numbers[known]]  # 005Y and 5 are one group
    return groups.astype(str)


def _known(value: str) -> str:
    return UNKNOWN if is_missing(value) or value.lower() in ALSO_MISSING else value


def _possible(numbers: np.ndarray, is_age: bool) -> np.ndarray:
    """Which numbers can be of a case: finite, and for ages from 0 to 120."""
    return np.isfinite(numbers) & ((numbers >= 0) & (numbers <= OLDEST) if is_age else True)


def _divided(numbers: np.ndarray, edges: tuple[float, ...] | None) -> np.ndarray:
    """The band of each number, between the edges or the quartiles."""
    ends = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75])) if edges is None else np.array(edges)
    texts = [f"{end:g}" for end in ends]
    names = [f"below {texts[0]}", *(f"{a} to {b}" for a, b in pairwise(texts)), f"{texts[-1]} and over"]
    return np.array(names, object)[np.searchsorted(ends, numbers, side="right")]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _age(text: str) -> float | None:
    """An age in years, of a number or DICOM's age string."""
    unit = YEARS.get(text[-1:].upper())
    number = _number(text if unit is None else text[:-1])
    return None if number is None else number * (unit or 1.0)
