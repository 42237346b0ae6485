"""The command line shared by the two entry scripts. Heavy imports wait until the words have been understood."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biovfm_hf.errors import UserError

if TYPE_CHECKING:
    from .method import Method

_DESCRIPTION = """Pretrain a BioVFM vision transformer with the {title} objective, on unlabelled images.

Run it with `accelerate launch` (any number of processes) or plain python (one process). Killed or stopped, the same
command continues where it was. OUT receives config.yaml, metrics.jsonl, crops.png (what the model sees), checkpoints/
and, at the end, model/, which AutoModel.from_pretrained loads."""

_EPILOG = """Any config key can be changed on the command line, as key=value or --key value; --dry-run shows them all.

examples:
  # a smoke run on a laptop: a folder of PNG or JPEG files is enough
  python training/pretrain_{method}.py --config {method}_smoke --data my_images --out run
  # what would it take? parameters, memory and compute, without data, launcher or training
  python training/pretrain_{method}.py --config {method}_vit_large --dry-run
  # one machine with 8 GPUs, on the CT and MR images of a dataset made by `biovfm build`
  accelerate launch --config_file training/launch/ddp_8gpu.yaml training/pretrain_{method}.py \\
    --config {method}_vit_large --data biovfm --out run --data.modality '[CT, MR]' --optim.base_lr 0.002
"""
_TITLES = {"dino": "DINOv2", "mae": "MAE"}


def run(method: str, load_method: Callable[[], "Method"], argv: Sequence[str] | None = None) -> int:
    """Parse the words, train, and turn failures into one line. Returns the exit status: 0, 1 failed, 2 wrong words."""
    words, rest = _parse(method, sys.argv[1:] if argv is None else list(argv))
    main_process = int(os.environ.get("RANK", "0")) == 0
    if words.dry_run and not main_process:
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # it logs each retry, twice; a failure is told once, when the last one has failed
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    try:
        from .config_file import load_config, parse_overrides

        given = {"data.path": words.data, "run.push_to_hub": words.push_to_hub}
        overrides = parse_overrides(rest) | {key: value for key, value in given.items() if value}
        config = load_config(method, words.config, overrides)
        if words.dry_run:
            from .estimate import describe

            print(describe(config, load_method()))
            return 0
        from .loop import train

        train(config, load_method(), words.out)
        return 0
    except UserError as error:
        _tell(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _tell("stopped; the same command continues from the last checkpoint")
        return 1


def _parse(method: str, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The words that are ours, and those that change config keys."""
    parser = argparse.ArgumentParser(
        prog=f"pretrain_{method}.py",
        description=_DESCRIPTION.format(title=_TITLES[method]),
        epilog=_EPILOG.format(method=method),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    shipped = sorted(path.stem for path in (Path(__file__).parent / "configs").glob(f"{method}_*.yaml"))
    parser.add_argument("--config", required=True, help=f"YAML file, or a shipped one of {', '.join(shipped)}")
    parser.add_argument("--data", help="dataset folder, Hub id, or folder of images (config key data.path)")
    parser.add_argument("--out", type=Path, help="run folder")
    parser.add_argument(
        "--push-to-hub",
        metavar="REPO",
        help="send exports to this Hub repository (new ones are private) while training",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and estimates; train nothing"
    )
    words, rest = parser.parse_known_args(argv)
    if words.out is None and not words.dry_run:
        parser.error("the following arguments are required: --out")
    return words, rest


def _tell(text: str) -> None:
    """Say it once on each machine, and to torchrun (or accelerate launch), whose own last words then repeat it."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        sys.stderr.write(text + "\n")
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:  # the form in which torch.distributed.elastic's error handler leaves an exception
        message = {"message": text, "extraInfo": {"timestamp": int(time.time())}}
        Path(report).write_text(json.dumps({"message": message}), encoding="utf-8")
