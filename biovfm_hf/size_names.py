"""Names a model's size by its dimensions, whatever the model is called."""

from collections.abc import Mapping
from typing import Any

from .sizes import SIZES


def named_size(config: Mapping[str, Any]) -> str | None:
    """The named size (`BioVFMConfig.from_size`) with the width, blocks and heads of a config.json, or None."""
    sizes = tuple(config.get(name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    names = [name for name, size in SIZES.items() if size[:3] == sizes]
    # of sizes of equal width and depth, the one with this feed-forward, its width and these patches, else the first
    further = ("ffn_type", "mlp_ratio", "patch_size")
    likeness = {name: [getattr(SIZES[name], each) == config.get(each) for each in further] for name in names}
    return max(names, key=lambda name: likeness[name], default=None)


def size_name(config: Mapping[str, Any]) -> str | None:
    """`ViT-Small/16` and the like, if the config.json has a named size."""
    name = named_size(config)
    if name is None:
        return None
    title = "ViT-" + name.removeprefix("vit-").title().replace("-Plus", "+")
    return f"{title}/{config['patch_size']}" if config.get("patch_size") else title


def size_words(config: Mapping[str, Any]) -> str:
    """The name of the size, or else its width and blocks: `ViT of width 64 with 4 blocks`.

    A folder of timm names its network.
    """
    if config.get("architecture"):
        return f"{config['architecture']} of timm"
    width, blocks = config.get("hidden_size"), config.get("num_hidden_layers")
    if name := size_name(config):
        return name
    return f"ViT of width {width} with {blocks} blocks" if width and blocks else "ViT"
