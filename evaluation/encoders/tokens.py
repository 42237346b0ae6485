"""Reads the output of any vision model: its tokens or feature map, its last blocks, and its pooled output.

Models of equal blocks (ViTs of any family) are read at two places: after the last block, and after their final norm.
For other models (convolutional networks, hierarchical transformers) the output itself is used for both.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from biovfm_hf.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_PREFIX = 64  # most tokens before the patches (class token and registers); no published model has so many
LAST_BLOCKS = 4
SUMMARIES = ("class", "mean", "mean_raw", "pooled")
FEATURES = ("both", *SUMMARIES, "last4", "card")


@dataclass
class Encoded:
    """The output of an encoder for a batch of images.

    Attributes:
        tokens: (B, N, D) after the last block, class token and registers first.
        normed: (B, N, D) the same tokens after the final norm.
        grid: (h, w) of the patches, which are the last h * w tokens.
        pooled: (B, P) the model's own vector for an image, None if it has none.
        blocks: patch grids (B, h, w, D) of the requested last blocks, oldest first.
        classes: (B, D) class tokens of these blocks after the final norm (mean patch tokens if there is no class
            token).
        vector: (B, P) replaces every other vector if only the model's own vector is read.
    """

    tokens: "Tensor"
    normed: "Tensor"
    grid: tuple[int, int]
    pooled: "Tensor | None" = None
    blocks: list["Tensor"] = field(default_factory=list)
    classes: list["Tensor"] = field(default_factory=list)
    vector: "Tensor | None" = None

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return self.tokens.shape[1] - self.grid[0] * self.grid[1]

    def summary(self) -> dict[str, "Tensor"]:
        """Feature vectors (B, D): `class`, `mean` of the patch tokens, `mean_raw` (without the final norm), `pooled`.

        `class` is the normed class token, or `mean` if the model has none. `pooled` is the model's own vector, or
        `class` if it has none.
        """
        if self.vector is not None:
            return dict.fromkeys(SUMMARIES, self.vector)
        mean = self.normed[:, self.prefix :].mean(1)
        token = self.normed[:, 0] if self.prefix else mean
        return {
            "class": token,
            "mean": mean,
            "mean_raw": self.tokens[:, self.prefix :].mean(1),
            "pooled": token if self.pooled is None else self.pooled,
        }

    def patches(self) -> "Tensor":
        """Normed patch tokens as a grid, (B, h, w, D)."""
        return self.normed[:, self.prefix :].unflatten(1, self.grid)


@dataclass(frozen=True)
class Reading:
    """Facts about a module that are needed to read it.

    Attributes:
        interpolates: whether `forward` takes transformers' switch for images of another size.
        pooler: whether its pooled vector is trained.
        keeps_patches: whether it needs an argument that keeps it from masking patches, like transformers' MAE.
        before_neck: whether its feature map is that of the last block, before a neck with fewer channels (SAM).
        by_pooled: whether the model's own vector replaces all others (VGG's second hidden layer).
        grey: whether it takes one channel, the mean of an image's three.
    """

    interpolates: bool = False
    pooler: bool = True
    keeps_patches: bool = False
    before_neck: bool = False
    by_pooled: bool = False
    grey: bool = False


AS_IT_IS = Reading()
Reader = Callable[["nn.Module", "Tensor", int, Reading], Encoded]


def run(module: "nn.Module", pixel_values: "Tensor", blocks: int = 0, reading: Reading = AS_IT_IS) -> Encoded:
    """Run any supported module and read its tokens. Gradients flow, so it can be fine-tuned.

    Raises:
        UserError: the module needs more than images, refuses their size, returns something other than features, or has
            no equal blocks although `blocks` are requested.
    """
    layers = find_layers(module)
    outputs: list[Any] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(_tensor(out)))
        for layer in (layers or [])[-max(blocks, 1) :]
    ]
    try:
        answer = _forward(module, pixel_values, reading)
    except TypeError as error:
        raise UserError(
            f"{type(module).__name__} does not take images alone ({error}); it cannot be probed"
        ) from error
    except (AssertionError, ValueError) as error:  # how timm and transformers refuse a size
        height, width = pixel_values.shape[-2:]
        raise UserError(f"{type(module).__name__} refuses images of {height} x {width} pixels ({error})") from error
    finally:
        for hook in hooks:
            hook.remove()
    hidden = outputs[-1].permute(0, 3, 1, 2) if reading.before_neck else _tensor(answer)
    if isinstance(answer, list) or getattr(hidden, "ndim", 0) not in (2, 3, 4):
        raise UserError(f"{type(module).__name__} answers with {type(answer).__name__}, which is not a feature map")
    pooled = _pooled(module, answer, reading)
    if _are_blocks(hidden, outputs):
        return _encoded_blocks(module, outputs, pooled, pixel_values.shape[-2:], blocks)
    if blocks and not _is_map_of_blocks(hidden, outputs):
        raise UserError(f"{type(module).__name__} has no equal blocks; use other features, or --decoder linear")
    encoded = _encoded_answer(module, hidden, pooled, pixel_values.shape[-2:], outputs if blocks else [])
    return replace(encoded, vector=pooled) if reading.by_pooled else encoded


def _encoded_blocks(
    module: "nn.Module", outputs: list["Tensor"], pooled: "Tensor | None", size: Sequence[int], blocks: int
) -> Encoded:
    """Features of a model of equal blocks from the outputs of the blocks, (B, N, D) each."""
    norm = find_final_norm(module) or (lambda tokens: tokens)
    last = outputs[-1]
    grid = token_grid(module, last.shape[1], size)
    prefix = last.shape[1] - grid[0] * grid[1]
    encoded = Encoded(last, norm(last), grid, pooled)
    if blocks:
        encoded.blocks = [out[:, prefix:].unflatten(1, grid) for out in outputs]
        encoded.classes = [
            norm(out[:, 0] if prefix else out).reshape(len(out), -1, out.shape[2]).mean(1) for out in outputs
        ]
    return encoded


def _are_blocks(hidden: "Tensor", outputs: list[Any]) -> bool:
    """Whether the blocks output tokens (B, N, D) of one shape, which is also the model's unless that is one vector."""
    shapes = {getattr(out, "shape", None) for out in outputs}
    return len(shapes) == 1 and outputs[-1].ndim == 3 and (hidden.ndim == 2 or hidden.shape == outputs[-1].shape)


def _is_map_of_blocks(hidden: "Tensor", outputs: list[Any]) -> bool:
    """Whether the blocks output maps (B, h, w, C) with the grid of the model's output, as in SAM."""
    return (
        bool(outputs)
        and hidden.ndim == 4
        and all(getattr(out, "ndim", 0) == 4 and out.shape[1:3] == hidden.shape[2:] for out in outputs)
    )


def _encoded_answer(
    module: "nn.Module", hidden: "Tensor", pooled: "Tensor | None", size: Sequence[int], outputs: list["Tensor"]
) -> Encoded:
    """Features of a model from its output: a map (B, D, h, w), tokens (B, N, D), or one vector (B, D)."""
    if hidden.ndim == 4:
        # timm marks models whose maps have the channels last (Swin).
        last = str(getattr(module, "output_fmt", "NCHW")).endswith("NHWC")
        hidden = hidden if last else hidden.permute(0, 2, 3, 1)
        tokens, grid = hidden.flatten(1, 2), (int(hidden.shape[1]), int(hidden.shape[2]))
    elif hidden.ndim == 3:
        tokens, grid = hidden, token_grid(module, hidden.shape[1], size)
    else:
        tokens, grid = hidden[:, None], (1, 1)
    return Encoded(tokens, tokens, grid, pooled, outputs, [out.mean((1, 2)) for out in outputs])


def _tensor(output: Any) -> Any:
    """The features in the output of a module or block."""
    while isinstance(output, tuple | list) and len(output):
        output = output[0]
    return getattr(output, "last_hidden_state", output)


def _pooled(module: Any, answer: Any, reading: Reading) -> "Tensor | None":
    """The model's own vector (B, P) for an image: transformers' pooler, timm's head before the classifier, CLIP's."""
    if hasattr(module, "forward_head"):
        pooled = module.forward_head(answer, pre_logits=True)
        return pooled if pooled.ndim == 2 else None
    if getattr(answer, "ndim", 0) == 2:
        return answer
    pooled = getattr(answer, "pooler_output", None) if reading.pooler else None
    return None if pooled is None else pooled.flatten(1)


def _forward(module: "nn.Module", pixel_values: "Tensor", reading: Reading) -> Any:
    import torch

    if reading.grey and pixel_values.shape[1] > 1:
        pixel_values = pixel_values.mean(1, keepdim=True)
    if reading.keeps_patches:
        # Keep every patch in its place: the noise determines the shuffle, and the config says that nothing is masked.
        rows, columns = patch_grid(module, pixel_values.shape[-2:])
        noise = torch.arange(float(rows * columns), device=pixel_values.device).expand(len(pixel_values), -1)
        return module(pixel_values, noise=noise, interpolate_pos_encoding=True)
    if reading.interpolates:
        return module(pixel_values, interpolate_pos_encoding=True)
    return getattr(module, "forward_features", module)(pixel_values)


Compiled = list[tuple["nn.Module", str, Callable]]  # part of a module, name of a method, compiled method


def compile_blocks(module: "nn.Module") -> Compiled:
    """Compile the transformer blocks of a module with `torch.compile`, or the whole module if there are none.

    Blocks are alike, so compiling one serves all, in a fraction of the time that the whole module takes. What is read
    between blocks (see `run`) stays outside. Other batch sizes are compiled anew. The module itself is not changed.
    """
    import torch

    name = "forward_features" if hasattr(module, "forward_features") else "forward"
    parts = [(layer, "forward") for layer in find_layers(module) or []] or [(module, name)]
    return [(part, method, torch.compile(getattr(part, method), dynamic=False)) for part, method in parts]


@contextmanager
def running(compiled: Compiled) -> Iterator[None]:
    """Run the parts of a module compiled for a while; copies of the module (for training, say) never run compiled."""
    for part, name, method in compiled:
        setattr(part, name, method)
    try:
        yield
    finally:
        for part, name, _ in compiled:
            delattr(part, name)


def find_layers(module: "nn.Module") -> "list[nn.Module] | None":
    """The transformer blocks of a module: its longest list of equal attention-like layers, None if there is none."""
    from torch import nn

    best: list[nn.Module] | None = None
    for item in module.modules():
        if isinstance(item, nn.ModuleList | nn.Sequential) and len(item) > (len(best) if best else 0):
            kinds = {type(child) for child in item}
            names = " ".join(name.lower() for name, _ in item[0].named_modules())
            if len(kinds) == 1 and ("attn" in names or "attention" in names):
                best = list(item)
    return best


def find_final_norm(module: "nn.Module") -> "nn.Module | None":
    """The final norm of a token model."""
    from torch import nn

    for name in ("post_layernorm", "ln_post", "layernorm", "layer_norm", "norm", "fc_norm"):
        for holder in (module, getattr(module, "trunk", None), getattr(module, "vision_model", None)):
            norm = getattr(holder, name, None)
            if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
                return norm
    return None


def patch_grid(module: "nn.Module", size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of patches of an image of `size` (H, W), from the module's first convolution."""
    from torch import nn

    first = next(item for item in module.modules() if isinstance(item, nn.Conv2d))
    height, width = (step if isinstance(step, int) else int(step) for step in first.stride)
    return int(size[0]) // height, int(size[1]) // width


def token_grid(module: "nn.Module", count: int, size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the patches among `count` tokens of an image of `size` (H, W).

    The first convolution gives the grid if it leaves a plausible number of tokens before the patches. In hierarchical
    models later layers merge patches; then it is the largest grid with the image's proportions.

    Raises:
        UserError: no grid fits.
    """
    rows, columns = patch_grid(module, size)
    if 0 <= count - rows * columns <= MAX_PREFIX:
        return rows, columns
    for rows in range(int((count * size[0] / size[1]) ** 0.5 + 1e-6), 0, -1):
        columns, rest = divmod(rows * int(size[1]), int(size[0]))
        if rest == 0 and 0 <= count - rows * columns <= MAX_PREFIX:
            return rows, columns
    raise UserError(
        f"{type(module).__name__} gives {count} tokens for {size[0]} x {size[1]} pixels, which form no patch grid"
    )
