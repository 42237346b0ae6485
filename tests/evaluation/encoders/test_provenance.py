"""DINOv3's licence is found under every name by which its weights are loaded, and what a folder states of itself."""

import json

import pytest

from biovfm_hf.cards.provenance import Provenance, write_provenance
from biovfm_hf.front_door import encoder_provenance

pytest.importorskip("timm")
DINOV3 = Provenance(licences=("dinov3-license",))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("dinov3-b", True),
        ("mine=DINOv3-S", True),
        ("meddinov3", True),
        ("meddinov3:you/a-copy", True),
        ("timm:vit_small_patch16_dinov3.lvd1689m", True),
        ("timm:vit_small_patch16_dinov3?img_size=224", True),
        ("timm:convnext_tiny.dinov3_lvd1689m", True),
        ("timm:vit_small_patch16_dinov3.no_such_weights", False),
        ("timm:resnet18", False),
        ("dinov2-b", False),
        ("no-such-encoder", False),
    ],
)
def test_names_of_the_line_up_and_of_timm(name, bound):
    assert encoder_provenance(name) == (DINOV3 if bound else Provenance())


CONFIGS = {
    "timm": {"architecture": "vit_small_patch16_dinov3", "pretrained_cfg": {"license": "dinov3-license"}},
    "convnext": {"model_type": "dinov3_convnext"},
    "backbone": {"model_type": "upernet", "backbone_config": {"model_type": "dinov3_vit"}},
    "free": {"architecture": "resnet18", "pretrained_cfg": {"license": "apache-2.0"}},
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("before", ["", "timm:", "mine=timm:local-dir:"])
def test_folders_of_timm_and_transformers(kind, before, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[kind]))
    write_provenance(tmp_path, Provenance(("clinic",)))
    expected = Provenance(("clinic",), licences=() if kind == "free" else DINOV3.licences)
    assert encoder_provenance(f"{before}{tmp_path}") == expected


def test_a_repository_is_known_by_its_small_files(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["timm"]))
    write_provenance(tmp_path, Provenance(("clinic",)))
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repo, name, **_: asked.append((repo, name)) or str(tmp_path / name)
    )
    for name in ("timm/net", "timm:hf-hub:timm/net?depth=1"):
        assert encoder_provenance(name) == Provenance(("clinic",), licences=DINOV3.licences)
    assert set(asked) == {("timm/net", "config.json"), ("timm/net", "provenance.json")}
