"""The `biovfm` command: a table of sub-commands, each loaded only when it is used."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from .errors import UserError

# command: (module below, what it does). Each module has `main(argv) -> int` with a parser of its own.
COMMANDS = {
    "quickstart": ("biovfm_hf.quickstart.command", "run the whole pipeline on real images, on a CPU, in minutes"),
    "sources": ("dataset_builder.sources_command", "list, show, check and download the 61 public sources"),
    "build": ("dataset_builder.build", "turn raw sources into a screened Parquet dataset"),
    "pretrain": ("training.command", "pretrain a vision transformer on unlabelled images, in one process"),
    "convert": ("biovfm_hf.conversion.command", "read DINOv2, MAE, timm or transformers weights, and write them back"),
    "embed": ("evaluation.commands.embed", "turn images into a Parquet file of feature vectors"),
    "search": ("evaluation.commands.search", "find the images most like an example, with a contact sheet"),
    "probe": ("evaluation.commands.probe", "score encoders on benchmark tasks, with intervals"),
    "score": ("evaluation.commands.score", "metrics and intervals for scores that you already have"),
    "scaling": ("evaluation.scaling.command", "slopes, correlations and figures of a scaling study"),
    "report": ("model_cards.report.command", "one HTML page of data, training and results"),
    "card": ("model_cards.card.command", "write the model card from what actually happened"),
    "push": ("model_cards.hub.command", "send a model or dataset folder to the Hub"),
    "demo": ("model_cards.demo.command", "try a model on images in the browser; export a Space"),
}

# the extra of pyproject.toml with which each folder's commands work
EXTRAS = {
    "biovfm_hf": "demo",
    "dataset_builder": "data",
    "training": "train",
    "evaluation": "eval",
    "model_cards": "cards",
}


def load_room_module(name: str) -> ModuleType:
    """Import `room.module` from the checkout beside this package, or from where a wheel carries it.

    In a checkout (bare or editable) the rooms are folders beside `biovfm_hf`; a wheel carries them inside it.

    Raises:
        UserError: this installation has no such room.
    """
    room = name.split(".")[0]
    package = Path(__file__).resolve().parent
    if room == package.name:
        return importlib.import_module(name)
    if (package / room).is_dir():
        return importlib.import_module(f"{package.name}.{name}")
    if (package.parent / room / "__init__.py").is_file():
        if str(package.parent) not in sys.path:
            sys.path.insert(0, str(package.parent))
        return importlib.import_module(name)
    raise UserError(f"this installation carries no {room}/; run from a checkout: pip install -e '.[demo]'")


def usage() -> str:
    """The help text: one line per command."""
    lines = [f"  {name:<11} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: biovfm COMMAND [options]",
            "",
            "Biomedical vision foundation models: build the data, pretrain, probe, publish.",
            "",
            "commands:",
            *lines,
            "",
            "On several GPUs, pretraining is started by accelerate; biovfm pretrain --help tells how.",
            "",
            "biovfm COMMAND --help tells the rest. Start with: biovfm quickstart",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command. Returns the exit status: 0 done, 1 the work failed, 2 the words were wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"biovfm-hf {_version()}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(_unknown(command), file=sys.stderr)
        return 2
    try:
        return load_room_module(COMMANDS[command][0]).main(rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package, room = (error.name or "").split(".")[0], COMMANDS[command][0].split(".")[0]
        if not package or package in {*sys.stdlib_module_names, *EXTRAS}:
            raise  # not a package that could be installed: a fault of ours
        remedy = f"pip install 'biovfm-hf[{EXTRAS[room]}]'"
        print(f"error: {package} is not installed; get it with: {remedy}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and the same command continues", file=sys.stderr)
        return 1


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("biovfm-hf")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"


def _unknown(command: str) -> str:
    from .nearest import did_you_mean

    return f"error: biovfm has no command {command!r}{did_you_mean(command, COMMANDS)}"


if __name__ == "__main__":
    sys.exit(main())
