"""Distil a frozen teacher: `accelerate launch training/pretrain_distill.py --config C --data D --out O`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(next(folder for folder in Path(__file__).resolve().parents if (folder / "biovfm_hf").is_dir()))
    from biovfm_hf.rooms import load_room_module

    sys.exit(load_room_module("training.command").run_script("distill"))
