"""The `biovfm` command: a table of sub-commands, each loaded only when it is used."""

import os
import select
import sys
from collections.abc import Sequence

from .errors import UserError, one_line
from .rooms import load_room_module, packages_named

_READER_LEFT = 141  # the status that a shell gives to a program that SIGPIPE ended

# command: (module below, what it does). Each module has `main(argv) -> int` with a parser of its own.
COMMANDS = {
    "quickstart": ("biovfm_hf.quickstart.command", "run the whole pipeline on real images, on a CPU, in minutes"),
    "sources": ("dataset_builder.sources_command", "list, show, check and download the 61 public sources"),
    "build": ("dataset_builder.build", "turn raw sources into a screened Parquet dataset"),
    "pretrain": ("training.command", "pretrain a vision transformer on unlabelled images, in one process"),
    "convert": (
        "biovfm_hf.conversion.command",
        "read DINOv2, DINOv3, MAE, timm or transformers weights, and write them back",
    ),
    "embed": ("evaluation.commands.embed", "turn images into a Parquet file of feature vectors"),
    "curate": ("evaluation.analysis.curation.command", "choose images to pretrain on, balanced or like your own"),
    "search": ("evaluation.commands.search", "find the images most like an example, with a contact sheet"),
    "probe": ("evaluation.commands.probe", "score encoders on benchmark tasks, with intervals"),
    "score": ("evaluation.commands.score", "metrics and intervals for scores that you already have"),
    "analyse": ("evaluation.analysis.layers.command", "what each layer of a model holds, and how alike models are"),
    "scaling": ("evaluation.analysis.scaling.command", "slopes, correlations and figures of a scaling study"),
    "reproduce": (
        "evaluation.reproduce.command",
        "the two papers' tables and figures, beside the printed numbers",
    ),
    "report": ("model_cards.report.command", "one HTML page of data, training and results"),
    "leaderboard": ("model_cards.leaderboard.command", "a page of models by tasks with real ranks; export a Space"),
    "card": ("model_cards.card.command", "write the model card from what actually happened"),
    "push": ("model_cards.hub.command", "send a model or dataset folder to the Hub"),
    "demo": ("model_cards.demo.command", "try a model on images in the browser; export a Space"),
}


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
            "On several GPUs, pretraining is started by accelerate; biovfm pretrain --help explains how.",
            "",
            "biovfm COMMAND --help has the details. Start with: biovfm quickstart",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command. Returns the exit status: 0 done, 1 failed, 2 wrong arguments, 141 closed output."""
    try:
        status = _caught(list(sys.argv[1:] if argv is None else argv))
    finally:  # also after argparse's SystemExit: Python would complain of a reader that left
        is_read = _flush_output()
    return status if is_read else _READER_LEFT


def _caught(arguments: list[str]) -> int:
    """Run the command. A failure is printed as one line on stderr."""
    try:
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            return _READER_LEFT
        print(f"error: {_system_failure(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and the same command continues", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
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
    if not sys.stderr.isatty():  # no progress bars of libraries in a log; they read this on import
        for library in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    with packages_named(COMMANDS[command][0]):
        return load_room_module(COMMANDS[command][0]).main(rest)


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head`."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(state & select.POLLERR for _, state in output.poll(0))


def _flush_output() -> bool:
    """Write out what was printed. Returns False if nobody reads it any more; later output then goes nowhere."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _system_failure(error: OSError | MemoryError) -> str:
    """The operating system's error in words, with the file and the remedy."""
    from .writing.files import is_disk_full  # imported here, so that --help stays fast

    if isinstance(error, MemoryError):
        return "too little memory; close other programs, or use fewer workers or a smaller batch size"
    full = is_disk_full(error)
    name = error.filename2 if full and error.filename2 else error.filename  # when copying, the file being written
    remedy = "make room, and run the same command again" if full else "check it, then try again"
    return f"{name}: " * bool(name) + f"{error.strerror or one_line(error)}; {remedy}"


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
