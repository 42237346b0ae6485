"""The picture of patch tokens by their principal components, as figure 2 of the radiology study."""

from biovfm_hf.errors import UserError

from ..encoders.device import default_device
from ..encoders.load import load_encoder
from ..pictures.encoders import draw_patch_colours
from ..pictures.figure import figure_path
from .bench import Bench
from .numbers import Outcome
from .recipe import Recipe


def produce(recipe: Recipe, bench: Bench) -> Outcome:
    """Draw a picture of each model on each task to figures/ in the item's folder; existing pictures are kept."""
    folder, missing, made = bench.out / recipe.name, [], 0
    options = bench.options
    for name in recipe.models:
        try:
            device = options.device or default_device()
            encoder = load_encoder(
                bench.model(name, recipe), device, precision=options.precision,
                trust_remote_code=options.trust_remote_code,
            )  # fmt: skip
        except UserError as error:
            missing.append(f"{name}: {error}")
            continue
        for task in recipe.tasks:
            try:
                opened = bench.task(task, recipe)
                if not figure_path(folder, "pca", encoder.name, task).is_file():
                    draw_patch_colours(folder, encoder, opened)
                made += 1
            except UserError as error:
                missing.append(str(error))
    return Outcome(recipe.name, folder, made, len(recipe.models) * len(recipe.tasks), missing)
