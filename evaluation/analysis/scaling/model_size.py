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


def size_of(point: Point, known: Mapping[str, tuple[float, float]]) -> str:
    """The named size of a point: its `size`, or the one whose parameter count is within 2 % of the point's.

    Raises:
        UserError: no named size fits.
    """
    if point.size:
        if point.size not in known:
            raise UserError(f"unknown size {point.size!r}; known are: {', '.join(known)}")
        return point.size
    for name, counts in known.items():
        if any(abs(point.params / count - 1) <= TOLERANCE for count in counts):
            return name
    raise UserError(f"{point.params:g} M parameters are no named size ({point.series}); add a column size to the "
                    f"points, with one of: {', '.join(known)}")  # fmt: skip


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
        UserError: the axis is unknown, or the size or objective of a point is.
    """
    if axis not in AXES:
        raise UserError(f"unknown axis {axis!r}; choose one of: {', '.join(AXES)}")
    if axis == "given":
        return [point.params for point in points], AXIS_LABELS[axis]
    known = known_sizes()
    names = [size_of(point, known) for point in points]
    if axis == "encoder":
        return [known[name][0] for name in names], AXIS_LABELS[axis]
    if axis == "published":
        return [known[name][1] for name in names], AXIS_LABELS[axis]
    each = [recipe_flops(p.objective or objective_of(p.family), n) for n, p in zip(names, points, strict=True)]
    if all(point.images > 0 for point in points):
        total = [flops * point.images * 1e6 / 1e18 for flops, point in zip(each, points, strict=True)]
        return total, AXIS_LABELS["total_compute"]
    return [flops / 1e9 for flops in each], AXIS_LABELS[axis]


def named_axis(points: list[Point], axis: str) -> str:
    """The axis on which named sizes can be drawn beside the points: "encoder", "published", "compute" or "".

    Numbers from the points file count as such an axis if each is within 2 % of a named size's count on that axis.
    Other numbers have no such axis (""), nor has total compute, which depends on the images seen.
    """
    if axis == "compute":
        return "" if all(point.images > 0 for point in points) else axis
    if axis != "given":
        return axis
    for place, name in enumerate(("encoder", PAPER_AXIS)):
        counts = [each[place] for each in known_sizes().values()]
        if all(any(abs(point.params / count - 1) <= TOLERANCE for count in counts) for point in points):
            return name
    return ""
