"""The options of `biovfm card`."""

from dataclasses import dataclass
from pathlib import Path

from biovfm_hf.errors import OptionError
from biovfm_hf.hub.names import check_hub_names
from biovfm_hf.options import argument, check_options, option


@dataclass(frozen=True)
class CardOptions:
    """Options of a model card. The card states facts that are not given as not recorded."""

    model_dir: Path = argument("folder with config.json and model.safetensors", metavar="MODEL_DIR")
    results: Path | None = option(None, "folder with results.json (biovfm probe --out)", metavar="DIR")
    run: Path | None = option(None, "folder of the training run (config.yaml, metrics.jsonl)", metavar="RUN_DIR")
    dataset: Path | None = option(None, "dataset folder it was trained on", metavar="DATASET_DIR")
    repo_id: str | None = option(None, "the model's name on the Hub, for title and usage lines", metavar="OWNER/NAME")
    dataset_id: tuple[str, ...] = option((), "training dataset on the Hub; can be repeated", metavar="OWNER/NAME")
    known_as: str | None = option(None, "the model's name in the results, if not its folder", metavar="NAME")
    teacher: str | None = option(
        None,
        "teacher of a distilled model, as biovfm probe --model took it: adds what was lost against it in these "
        "results, and the speed of both on this CPU",
        metavar="[NAME=]MODEL",
    )
    benchmark: str | None = option(
        None, "also write .eval_results for this leaderboard on the Hub", metavar="OWNER/NAME"
    )
    license: str | None = option(
        None, "licence id (default: the old card's, else that of base model and data, if they agree)", metavar="ID"
    )
    base_model: tuple[str, ...] = option(
        (),
        "the name on the Hub of a model it was made from, if that was a folder; NAME as the card has it, by default "
        "the first; can be repeated",
        metavar="[NAME=]OWNER/NAME",
    )
    private_images: bool = option(False, "show test images of private tasks too (default: leave them out)")
    watts: float | None = option(
        None, "mean power draw of all devices in watts, for the energy estimate", above=0, metavar="W"
    )
    grid: float | None = option(None, "grams of CO2e per kWh, for the emissions estimate", above=0, metavar="G")

    def __post_init__(self) -> None:
        check_options(self)
        for name, needed in (("benchmark", "results"), ("watts", "run"), ("grid", "watts")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise OptionError(name, f"has no effect without {needed}; give both")
        bases = [word.rpartition("=")[2] for word in self.base_model]
        check_hub_names([name for name in [self.repo_id, *bases, *self.dataset_id] if name])
        check_hub_names([self.benchmark] if self.benchmark else [], owner=True)
