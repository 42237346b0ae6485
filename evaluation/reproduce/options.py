"""The options of `biovfm reproduce`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.flops import PEAK_FLOPS
from biovfm_hf.options import argument, check_options, option
from biovfm_hf.reading.documents import as_number, parse_yaml

from ..encoders.device import DEVICE_HELP, PRECISION_HELP, PRECISIONS, device_word
from ..encoders.own_code import TRUST_HELP
from ..tasks.medmnist import SIZES
from .recipe import resolve_items

WHAT, RUNNING = "what to make", "running"


@dataclass(frozen=True)
class ReproduceOptions:
    """Options of `biovfm reproduce`, keywords of `biovfm_hf.reproduce`. Wrong values raise UserError."""

    items: tuple[str, ...] = argument(
        "names of tables and figures (radiology-table3), a paper's (biovfm, radiology), or all", metavar="ITEM"
    )
    data: Path = option(
        Path(), "folder with the papers' sets, in the layout of their sources", metavar="DIR", group=WHAT
    )
    out: Path | None = option(None, "folder for all records, with a folder for each item", metavar="DIR", group=WHAT)
    model: tuple[str, ...] = option(
        (), "weights for a model of the recipes, such as BioVFM=runs/huge/model; replaces the weights it would load; "
            "can be repeated", metavar="NAME=MODEL", group=WHAT,
    )  # fmt: skip
    dataset: Path | None = option(
        None, "dataset folder of biovfm build, for the figure that describes the dataset", metavar="DIR", group=WHAT
    )
    setting: tuple[str, ...] = option(
        (), "another value for a setting of the methods, such as epochs=10; the table states it", metavar="KEY=VALUE",
        group=WHAT,
    )  # fmt: skip
    dry_run: bool = option(False, "print what the items need, and stop", group=WHAT)
    gpu: str = option("A100", "GPU for which the hours are estimated", choices=tuple(PEAK_FLOPS), group=WHAT)
    seed: tuple[int, ...] = option(
        (0,), "random seeds; several are averaged (default: 0)", metavar="N,...", commas=True, least=0,
        group=RUNNING,
    )  # fmt: skip
    size: int | None = option(None, "size of MedMNIST's images (default: the paper's)", choices=SIZES, group=RUNNING)
    download: bool = option(False, "download missing MedMNIST sets to --data", group=RUNNING)
    resamples: int = option(1000, "bootstrap resamples; tests of many differences use more", least=1, group=RUNNING)
    batch_size: int = option(64, "images per batch", least=1, group=RUNNING)
    device: str | None = option(None, DEVICE_HELP, read=device_word, group=RUNNING)
    precision: str | None = option(None, PRECISION_HELP, choices=PRECISIONS, group=RUNNING)
    cache: Path | None = option(None, "folder for cached features (default: OUT/cache)", metavar="DIR", group=RUNNING)
    trust_remote_code: str | None = option(None, TRUST_HELP, metavar="REVISION", group=RUNNING)

    def __post_init__(self) -> None:
        check_options(self)
        resolve_items(self.items)
        if self.out is None and not self.dry_run:
            raise OptionError("out", "is missing; name the results folder, or only look with a dry run")
        for name, entries, example in (("model", self.model, "BioVFM=folder"), ("setting", self.setting, "epochs=10")):
            if wrong := [word for word in entries if not all(word.partition("="))]:
                raise UserError(f"{name}: {wrong[0]!r} is not a pair; give it as {example}")

    @property
    def folder(self) -> Path:
        """The results folder."""
        assert self.out is not None
        return self.out

    @property
    def features_folder(self) -> Path:
        """The folder for cached features."""
        return self.cache or self.folder / "cache"

    @property
    def sources(self) -> dict[str, str]:
        """{name in the recipes: the user's weights}."""
        return {name: source for name, _, source in (word.partition("=") for word in self.model)}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that override the recipes'."""
        pairs = (word.split("=", 1) for word in self.setting)
        return {name.replace("-", "_"): as_number(parse_yaml(value, f"setting {name}")) for name, value in pairs}
