"""What an image costs in each objective's recipe for a named size; `biovfm scaling` asks through the front door."""

from functools import cache

from biovfm_hf.errors import UserError

from . import objectives
from .config_file import config_from_tree, load_config, shipped_configs
from .settings.architecture import biovfm_config
from .settings.config import TrainConfig

_OF_OTHER_SIZES = "vit-large"  # its recipe is taken for sizes that have no config of their own


def counted_objectives() -> list[str]:
    """The objectives for which the size alone determines the operations of a step."""
    counted = [name for name, kind in objectives.usable(objectives.config_of).items() if kind.counted_by_size]
    return list(objectives.usable(objectives.method_of, counted))


def objective_title(objective: str) -> str:
    """An objective's name in sentences."""
    return objectives.config_of(objective).title


@cache
def recipe_flops(objective: str, size: str) -> float:
    """Operations of one image in a step, forward and backward, as a dry run of the recipe counts them.

    Args:
        objective: one of `counted_objectives`.
        size: one of `biovfm_hf.sizes.SIZES`.

    Raises:
        UserError: the operations of that objective do not follow from the size, or there is no such size.
    """
    known = counted_objectives()
    if objective not in known:
        raise UserError(f"no recipe of objective {objective!r} counts its compute by size; known are those of "
                        f"{', '.join(known)}, so choose another axis")  # fmt: skip
    config = recipe(objective, size)
    return objectives.method_of(objective).flops_per_image(config, biovfm_config(config))


def recipe(objective: str, size: str) -> TrainConfig:
    """The shipped config of the objective for this size, or for vit-large; without either, its defaults."""
    shipped = shipped_configs(objective)
    for name in (f"{objective}_{one.replace('-', '_')}" for one in (size, _OF_OTHER_SIZES)):
        if name in shipped:
            return load_config(name, {"model.size": size})
    return config_from_tree({"method": objective, "model": {"size": size}})
