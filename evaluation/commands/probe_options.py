"""The options of `biovfm probe`: its own, those of CSV lists, and the settings of every method."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path

from biovfm_hf.errors import OptionError
from biovfm_hf.options import check_options, option, required

from ..encoders.device import COMPILE_HELP, DEVICE_HELP, PRECISION_HELP, PRECISIONS, device_word
from ..encoders.families import name_forms
from ..encoders.own_code import TRUST_HELP
from ..encoders.pooling import POOL_HELP, POOLS
from ..probes.probe import ALL_PROTOCOLS, Probe, find_probes
from ..tasks.corruptions.benchmark import benchmarks
from ..tasks.listing import Listing
from ..tasks.medmnist import SIZES
from .settings import SETTINGS, method_options

WHAT, HOW, RUNNING = "what to score", "how", "running"


@dataclass(frozen=True)
class RunOptions:
    """Options of `biovfm probe` besides the methods' own settings, which `options_class` adds."""

    model: tuple[str, ...] = required(
        f"a short name (--list-encoders), {name_forms()}; can be repeated",
        metavar="[NAME=]MODEL",
        group=WHAT,
    )
    tasks: tuple[str, ...] = required(
        "task names, medmnist, medmnist3d, radiology, or paths", metavar="NAME,...", commas=True, group=WHAT
    )
    out: Path = required("results folder", metavar="DIR", group=WHAT)
    data: Path = option(Path(), "folder with the named sets", metavar="DIR", group=WHAT)
    size: int | None = option(None, "MedMNIST size (default: the largest available)", choices=SIZES, group=WHAT)
    download: bool = option(False, "download missing MedMNIST sets to --data", group=WHAT)
    method: tuple[str, ...] = option(
        ("linear",), "methods (default: linear); --help lists them below", metavar="NAME,...", commas=True,
        group=HOW,
    )  # fmt: skip
    protocol: str = option(
        "fast",
        "biovfm: as the authors probe, threshold and resample; fast: logistic regression on standardised features, "
        "subjects are resampled; radiology: linear, segment and fewshot as the study arXiv 2312.02366 trains them",
        choices=ALL_PROTOCOLS,
        group=HOW,
    )
    seed: tuple[int, ...] = option(
        (0,),
        "random seed; several run one after the other and are reported as one result with the seeds' share "
        "in its uncertainty (default: 0)",
        metavar="N,...",
        commas=True,
        least=0,
        group=HOW,
    )
    pool: str = option(
        "mean", f"{POOL_HELP}; attention over slices is learned: --method mil", choices=tuple(POOLS), group=HOW
    )
    batch_size: int = option(64, "images per batch", least=1, group=RUNNING)
    device: str | None = option(None, DEVICE_HELP, read=device_word, group=RUNNING)
    precision: str | None = option(None, PRECISION_HELP, choices=PRECISIONS, group=RUNNING)
    compile: bool = option(False, COMPILE_HELP, group=RUNNING)
    cache: Path | None = option(None, "folder for cached features (default: OUT/cache)", metavar="DIR", group=RUNNING)
    resamples: int = option(1000, "bootstrap resamples; comparisons on many tasks use more", least=1, group=RUNNING)
    stratify: bool = option(
        False,
        "keep the test split's class counts in every resample, for rare classes; intervals then hold for these counts "
        "(protocol fast; not for fewshot and segment)",
        group=RUNNING,
    )
    by: tuple[str, ...] = option(
        (), "also gaps between groups of test cases, such as sex,age,site: columns of a CSV list, or of a task's "
        "source", metavar="COLUMN,...", commas=True, group=RUNNING,
    )  # fmt: skip
    corrupt: bool = option(
        False,
        "also errors on corrupted test images: MedMNIST-C's corruptions at five severities (probes of frozen "
        "features; each corruption and severity embeds the test images once more)",
        group=HOW,
    )
    corruptions: str | None = option(
        None, "with --corrupt, the set of corruptions for tasks outside MedMNIST-C", choices=tuple(benchmarks()),
        metavar="SET", group=HOW,
    )  # fmt: skip
    save_masks: str | None = option(
        None,
        "segmentation: write every predicted mask to OUT/masks/ as nifti (volumes only), png, or auto, which is NIfTI "
        "for volumes and PNG for images; fewshot writes one folder per draw",
        choices=("auto", "nifti", "png"),
        group=RUNNING,
    )
    no_figures: bool = option(False, "draw no pictures, and remove those of earlier scores", group=RUNNING)
    trust_remote_code: str | None = option(None, TRUST_HELP, metavar="REVISION", group=RUNNING)

    def __post_init__(self) -> None:
        check_options(self)
        probes = [probe for name in self.method for probe in find_probes(name, self.protocol)]
        if self.stratify and self.protocol == "biovfm":
            raise OptionError("stratify", "needs protocol fast; protocol biovfm resamples as its authors did")
        if self.stratify and not any(probe.stratifies for probe in probes):
            raise OptionError("stratify", f"has no effect on {', '.join(self.method)}")
        if self.corrupt and not any(probe.corrupts for probe in probes):
            raise OptionError(
                "corrupt", f"has no effect on {', '.join(self.method)}; it is for probes of frozen features"
            )
        if self.corruptions and not self.corrupt:
            raise OptionError("corruptions", "has no effect without corrupt")
        if self.out.exists() and not self.out.is_dir():
            raise OptionError("out", f"{self.out} is a file; give a folder")
        _refuse_idle_settings(self, probes)

    @property
    def features_folder(self) -> Path:
        """The folder for cached features."""
        return self.cache or self.out / "cache"


def _refuse_idle_settings(options: RunOptions, probes: Sequence[type[Probe]]) -> None:
    """Raise a UserError for a setting that none of the chosen methods has."""
    known = {item.name for probe in probes for item in fields(probe) if item.init}
    for item in fields(options):
        value = getattr(options, item.name)
        given = value is not None and value is not False  # a switch that is off is False
        if given and item.metadata.get("group") == SETTINGS and item.name not in known:
            methods = ", ".join(options.method)
            raise OptionError(item.name, f"has no effect on {methods} under protocol {options.protocol}")


def options_class() -> type[RunOptions]:
    """`RunOptions` plus the options of CSV lists and every setting that a registered method declares.

    A setting that is not given is None. A setting that several methods share is one option. A setting with `commas`
    takes several values, each with runs of its own.

    Raises:
        UserError: a method's setting has a name that means something else already.
    """
    own_names = {item.name for base in (Listing, RunOptions) for item in fields(base)}
    return make_dataclass("ProbeOptions", method_options(own_names), bases=(Listing, RunOptions), frozen=True)
