"""The dense monitor: its numbers on DINOv3's reference tokens, and what makes it speak."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.command import pretrain
from training.config_file import load_config, parse_overrides
from training.data.images import open_images
from training.objectives import method_of
from training.objectives.dino.config import GramConfig
from training.objectives.dino.gram import gram_loss
from training.run.dense import class_cosine, dense_signs, dense_warnings, norm_ratio, patch_cosine, patch_rank
from training.setup import start

from ..conftest import SMALL_DINO

FOLDER = Path(os.environ.get("BIOVFM_REFERENCE_DIR") or Path(__file__).parents[2] / "reference")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("dense_monitor_*.json")), ids=lambda file: file.stem)
def test_reference_values(file: Path) -> None:
    values = json.loads(file.read_text())["values"]
    tensors = load_file(FOLDER / "dinov3_backbone_a.safetensors")
    patches, cls, masked = (tensors[f"out.{name}"] for name in ("native.patch", "native.cls", "native_masked.patch"))
    close = {"rel": 1e-5}
    assert patch_cosine(patches).tolist() == pytest.approx(values["patch_offdiag_cosine_mean_per_image"], **close)
    assert class_cosine(cls, patches).tolist() == pytest.approx(values["cls_patch_cosine_mean_per_image"], **close)
    assert patch_rank(patches) == pytest.approx(values["patch_effective_rank_all_tokens_centred"], **close)
    mean, longest = values["patch_norm_mean_max"]
    assert norm_ratio(patches) == pytest.approx(longest / mean, **close)
    pairs = zip(masked[:, None], patches[:, None], strict=True)
    anchored = [float(gram_loss(one, other, GramConfig())) for one, other in pairs]
    assert anchored == pytest.approx(values["gram_mse_native_vs_native_masked_per_image"], **close)


def test_measures_distinguish_localised_tokens_from_smoothed_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    places = torch.stack([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1).reshape(1, 36, 4)
    cls = torch.ones(1, 1, 4)
    ordered = dense_signs(torch.cat([cls, places], dim=1), 1, (6, 6))
    shuffled = places[:, torch.randperm(36, generator=generator)]
    mixed = dense_signs(torch.cat([cls, shuffled], dim=1), 1, (6, 6))
    alike = dense_signs(torch.cat([cls, cls.expand(-1, 36, -1) + 0.01 * places], dim=1), 1, (6, 6))
    assert ordered["dense_locality"] > 0.3 > abs(mixed["dense_locality"])
    assert alike["dense_class_cosine"] > 0.99 and alike["dense_patch_cosine"] > 0.99
    assert ordered["dense_patch_cosine"] == pytest.approx(mixed["dense_patch_cosine"])


def test_a_warning_needs_a_lasting_fall() -> None:
    for healthy in ([0.1, 0.3, 0.4, 0.35, 0.3], [0.1, 0.3, 0.4, 0.1, 0.4], [0.3, 0.1, 0.1], [0.0, 0.0, -0.1, -0.1]):
        assert dense_warnings(healthy, []) == {}
    warning = dense_warnings([0.1, 0.3, 0.4, 0.15, 0.1], [])
    assert warning.keys() == {"dense_locality"}
    assert "0.400 more alike than others, now 0.100" in warning["dense_locality"]
    assert dense_warnings([], [0.5, 0.6, 0.58, 0.55]) == {}, "within a tenth of the best"
    both = dense_warnings([0.1, 0.3, 0.4, 0.15, 0.1], [0.5, 0.6, 0.5, 0.5])
    assert "its Dice was 0.600, now it is 0.500" in both["dense_dice"] and "dino_v3_gram.yaml" in both["dense_dice"]
    assert both.keys() == {"dense_dice", "dense_locality"}


def test_a_run_logs_them_if_the_setting_says_so(image_folder: Path, tmp_path: Path) -> None:
    words = ["steps=2", "watch.every=1", "watch.images=4", *SMALL_DINO]
    for out, more in (("with", ["watch.dense=true"]), ("without", [])):
        pretrain("dino_smoke", data=image_folder, out=tmp_path / out, overrides=[*words, *more])
    read = {out: [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
            for out in ("with", "without")}  # fmt: skip
    assert all("dense_locality" in record for record in read["with"])
    assert not any(name.startswith("dense") for record in read["without"] for name in record)
    words = parse_overrides([*words, "watch.dense=true", f"data.path={image_folder}"])
    config = load_config("dino_smoke", words)
    again = start(config, method_of("dino"), tmp_path / "with", open_images(config.data))
    again.lock.close()
    localities = [record["dense_locality"] for record in read["with"]]
    assert again.history.values("dense_locality", 0) == localities, "as good as it ever was, for the warning"
