"""Parameter counts of the line-up against networks built on the meta device, and the radiology study's numbers."""

import pytest
import torch
import transformers

from biovfm_hf.results.published import cells
from evaluation.encoders.lineup import LINEUP

timm = pytest.importorskip("timm")
# width, depth, heads and hidden width of the vision transformers
FORMS = {"s": (384, 12, 6, 1536), "b": (768, 12, 12, 3072), "l": (1024, 24, 16, 4096), "h": (1280, 32, 16, 5120),
         "g": (1536, 40, 24, 6144)}  # fmt: skip
SAM = {"b": (768, 12, 12, 3072, [2, 5, 8, 11]), "l": (1024, 24, 16, 4096, [5, 11, 17, 23]),
       "h": (1280, 32, 16, 5120, [7, 15, 23, 31])}  # fmt: skip


def sizes(size):
    width, depth, heads, hidden = FORMS[size]
    return dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=hidden)


def sam(size):
    width, depth, heads, hidden, attend = SAM[size]
    return transformers.SamVisionConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                                        mlp_dim=hidden, global_attn_indexes=attend)  # fmt: skip


def dinov2(size, **more):
    return transformers.Dinov2Model(
        transformers.Dinov2Config(**sizes(size), image_size=518, patch_size=14, use_swiglu_ffn=size == "g", **more)
    )


def network(name):
    """The network of a short name, without the parts that are not read."""
    t, (family, _, size) = transformers, name.rpartition("-")
    build = {
        "in21k-vit": lambda: t.ViTModel(t.ViTConfig(**sizes(size)), add_pooling_layer=False),
        "dinov2": lambda: dinov2(size),
        "mae": lambda: t.ViTMAEModel(t.ViTMAEConfig(**sizes(size), patch_size=14 if size == "h" else 16)),
        "msn": lambda: t.ViTMSNModel(t.ViTMSNConfig(**sizes(size))),
        "clip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**sizes(size), patch_size=14 if size == "l" else 16)),
        "openclip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**sizes(size), patch_size=14)),
        "sam": lambda: t.models.sam.modeling_sam.SamVisionEncoder(sam(size)),
    }
    alone = {
        "rad-dino": lambda: dinov2("b"),
        "biomedclip": lambda: timm.create_model("vit_base_patch16_224", num_classes=0),
        "curia": lambda: t.Dinov2Model(t.Dinov2Config(**sizes("b"), image_size=512, patch_size=16, num_channels=1)),
        "medsiglip": lambda: t.SiglipVisionModel(
            t.SiglipVisionConfig(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16,
                                 intermediate_size=4304, image_size=448, patch_size=14)
        ),
        "pubmedclip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**sizes("b"), patch_size=32)),
        "meddinov3": lambda: timm.create_model("vit_base_patch16_dinov3", num_classes=0),
        "medimageinsight": lambda: timm.create_model("davit_huge_fl", num_classes=1024),
        **{n: lambda n=n: timm.create_model(n, num_classes=0) for n in ("densenet201", "resnet152", "vgg19")},
    }  # fmt: skip
    with torch.device("meta"):
        return (alone.get(name) or build[family])()


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


ELSEWHERE = ("dinov3-", "uni", "virchow", "xrv-", "biomedgpt", "curia-2")  # tested with their tokens


@pytest.mark.parametrize("name", [name for name in LINEUP if not name.startswith(ELSEWHERE)])
def test_the_line_up_states_its_networks_parameters_to_one_percent(name):
    transformers.AutoModel  # noqa: B018  (loads the Auto classes before a model's own module)
    assert millions(network(name)) == pytest.approx(LINEUP[name].parameters, rel=0.01)


def test_the_studys_table_prints_the_same_networks():
    """Exact to the printed digits: classifiers with their last layer, DINOv2 ViT-S as in DINOv2's own table."""
    printed = {row: cell.value / 1e6 for (row, _), cell in cells("radiology-table2").items()}
    assert set(printed) < set(LINEUP)
    with torch.device("meta"):
        whole = {name: millions(timm.create_model(name)) for name in ("densenet201", "resnet152", "vgg19")}
    for name, value in whole.items():
        assert value == pytest.approx(printed[name], rel=0.01)
    for name in set(printed) - set(whole) - {"dinov2-s", "dinov2-g", "sam-l"}:
        assert LINEUP[name].parameters == pytest.approx(printed[name], rel=0.015)  # 300 stands for 303 and 304
    assert round(LINEUP["dinov2-g"].parameters, -2) == printed["dinov2-g"] == 1100
    assert round(LINEUP["sam-l"].parameters, -2) == printed["sam-l"] == 300
    assert (LINEUP["dinov2-s"].parameters, printed["dinov2-s"]) == (22, 21)
