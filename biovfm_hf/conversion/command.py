"""The `biovfm convert` command."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UserError
from .read import Encoder, read_encoder
from .write import write_biovfm, write_timm, write_transformers

FORMATS = ("biovfm", "dinov2", "vit_mae", "timm")


def convert(source: str, folder: Path, target: str = "biovfm", num_heads: int | None = None) -> Encoder:
    """Read `source` and write it to `folder` as `target`; see `read_encoder` and the writers for what is refused.

    Returns:
        What was read; its `left_out` also names what the target had no place for.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; name a new folder")
    encoder = read_encoder(source, num_heads)
    if encoder.config.num_channels != 3:
        raise UserError(f"{source}: takes {encoder.config.num_channels} channels; the image processors give 3")
    if target == "biovfm":
        write_biovfm(encoder, folder)
        return encoder
    dropped = write_timm(encoder, folder) if target == "timm" else write_transformers(encoder, folder, target)
    return replace(encoder, left_out=encoder.left_out + dropped)


def main(argv: Sequence[str]) -> int:
    """The `biovfm convert` command."""
    parser = argparse.ArgumentParser(
        prog="biovfm convert",
        description="Read DINOv2, MAE, timm or transformers weights into a BioVFM model folder, or write a BioVFM "
        "model for people who install nothing of ours. Every tensor must fit; whatever is left out is named.",
        epilog="examples:\n"
        "  biovfm convert dinov2_vitl14_pretrain.pth --to models/dinov2-large\n"
        "  biovfm convert facebook/dinov2-base --to models/dinov2-base\n"
        "  biovfm convert models/mine --to models/mine-dinov2 --format dinov2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="weight file, model folder or Hub repo id")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--format", choices=FORMATS, default="biovfm", help="what to write (default: biovfm)")
    parser.add_argument("--num-heads", type=int, help="attention heads, where a bare weight file does not tell")
    arguments = parser.parse_args(argv)
    encoder = convert(arguments.source, arguments.to, arguments.format, arguments.num_heads)
    config = encoder.config
    parameters = sum(tensor.numel() for tensor in encoder.tensors.values())
    print(
        f"{arguments.source}: ViT, {parameters / 1e6:.1f}M parameters, {config.num_hidden_layers} blocks of width "
        f"{config.hidden_size}, patch {config.patch_size}, {config.num_register_tokens} registers"
    )
    if encoder.left_out:
        print(f"left out: {', '.join(encoder.left_out)}")
    for note in _notes(encoder, arguments.format):
        print(f"note: {note}")
    print(f"wrote {arguments.to}")
    return 0


def _notes(encoder: Encoder, target: str) -> list[str]:
    """Where the target computes something else than this model."""
    config = encoder.config
    if target == "biovfm":
        return []
    notes = []
    antialias = target == "timm" or (target == "dinov2" and config.num_register_tokens > 0)
    if config.interpolate_offset or config.interpolate_antialias != antialias:
        notes.append(
            f"{target} resizes position embeddings otherwise (interpolate_offset {config.interpolate_offset}, "
            f"interpolate_antialias {config.interpolate_antialias} here); features differ slightly at sizes other "
            f"than {config.image_size}"
        )
    if target == "vit_mae" and not encoder.has_decoder:
        notes.append("ViTMAEModel shuffles the patches; give noise=torch.arange(N)[None] to keep their order")
    return notes
