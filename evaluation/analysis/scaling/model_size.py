"""Cost of a model size from its configuration: parameters and floating-point operations.

The x axis of a scaling study determines its slope, so the choice is explicit: the numbers in the points file, encoder
parameters, the BioVFM paper's own axis, or pretraining compute.
"""

from collections.abc import Mapping

from biovfm_hf.errors import UserError
from biovfm_hf.flops import decoder_parameters, encoder_parameters
from biovfm_hf.front_door import counted_objectives, recipe_flops
from biovfm_hf.sizes import SIZES

from .tables import Point

AXES = ("given", "encoder", "published", "compute")
PAPER_AXIS = "published"
_COUNTS = ("encoder", PAPER_AXIS)  # axes of parameters, in the order of `known_sizes`
AXIS_LABELS = {
    "given": "Parameters (millions)",
    "encoder": "Encoder parameters (millions)",
    "published": "Encoder and MAE decoder parameters (millions)",
    "compute": "Pretraining compute (GFLOP per image)",
    "total_compute": "Pretraining compute (EFLOP)",
}
TOLERANCE = 0.02
_PAPER_ENDINGS = {"-d": "dino", "-m": "mae"}  # BioVFM-D and BioVFM-M


def size_names() -> tuple[str, ...]:
    """The named sizes of this package."""
    return tuple(SIZES)


def published_parameters(name: str) -> int:
    """The BioVFM paper's x value of a size: MAE encoder and decoder without position embeddings, for both families."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    config = BioVFMConfig.from_size(name, family="mae")
    return encoder_parameters(config, positions=False) + decoder_parameters(config, positions=False)


def known_sizes() -> dict[str, tuple[float, float]]:
    """Encoder and published parameters in millions, by size name."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    return {
        name: (encoder_parameters(BioVFMConfig.from_size(name)) / 1e6, published_parameters(name) / 1e6)
        for name in size_names()
    }


def sizes_of(point: Point, known: Mapping[str, tuple[float, float]]) -> list[str]:
    """The named sizes of a point, the nearest first: its `size`, or those with a count within 2 % of its parameters.

    Raises:
        UserError: no named size fits.
    """
    if point.size:
        if point.size not in known:
            raise UserError(f"unknown size {point.size!r}; known are: {', '.join(known)}")
        return [point.size]
    gaps = {name: min(abs(point.params / count - 1) for count in counts) for name, counts in known.items()}
    names = sorted((name for name, gap in gaps.items() if gap <= TOLERANCE), key=lambda name: gaps[name])
    if not names:
        raise UserError(f"{point.params:g} M parameters are no named size ({point.series}); add a column size to the "
                        f"points, with one of: {', '.join(known)}")  # fmt: skip
    return names


def objective_of(family: str) -> str:
    """The objective that a family's name contains, or its ending in the paper; used if no column gives the objective.

    If an objective's name contains another's, the longer one counts.

    Raises:
        UserError: the name contains none, or several.
    """
    lowered, known = family.lower(), counted_objectives()
    contained = [name for name in known if name in lowered] or [_PAPER_ENDINGS.get(lowered[-2:], "")]
    longest = max(contained, key=len)
    if longest and all(name in longest for name in contained):
        return longest
    raise UserError(f"the objective is unknown for family {family!r}, which --axis compute needs; add a column "
                    f"objective to the points, or name it so that it contains {' or '.join(known)}")  # fmt: skip


def axis_values(points: list[Point], axis: str) -> tuple[list[float], str]:
    """x values of points on an axis, and the label of the axis.

    `compute` counts GFLOP per image; if every point has `images_millions`, it counts EFLOP in total.

    Raises:
        UserError: the axis is unknown, or the size or objective of a point is, or several sizes fit a point.
    """
    if axis not in AXES:
        raise UserError(f"unknown axis {axis!r}; choose one of: {', '.join(AXES)}")
    if axis == "given":
        return [point.params for point in points], AXIS_LABELS[axis]
    known = known_sizes()
    each = [_value(point, axis, known) for point in points]
    if axis != "compute":
        return each, AXIS_LABELS[axis]
    if all(point.images > 0 for point in points):
        total = [flops * point.images * 1e6 / 1e18 for flops, point in zip(each, points, strict=True)]
        return total, AXIS_LABELS["total_compute"]
    return [flops / 1e9 for flops in each], AXIS_LABELS[axis]


def _value(point: Point, axis: str, known: Mapping[str, tuple[float, float]]) -> float:
    """The value of a point's size on an axis: parameters in millions, or the operations of an image.

    Raises:
        UserError: several sizes fit the point and differ on the axis.
    """
    names = sizes_of(point, known)
    if axis == "compute":
        objective = point.objective or objective_of(point.family)
        values = {name: recipe_flops(objective, name) for name in names}
    else:
        values = {name: known[name][_COUNTS.index(axis)] for name in names}
    nearest, *others = names
    if other := next((name for name in others if abs(values[name] / values[nearest] - 1) > TOLERANCE), None):
        raise UserError(f"{point.params:g} M parameters fit {nearest} and {other} ({point.series}), which differ on "
                        f"axis {axis}; add a column size to the points")  # fmt: skip
    return values[nearest]


def named_axis(points: list[Point], axis: str) -> str:
    """The axis on which named sizes can be drawn beside the points: "encoder", "published", "compute" or "".

    Numbers from the points file count as such an axis if each is within 2 % of a named size's count on that axis.
    Other numbers have no such axis (""), nor has total compute, which depends on the images seen.
    """
    if axis == "compute":
        return "" if all(point.images > 0 for point in points) else axis
    if axis != "given":
        return axis
    for place, name in enumerate(_COUNTS):
        counts = [each[place] for each in known_sizes().values()]
        if all(any(abs(point.params / count - 1) <= TOLERANCE for count in counts) for point in points):
            return name
    return ""
