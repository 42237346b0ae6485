"""Graphs for other runtimes: recorded at one size, compared at sizes that they have not seen."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from biovfm_hf import (
    BioVFMBackbone,
    BioVFMConfig,
    BioVFMForImageClassification,
    BioVFMForMaskedAutoencoding,
    BioVFMForMaskedImageModeling,
    BioVFMForSemanticSegmentation,
    BioVFMModel,
)
from biovfm_hf.positions import resize_position_embeddings

SMALL = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
RECORDED = (2, 3, 32, 32)
UNSEEN = [(5, 3, 32, 32), (1, 3, 48, 64), (3, 3, 16, 16)]
# torch.export takes at least two patches a side: its graph of a convolution does not have a side of one
ONE_PATCH = [(2, 3, 8, 8), (1, 3, 24, 8)]

MODELS: dict[str, tuple[type, dict]] = {
    "encoder": (BioVFMModel, {"num_hidden_layers": 2}),
    "as DINOv2 trains": (BioVFMModel, {"interpolate_offset": 0.1, "use_mask_token": True}),
    "registers": (BioVFMModel, {"num_register_tokens": 2, "interpolate_antialias": True, "ffn_type": "swiglu"}),
    "backbone": (BioVFMBackbone, {"out_indices": [1, 2], "num_hidden_layers": 2}),
    "classifier": (BioVFMForImageClassification, {"num_labels": 3}),
    "segmentation": (BioVFMForSemanticSegmentation, {"num_labels": 3}),
    "U-Net": (BioVFMForSemanticSegmentation, {"num_labels": 3, "segmentation_head": "unet", "num_hidden_layers": 4}),
    "masked image modelling": (BioVFMForMaskedImageModeling, {}),
    "rotary": (BioVFMModel, {"position_embedding_type": "rope", "num_register_tokens": 2, "mask_key_bias": True}),
}


def scrambled(kind: str) -> nn.Module:
    """A model in which every tensor affects the result."""
    model_class, fields = MODELS[kind]
    model = model_class(BioVFMConfig(**{**SMALL, **fields})).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def tensors(output: object) -> list[Tensor]:
    values = output.values() if hasattr(output, "values") else output
    return [tensor for value in values for tensor in (value if isinstance(value, tuple | list) else [value])]


def torch_export(model: nn.Module, folder: Path) -> Callable[[Tensor], list[Tensor]]:
    sizes = {0: Dim("batch", min=1, max=64), 2: 8 * Dim("rows", min=1, max=64), 3: 8 * Dim("columns", min=1, max=64)}
    program = torch.export.export(
        model, (), {"pixel_values": torch.randn(RECORDED)}, dynamic_shapes={"pixel_values": sizes}
    )
    graph = program.module()
    return lambda pixels: tensors(graph(pixel_values=pixels))


def jit_trace(model: nn.Module, folder: Path) -> Callable[[Tensor], list[Tensor]]:
    traced = torch.jit.trace(model, torch.randn(RECORDED), strict=False)
    return lambda pixels: tensors(traced(pixels))


def onnx(model: nn.Module, folder: Path, **options: object) -> Callable[[Tensor], list[Tensor]]:
    file = str(folder / "model.onnx")
    example = (torch.randn(RECORDED),)
    torch.onnx.export(model, example, file, input_names=["pixel_values"], verbose=False, **options)
    session = onnxruntime.InferenceSession(file)
    return lambda pixels: [torch.from_numpy(array) for array in session.run(None, {"pixel_values": pixels.numpy()})]


def onnx_from_trace(model: nn.Module, folder: Path) -> Callable[[Tensor], list[Tensor]]:
    axes = {0: "batch", 2: "height", 3: "width"}
    return onnx(model, folder, dynamo=False, dynamic_axes={"pixel_values": axes})


def onnx_from_export(model: nn.Module, folder: Path) -> Callable[[Tensor], list[Tensor]]:
    sizes = dict.fromkeys((0, 2, 3), Dim.DYNAMIC)
    return onnx(model, folder, dynamo=True, dynamic_shapes={"pixel_values": sizes})


QUICK = [(kind, export) for kind in MODELS for export in (torch_export, jit_trace, onnx_from_trace)]
# the exporter itself takes 6 s and more
OF_SECONDS = [
    pytest.param(kind, onnx_from_export, marks=pytest.mark.slow) for kind in MODELS if kind != "as DINOv2 trains"
]


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize(("kind", "export"), [*QUICK, ("as DINOv2 trains", onnx_from_export), *OF_SECONDS])
def test_exported_graphs_take_sizes_they_have_not_seen(kind: str, export: Callable, tmp_path: Path) -> None:
    model = scrambled(kind)
    graph = export(model, tmp_path)
    for shape in UNSEEN + ONE_PATCH * (export in (jit_trace, onnx_from_trace)):
        assert_agrees(graph, model, shape)


def assert_agrees(graph: Callable, model: nn.Module, shape: tuple[int, ...]) -> None:
    pixels = torch.randn(shape)
    with torch.no_grad():
        expected = tensors(model(pixels))
    for tensor, right in zip(graph(pixels), expected, strict=True):
        torch.testing.assert_close(tensor, right, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("export", [onnx_from_trace, pytest.param(onnx_from_export, marks=pytest.mark.slow)])
def test_rotations_in_bfloat16_reach_onnx_in_float32(export: Callable, tmp_path: Path) -> None:
    """onnxruntime has no sines of bfloat16, so a graph answers as the same weights do with `rope_dtype` float32."""
    model = scrambled("rotary")
    assert model.config.rope_dtype == "float32"
    model.config.rope_dtype = "bfloat16"
    graph = export(model, tmp_path)
    pixels = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        rounded = model(pixels).last_hidden_state
    assert (graph(pixels)[0] - rounded).abs().max() > 1e-5
    model.config.rope_dtype = "float32"
    assert_agrees(graph, model, (1, 3, 48, 64))


def test_an_image_of_one_patch_exports_at_its_own_size() -> None:
    model = scrambled("encoder")
    program = torch.export.export(model, (), {"pixel_values": torch.randn(2, 3, 8, 8)})
    assert_agrees(lambda pixels: tensors(program.module()(pixel_values=pixels)), model, (2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore")
def test_the_autoencoder_takes_other_batches() -> None:
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
    model = BioVFMForMaskedAutoencoding(BioVFMConfig(**SMALL, **decoder)).eval()
    batch = Dim("batch", min=1, max=64)
    program = torch.export.export(
        model,
        (),
        {"pixel_values": torch.randn(RECORDED), "noise": torch.rand(2, 16)},
        dynamic_shapes={"pixel_values": {0: batch}, "noise": {0: batch}},
    )
    pixels, noise = torch.randn(5, 3, 32, 32), torch.rand(5, 16)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pixel_values=pixels, noise=noise).loss, model(pixels, noise).loss)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(4, 4), (9, 6), (37, 37), (1, 3), (13, 8)])
def test_positions_are_resized_as_torch_resizes_images(grid: tuple[int, int], antialias: bool, offset: float) -> None:
    """transformers' Dinov2 gives the size (offset 0), DINOv2's own code the scale (offset 0.1)."""
    torch.manual_seed(0)
    side, width = 14, 12
    table = torch.randn(1, 1 + side * side, width, dtype=torch.float32)
    picture = table[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    scale = tuple((count + offset) / side for count in grid)
    how = {"scale_factor": scale} if offset else {"size": grid}
    expected = nn.functional.interpolate(picture, mode="bicubic", antialias=antialias, **how)
    found = resize_position_embeddings(table, grid, offset, antialias)
    torch.testing.assert_close(found[0, 1:], expected[0].flatten(1).T, atol=2e-5, rtol=0)
    torch.testing.assert_close(found[0, 0], table[0, 0])


def test_positions_keep_their_precision_under_autocast() -> None:
    table = torch.randn(1, 197, 8)
    expected = resize_position_embeddings(table, (9, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_position_embeddings(table, (9, 6)), expected)
