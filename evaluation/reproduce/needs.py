"""Reports what items need before anything runs: sets, weights, and hours on a named GPU."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from biovfm_hf.errors import UserError
from biovfm_hf.flops import PEAK_FLOPS, Architecture
from biovfm_hf.reading.documents import read_json
from biovfm_hf.results.published import cells as printed_cells
from biovfm_hf.results.published import rows as published_rows

from ..analysis.scaling.model_size import size_names
from ..encoders.families import find_family
from ..encoders.lineup import LINEUP
from ..encoders.load import on_disk
from ..tasks import Task, read_records
from .bench import BASELINES, Bench, probes_of
from .recipe import Cell, Recipe

UTILISATION = 0.3  # share of the peak, over encoders and decoders; reading images is not counted
DECODER_EPOCHS, TUNING_EPOCHS = 30, 20
SHARES = (0.7, 0.1, 0.2)  # of train, validation and test, for sets whose splits are unknown
OWN_PIXELS = 224
# GFLOP per image forward by torch.utils.flop_counter: of networks at 224 pixels, and of a decoder on 16 x 16 tokens of
# width 1,024. They grow with the number of pixels; the decoder's also with the square of the width.
SCRATCH_GFLOPS = {"unet": 73.8, "transunet": 146.4}
DECODER_GFLOPS = 36.5


class Need(NamedTuple):
    """A set or weights: the name, the `state` (one of three), and where it comes from or why it is missing."""

    name: str
    state: Literal["there", "download", "missing"]
    about: str


class RecipeNeeds(NamedTuple):
    """All that items need. `hours` excludes what is `uncounted`, which is of unknown size."""

    tasks: list[Need]
    models: list[Need]
    hours: float
    uncounted: list[str]


def find_needs(recipes: Iterable[Recipe], bench: Bench) -> RecipeNeeds:
    """The needs of recipes; each set and model is listed once."""
    recipes = list(recipes)
    tasks = {(name, bench.options.size or recipe.size): recipe for recipe in recipes for name in recipe.tasks}
    models = {name: recipe for recipe in recipes for name in recipe.models}
    work: dict[tuple, float | None] = {}
    for recipe in recipes:
        for cell in recipe.cells.values():
            work |= cell_work(cell, recipe, bench)
    known = [flops for flops in work.values() if flops is not None]
    uncounted = [f"{key[1]} on {key[2]}" for key, flops in work.items() if flops is None]
    hours = sum(known) / (PEAK_FLOPS[bench.options.gpu] * UTILISATION) / 3600
    return RecipeNeeds(
        [task_need(name, recipe, bench) for (name, _), recipe in tasks.items()],
        [model_need(name, recipe, bench) for name, recipe in models.items()],
        hours,
        list(dict.fromkeys(uncounted)),
    )


def task_need(name: str, recipe: Recipe, bench: Bench) -> Need:
    """The need of a set: whether it opens, and where it comes from."""
    record = read_records()[name]
    try:
        task = bench.task(name, recipe)
    except UserError as error:
        return Need(name, "missing", f"{str(error).removeprefix(f'task {name}: ')} ({record.title}; {record.licence})")
    counts = ", ".join(f"{split.num_cases:,} {part}" for part, split in task.splits.items())
    return Need(name, "there", f"{counts} ({record.title}; {record.licence})")


def model_need(name: str, recipe: Recipe, bench: Bench) -> Need:
    """The need of a model: whether its weights are on this machine, and where they come from."""
    try:
        source = bench.model(name, recipe).partition("=")[2] or name
    except UserError as error:
        return Need(name, "missing", str(error))
    entry = LINEUP.get(source)
    if entry is None:
        family = find_family(source)
        about = family.name if family.needs == "nothing" else source
        return Need(name, "there" if on_disk(source) else "missing", about)
    size = f"{entry.parameters:,g} million parameters, about {4 * entry.parameters / 1000:.1f} GB in float32"
    access = f"; {entry.access}" if entry.access else ""
    state: Literal["there", "download"] = "there" if on_disk(entry.source) else "download"
    return Need(name, state, f"{entry.source}; {size}; {entry.licence}{access}")


def cell_work(cell: Cell, recipe: Recipe, bench: Bench) -> dict[tuple, float | None]:
    """Floating-point operations of a cell, by the work that it shares with other cells; None if unknown.

    Features are computed once for all methods that read them.
    """
    settings = {**cell.settings, **bench.options.settings}
    gflops = model_gflops(cell.model, recipe, bench)
    trained = any(probe.trains_encoder for probe in probes_of(cell))
    work: dict[tuple, float | None] = {}
    for task in cell.tasks:
        counts = image_counts(task, recipe, bench)
        pixels = (settings.get("image_size") or OWN_PIXELS) / OWN_PIXELS if cell.model in BASELINES else 1.0
        if trained:
            key: tuple = ("tune", cell.model, task, cell.method)
            per_image = _tuning(counts, settings)
        elif cell.model in BASELINES:
            key, per_image = ("train", cell.model, task), _tuning(counts, settings, DECODER_EPOCHS, pixels**2)
        else:
            views = int(settings.get("views", 0))
            key = ("embed", cell.model, task, cell.protocol, settings.get("image_size"), views)
            per_image = counts and sum(counts) + views * counts[0]
        work[key] = None if gflops is None or per_image is None else 1e9 * gflops * per_image
        if settings.get("decoder") == "unet" and cell.model not in BASELINES:
            epochs = _tuning(
                counts, settings, DECODER_EPOCHS, ((settings.get("image_size") or OWN_PIXELS) / OWN_PIXELS) ** 2
            )
            width = LINEUP[cell.model].width / 1024 if cell.model in LINEUP else 1.0
            decoding = None if epochs is None else 1e9 * DECODER_GFLOPS * width**2 * epochs
            work["decode", cell.model, task, settings.get("image_size"), settings.get("shots")] = decoding
    return work


def _tuning(
    counts: tuple[float, float, float] | None, settings: dict, epochs: int = TUNING_EPOCHS, pixels: float = 1.0
) -> float | None:
    """Number of forward passes in training: a step costs three, and every epoch is scored on validation."""
    if counts is None:
        return None
    return pixels * (int(settings.get("epochs") or epochs) * (3 * counts[0] + counts[1]) + counts[2])


def image_counts(name: str, recipe: Recipe, bench: Bench) -> tuple[float, float, float] | None:
    """Images for training, validation and test: from the set if it is present, else as many as its papers state."""
    try:
        return _counted(bench.task(name, recipe))
    except UserError:
        total = _published_images().get(name)
        return None if total is None else (SHARES[0] * total, SHARES[1] * total, SHARES[2] * total)


def _counted(task: Task) -> tuple[float, float, float]:
    train, val, test = (float(len(task.splits[name].images)) for name in ("train", "val", "test"))
    return train, val, test


def _published_images() -> dict[str, float]:
    """Number of images of the named sets; for volumes, the number of slices."""
    totals = {row["task"]: float(row["num_samples"]) for row in published_rows("properties")}
    printed = printed_cells("radiology-table1")
    for name, column in printed:
        if column == "Images or volumes" and name != "sars_cov2_ct":  # its 210 volumes have unknown lengths
            totals[name] = printed.get((name, "Slices"), printed[name, column]).value
    return totals


def model_gflops(name: str, recipe: Recipe, bench: Bench) -> float | None:
    """GFLOP per image forward at the model's own size; None if unknown."""
    if name in BASELINES:
        return SCRATCH_GFLOPS[name]
    source = bench.options.sources.get(name) or recipe.sources.get(name) or name
    if source in LINEUP:
        return LINEUP[source].gflops
    config = Path(source).expanduser() / "config.json"
    try:
        return Architecture.of(read_json(config)).forward_flops() / 1e9
    except UserError:
        return named_gflops(recipe.forms.get(name, name))


def named_gflops(name: str) -> float | None:
    """GFLOP per image for the named size at the end of a model's name; None if there is no such size."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    size = next((size for size in size_names() if name.endswith(size)), None)
    return None if size is None else Architecture.of(BioVFMConfig.from_size(size)).forward_flops() / 1e9
