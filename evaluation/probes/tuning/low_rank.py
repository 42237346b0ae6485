"""Low-rank updates of an encoder's linear layers: their settings, and those of the radiology study."""

from typing import NamedTuple


class LowRank(NamedTuple):
    """Low-rank updates (LoRA, Hu et al. 2022).

    Attributes:
        rank: rank of the updates.
        alpha: the updates are scaled by alpha / rank.
        dropout: dropout rate on their inputs.
        targets: the layers that get an update (see `weights.find_targets`).
        biases: whether the biases of these layers are trained too.
    """

    rank: int
    alpha: float
    targets: str
    dropout: float = 0.1
    biases: bool = False


TARGETS = ("attention", "qkv", "mlp", "all")
PRESETS = {
    "own": LowRank(16, 16, "attention"),
    # arXiv 2312.02366, Table 9, has 8 million weights on ViT-g. The study's code has rank 48, that is 11.8 million;
    # rank 32 on queries, keys and values with biases gives 8.05 million. Alpha and dropout are those of its code.
    "radiology": LowRank(32, 16, "qkv", biases=True),
}
