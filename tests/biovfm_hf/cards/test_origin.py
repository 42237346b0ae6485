"""The names of the weights behind a model: they come back, and lose what is of one machine."""

import pytest

from biovfm_hf.cards.origin import ORIGIN, Origin, public_name, read_origin, whole_name, write_origin
from biovfm_hf.errors import UserError


def test_origins_come_back(tmp_path):
    assert read_origin(tmp_path) is None
    for origin in (Origin(), Origin("you/base", ("large", "timm:net"), ("early",))):
        write_origin(tmp_path, origin)
        assert read_origin(tmp_path) == origin


@pytest.mark.parametrize("text", ["{", "[]", '{"start": 1}', '{"teachers": "large"}', '{"anchors": [1]}'])
def test_a_damaged_file_is_told(tmp_path, text):
    (tmp_path / ORIGIN).write_text(text)
    with pytest.raises(UserError, match=r"origin\.json"):
        read_origin(tmp_path)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("/secret/run/model", "run"),
        ("~/base.pth", "base.pth"),
        ("./runs/base", "base"),
        ("mine=timm:/secret/net?depth=1", "net"),
        ("you/base", "you/base"),
        ("timm:hf-hub:you/base?mlp_layer=SwiGLU", "timm:hf-hub:you/base?mlp_layer=SwiGLU"),
        ("dinov3-b", "dinov3-b"),
    ],
)
def test_a_name_says_nothing_of_folders(name, public):
    assert public_name(name) == public


def test_a_path_that_looks_like_a_name_of_the_hub_stays_one_when_it_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    whole = [whole_name(name) for name in ("runs/mine", "timm:runs/mine", "you/base")]
    (tmp_path / "runs" / "mine").rmdir()
    assert [public_name(name) for name in whole] == ["mine", "mine", "you/base"]
