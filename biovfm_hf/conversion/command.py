"""The `biovfm convert` command."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError
from ..options import CommandParser, argument, check_options, option, parse_options, required
from ..writing.files import check_writable
from .read import ConvertedEncoder, read_encoder
from .write import write_biovfm, write_timm, write_transformers

FORMATS = ("biovfm", "dinov2", "dinov2_with_registers", "vit_mae", "timm", "dinov3")


@dataclass(frozen=True)
class ConvertOptions:
    """Which weights are read, and what is written."""

    source: str = argument("weight file, model folder or Hub repo id")
    to: Path = required("folder to write; must not exist", metavar="DIR")
    format: str = option("biovfm", "what to write", choices=FORMATS)
    num_heads: int | None = option(None, "number of attention heads, if a bare weight file does not state it", least=1)
    decoder_heads: int | None = option(
        None, "number of heads of MAE's decoder, if its file does not state it", least=1
    )

    def __post_init__(self) -> None:
        check_options(self)


def convert(options: ConvertOptions) -> ConvertedEncoder:
    """Read the weights of `options.source` and write them to `options.to`; see `read_encoder` and the writers.

    Returns:
        The encoder that was read. Its `left_out` also names tensors that the format has no place for; its `notes`
        state what was assumed, and where the format computes something else.

    Raises:
        UserError: the folder exists, the source cannot be read whole, or the format cannot hold it.
    """
    source, folder, target = options.source, options.to, options.format
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; name a new folder")
    check_writable(folder, folder=True)
    encoder = read_encoder(source, options.num_heads, options.decoder_heads)
    if encoder.config.num_channels != 3:
        raise UserError(f"{source}: takes {encoder.config.num_channels} channels; the image processors give 3")
    if target == "biovfm":
        write_biovfm(encoder, folder)
        return encoder
    dropped = write_timm(encoder, folder) if target == "timm" else write_transformers(encoder, folder, target)
    return replace(
        encoder, left_out=encoder.left_out + dropped, notes=(*encoder.notes, *_differences(encoder, target))
    )


def main(argv: Sequence[str]) -> int:
    """The `biovfm convert` command."""
    parser = CommandParser(
        prog="biovfm convert",
        description="Read DINOv2, DINOv3, MAE, timm or transformers weights into a BioVFM model folder, or write a "
        "BioVFM model for people who install nothing of ours. Every tensor must fit; whatever is left out is named.",
        epilog="examples:\n"
        "  biovfm convert dinov2_vitl14_pretrain.pth --to models/dinov2-large\n"
        "  biovfm convert facebook/dinov2-base --to models/dinov2-base\n"
        "  biovfm convert dinov3_vitb16_pretrain_lvd1689m.pth --to models/dinov3-base\n"
        "  biovfm convert models/mine --to models/mine-dinov2 --format dinov2",
    )
    options = parse_options(parser, ConvertOptions, argv)
    encoder = convert(options)
    config = encoder.config
    parameters = sum(tensor.numel() for tensor in encoder.tensors.values())
    print(
        f"{options.source}: ViT, {parameters / 1e6:.1f}M parameters, {config.num_hidden_layers} blocks of width "
        f"{config.hidden_size}, patch {config.patch_size}, {config.num_register_tokens} registers"
    )
    if encoder.left_out:
        print(f"left out: {', '.join(encoder.left_out)}")
    for note in encoder.notes:
        print(f"note: {note}")
    print(f"wrote {options.to}")
    return 0


def _differences(encoder: ConvertedEncoder, target: str) -> list[str]:
    """How the target's computation differs from this model's."""
    config, notes = encoder.config, []
    if target == "dinov3":
        if config.rope_dtype != "float32":
            notes.append("transformers turns queries and keys in float32; here it is bfloat16, about 1e-3 apart")
        return notes
    antialias = target == "timm" or (target.startswith("dinov2") and config.num_register_tokens > 0)
    if config.interpolate_offset or config.interpolate_antialias != antialias:
        notes.append(
            f"{target} resizes position embeddings differently (interpolate_offset {config.interpolate_offset}, "
            f"interpolate_antialias {config.interpolate_antialias} here); features differ slightly at sizes other "
            f"than {config.image_size}"
        )
    if target == "vit_mae" and not encoder.has_decoder:
        notes.append("ViTMAEModel shuffles the patches; give noise=torch.arange(N)[None] to keep their order")
    return notes
