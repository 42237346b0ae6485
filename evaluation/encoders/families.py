"""The families of encoders, each with its prefix and what loads it. To add one, add its entry at the end."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from biovfm_hf.errors import UserError
from biovfm_hf.hub.network import is_path
from biovfm_hf.nearest import did_you_mean, nearest

from .encoder import Encoder
from .lineup import SHORT_NAMES
from .projects import OFA, XRV, check_ofa, is_ofa, load_ofa, load_torch_file, load_xrv
from .published import TORCH_FILES, TorchFile, check_torch_file
from .segmentation_networks import (
    SCRATCH,
    TRANSUNET,
    check_pretrained,
    check_untrained,
    load_pretrained,
    load_untrained,
)  # fmt: skip
from .timm_models import load_open_clip, load_timm, timm_licences
from .transformers_models import load_transformers


@dataclass(frozen=True)
class Family:
    """One way to load encoders: by names that begin with `prefix`, which `load` takes whole.

    `rest` is what follows the prefix, as help texts and messages say it: words in capitals stand for yours.
    `load` gives an `Encoder` with its preprocessing, its `read` and what that must know (`reading`), on the CPU.
    `needs` states what must be there: `weights`, which are downloaded if they are not on disk, a `file` on disk, or
    `nothing`. `hub_owner` owns the repositories whose names have no owner. `recognises` states which names without the
    prefix are the family's too, and `runs_code` whether `load` also takes the revision of a model's own code.
    `licences` states which licences (`biovfm_hf.cards.provenance.WEIGHT_LICENCES`) bind what is made from the weights
    that the family knows by this name. `check` refuses names that cannot be loaded, as far as that is known without
    torch. `has_features` states whether its models are encoders, or networks that are trained in an encoder's place.
    """

    name: str
    prefix: str
    rest: str
    load: Callable[..., Encoder]
    needs: Literal["weights", "file", "nothing"] = "weights"
    hub_owner: str = ""
    recognises: Callable[[str], bool] = lambda source: False
    runs_code: bool = False
    licences: Callable[[str], tuple[str, ...]] = lambda source: ()
    check: Callable[[str], None] = lambda source: None
    has_features: bool = True

    @property
    def form(self) -> str:
        """The form of the names that it takes."""
        return self.prefix + self.rest


FAMILIES: dict[str, Family] = {}
_SCHEME = re.compile(r"^(hf[-_]hub|local-dir):")  # of timm's names


def register_family(family: Family) -> None:
    """Make a family known.

    Raises:
        ValueError: another has its name or its prefix.
    """
    if any(family.name == other.name or family.prefix == other.prefix for other in FAMILIES.values()):
        raise ValueError(f"there is a family {family.name} or one of the prefix {family.prefix!r} already")
    FAMILIES[family.name] = family


def name_forms() -> str:
    """The forms of the names of encoders, besides short names."""
    return ", ".join(family.form for family in FAMILIES.values())


def find_family(source: str) -> Family:
    """The family with the longest prefix of a name, or that recognises it; transformers takes what no other does.

    Raises:
        UserError: the name has a prefix (`WORD:`) of no family.
    """
    word, colon, _ = source.partition(":")
    prefixes = [family.prefix for family in FAMILIES.values() if family.prefix]
    if colon and f"{word}:" not in prefixes and re.fullmatch(r"[\w-]{2,}", word) and not Path(source).exists():
        raise UserError(f"model {source!r}: no family has the prefix {word}:{did_you_mean(f'{word}:', prefixes)}")
    fitting = [f for f in FAMILIES.values() if source.startswith(f.prefix) or f.recognises(source)]
    return max(fitting, key=lambda family: len(family.prefix))


def place_of(source: str) -> str:
    """The folder, file, repository or model that a name tells its family, without prefixes and keywords."""
    return _SCHEME.sub("", source.removeprefix(find_family(source).prefix).partition("?")[0])


def check_unprefixed(source: str) -> None:
    """Refuse what is neither a model folder nor has the form of a repository.

    Raises:
        UserError: it lists the other forms of names.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise UserError(f"model {source!r} cannot be loaded: it is a file; give its folder, or a family's prefix")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"model {source!r} cannot be loaded: no config.json there; check the folder")
    if not path.is_dir() and (is_path(source) or "/" not in source):
        raise UserError(
            f"model {source!r}: no such folder; give {name_forms()}, or a short name: {', '.join(SHORT_NAMES)}"
            f"{nearest(source, SHORT_NAMES)}"
        )


def load_unprefixed(source: str, trust_remote_code: str | None = None) -> Encoder:
    """A model of transformers by its folder or repository.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    check_unprefixed(source)
    return load_transformers(source, trust_remote_code)


def _licences_of(entry: TorchFile, source: str) -> tuple[str, ...]:
    return entry.binding


for _family in (
    Family(
        "transformers", "", "a model folder, a Hub repository", load_unprefixed, runs_code=True, check=check_unprefixed
    ),
    Family("timm", "timm:", "NAME|FOLDER", load_timm, hub_owner="timm", licences=timm_licences),
    Family("open_clip", "open_clip:", "hf-hub:REPO", load_open_clip),
    Family("open_clip of the Hub", "hf-hub:", "REPO", load_open_clip),
    Family("torchxrayvision", XRV, "NAME", load_xrv),
    *(
        Family(
            *(name, f"{name}:", "FILE|REPO", load_torch_file),
            licences=partial(_licences_of, entry),
            check=check_torch_file,
        )
        for name, entry in TORCH_FILES.items()
    ),
    Family("OFA", OFA, "FOLDER|REPO|FILE", load_ofa, recognises=is_ofa, check=check_ofa),
    Family(
        *("trained from scratch", SCRATCH, "unet|transunet (segmentation)", load_untrained),
        needs="nothing",
        check=check_untrained,
        has_features=False,
    ),
    Family(
        *("TransUNet with pretrained weights", TRANSUNET, "FILE.npz (segmentation)", load_pretrained),
        needs="file",
        check=check_pretrained,
        has_features=False,
    ),
):
    register_family(_family)
