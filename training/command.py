"""Pretraining as a Python function, as the `biovfm pretrain` command, and as scripts for several processes.

Heavy imports come after the options are parsed, so that `--help` is fast.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import fill
from typing import Any

from biovfm_hf.environment import prepare_libraries
from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, argument, check_options, option

from . import objectives
from .config_file import find_config, load_config, parse_overrides, shipped_configs
from .run.checks import check_run
from .settings.config import TrainConfig
from .settings.typed import flat, plain

_DESCRIPTION = """Pretrain a BioVFM vision transformer {title}on unlabelled images.

Killed or stopped, the same command continues where it was. OUT receives config.yaml, metrics.jsonl, crops.png (what
the model sees), checkpoints/ and, at the end, model/, which AutoModel.from_pretrained loads.
Any config key can be changed, as key=value or --key value; --dry-run shows them all."""

_EPILOG = """examples:
  # a smoke run on a laptop: a folder of PNG or JPEG files is enough
  {alone} {small} --data my_images --out run
  # what would it take? parameters, memory and compute, without data, launcher or training
  {alone} {large} --dry-run
  # one machine with 8 GPUs, on the CT and MR images of a dataset made by `biovfm build`
  accelerate launch --config_file {launch} {several} {large} \\
    --data biovfm --out run --data.modality '[CT, MR]' --optim.base_lr 0.002
"""
_OF_ANY = "\nbiovfm pretrain CONFIG --help shows the settings that belong to the config's objective."


@dataclass(frozen=True)
class PretrainOptions:
    """Options of one run, checked on construction: a config that does not exist is refused before anything is read."""

    config: str = argument("YAML file, or the name of a shipped one, such as dino_smoke")
    data: str | None = option(None, "dataset folder, Hub id, or images in a folder", metavar="DIR_OR_REPO")
    out: Path | None = option(None, "run folder; the same command continues in it", metavar="DIR")
    overrides: tuple[str, ...] = option((), "config keys to change, each as key=value")
    push_to_hub: str | None = option(
        None, "send exports to this Hub repository (new ones are private) while training", metavar="REPO"
    )
    dry_run: bool = option(False, "print the resolved config and estimates; train nothing")

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            UserError: no such config, or no folder to train in.
        """
        check_options(self)
        find_config(self.config)
        if self.out is None and not self.dry_run:
            raise OptionError("out", "is missing; name the run folder, or only look with a dry run")

    def resolved(self, method: str = "") -> TrainConfig:
        """The run's whole configuration.

        Raises:
            UserError: an unknown key, a wrong value, or a config of another objective than `method`.
        """
        given = {"data.path": self.data, "run.push_to_hub": self.push_to_hub}
        changed = parse_overrides(self.overrides) | {key: value for key, value in given.items() if value}
        return load_config(self.config, changed, method, begins=not self.dry_run)


def pretrain(
    config: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    push_to_hub: str | None = None,
    dry_run: bool = False,
) -> Path | str:
    """Pretrain in this process, or continue; the keywords are the fields of `PretrainOptions`.

    Args:
        config: YAML file, or the name of a shipped one, such as `dino_smoke`.
        data: dataset folder, Hub id, or images in a folder.
        out: run folder; called again with the same options it continues there.
        overrides: config keys to change, as `{"steps": 100}` or `["steps=100"]`.
        push_to_hub: repository that receives each export during training.
        dry_run: only return the resolved configuration and estimates.

    Returns:
        The folder of the exported model, which `AutoModel.from_pretrained` loads; for a dry run the text.

    Raises:
        UserError: something the user can correct; nothing was trained, or the message names the last good checkpoint.
    """
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    folder = None if out is None else Path(out)
    path = None if data is None else str(data)
    return run(PretrainOptions(str(config), path, folder, tuple(overrides), push_to_hub, dry_run))


def run(options: PretrainOptions, method: str = "") -> Path | str:
    """Run with these options; see `pretrain`. The config must be of the objective `method`, if given."""
    config = options.resolved(method)
    if options.dry_run:
        config.check_weights()
        from .estimate import describe

        return describe(config, objectives.method_of(config.method))
    assert options.out is not None
    images = check_run(config, options.out)
    from .loop import train

    train(config, objectives.method_of(config.method), options.out, images)
    return options.out / "model"


def main(argv: Sequence[str] | None = None) -> int:
    """`biovfm pretrain CONFIG --data DIR_OR_REPO --out DIR [key=value ...]`. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _command_parser(_config_in_question(arguments))
    parser.add_argument("config", metavar="CONFIG", help=f"YAML file, or a shipped one of {_listed('')}")
    return _run_command(parser, arguments, "")


def run_script(method: str, argv: Sequence[str] | None = None) -> int:
    """`accelerate launch pretrain_METHOD.py --config CONFIG ...`: one of any number of processes."""
    package = str(__package__)
    script = f"-m {package}.pretrain_{method}" if "." in package else f"training/pretrain_{method}.py"
    examples = _examples(f"python {script} --config", f"{script} --config", method)
    parser = _parser(f"pretrain_{method}.py", _title(method), examples)
    parser.add_argument("--config", required=True, help=f"YAML file, or a shipped one of {_listed(method)}")
    prepare_libraries()
    return _run_command(parser, argv, method)


def _config_in_question(arguments: Sequence[str]) -> str:
    """The config whose help is asked for, as in `biovfm pretrain mae_smoke --help`; "" if there is none."""
    rest = [word for word in arguments if word not in ("-h", "--help")]
    if len(rest) == len(arguments):
        return ""
    parser = _parser("biovfm pretrain", "", "")
    parser.add_argument("config", nargs="?", default="")
    return str(parser.parse_known_args(rest)[0].config)


def _command_parser(name: str) -> CommandParser:
    """The parser of `biovfm pretrain`, whose help is about the config `name`, or about all."""
    several = "-m biovfm_hf.cli pretrain"
    try:
        config = load_config(name) if name else None
    except UserError:  # reported when it is to run
        config = None
    if config is None:
        return _parser("biovfm pretrain", "", _examples("biovfm pretrain", several, "dino"), _OF_ANY)
    examples = _examples("biovfm pretrain", several, config.method, name)
    return _parser("biovfm pretrain", _title(config.method), examples, _own_settings(config, name))


def _parser(prog: str, title: str, examples: str, further: str = "") -> CommandParser:
    """A parser without the config, which is positional in the command and --config in the scripts."""
    description = _DESCRIPTION.format(title=title) + further
    parser = CommandParser(prog=prog, description=description, epilog=examples, allow_abbrev=False)
    for field in fields(PretrainOptions):
        if field.name in ("data", "out", "push_to_hub"):
            flag, metadata = "--" + field.name.replace("_", "-"), field.metadata
            parser.add_argument(flag, metavar=metadata["metavar"], help=metadata["help"])
        elif field.name == "dry_run":
            parser.add_argument("--dry-run", action="store_true", help=field.metadata["help"])
    return parser


def _title(method: str) -> str:
    return f"with the {objectives.config_of(method).title} objective, "


def _listed(method: str) -> str:
    return ", ".join(shipped_configs(method))


def _own_settings(config: TrainConfig, name: str) -> str:
    """The keys of the objective's own sections, with their values in the config `name`."""
    shared = [item.name for item in fields(TrainConfig)]
    own = {section: values for section, values in plain(config).items() if section not in shared}
    pairs = [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in flat(own).items()]
    lines = fill(" ".join(pairs), 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return f"\n\nSettings of this objective only, as {name} has them:\n{lines}" if pairs else ""


def _examples(alone: str, several: str, method: str, name: str = "") -> str:
    """Examples with the config `name`, by default with ViT-L's or, if the objective ships none, with its smoke run.

    Args:
        alone: the words that start one process.
        several: the words after `accelerate launch`.
        method: the objective.
        name: a config of it, which must be given if it ships none.
    """
    folder, shipped = Path(__file__).parent, shipped_configs(method)
    small = f"{method}_smoke" if f"{method}_smoke" in shipped else name
    large = name or (f"{method}_vit_large" if f"{method}_vit_large" in shipped else small)
    launch = folder / "launch" / "ddp_8gpu.yaml" if "." in str(__package__) else "training/launch/ddp_8gpu.yaml"
    return _EPILOG.format(alone=alone, several=several, small=small, large=large, launch=launch)


def _run_command(parser: CommandParser, argv: Sequence[str] | None, method: str) -> int:
    """Parse the arguments, train, and turn failures into one line: 0 done, 1 failed, 2 wrong arguments."""
    known, rest = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # it logs each retry twice; a failure is reported once, after the last one
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    try:
        options = PretrainOptions(**vars(known), overrides=tuple(_joined(rest)))
        options.resolved(method)
    except UserError as error:
        _tell(f"error: {error}")
        return 2
    if options.dry_run and int(os.environ.get("RANK", "0")) > 0:
        return 0  # the first process reports it
    try:
        result = run(options, method)
    except UserError as error:
        _tell(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _tell("stopped; the same command continues from the last checkpoint")
        return 1
    if options.dry_run:
        print(result)
    return 0


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """`["--steps", "10", "a=1"]` as `["steps=10", "a=1"]`."""
    rest = iter(arguments)
    for word in rest:
        if word.startswith("--") and "=" not in word:
            value = next(rest, None)
            if value is None:
                raise UserError(f"cannot read {word!r}; change config keys as key=value or --key value")
            word = f"{word}={value}"
        yield word


def _tell(text: str) -> None:
    """Print the message once per machine, and pass it to torchrun (or accelerate launch), which repeats it last."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        sys.stderr.write(text + "\n")
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:  # the form in which torch.distributed.elastic's error handler leaves an exception
        message = {"message": text, "extraInfo": {"timestamp": int(time.time())}}
        Path(report).write_text(json.dumps({"message": message}), encoding="utf-8")
