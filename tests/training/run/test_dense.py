"""The dense monitor: its numbers on DINOv3's reference tokens, and what makes it speak."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.command import pretrain
from training.objectives.dino.config import GramConfig
from training.objectives.dino.gram import gram_loss
from training.run.dense import class_cosine, dense_message, dense_signs, norm_ratio, patch_cosine, patch_rank

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


def test_the_alarm_speaks_of_a_lasting_fall_alone() -> None:
    assert dense_message([0.9, 0.1, 0.3, 0.4, 0.35, 0.3], []) is None
    assert dense_message([0.9, 0.1, 0.3, 0.4, 0.1, 0.4], []) is None, "one bad measurement"
    assert dense_message([0.9, 0.3, 0.1, 0.1], []) is None, "too few to tell"
    message = dense_message([0.9, 0.1, 0.3, 0.4, 0.15, 0.1], [])
    assert message and "0.400 more alike than others, now 0.100" in message and "dino_gram.yaml" in message


def test_the_alarm_hears_the_segmentation_probe_first() -> None:
    assert dense_message([], [0.2, 0.5, 0.6, 0.58, 0.55]) is None, "within a tenth of the best"
    message = dense_message([0.9, 0.1, 0.3, 0.4, 0.15, 0.1], [0.2, 0.5, 0.6, 0.5, 0.5])
    assert message and "its Dice was 0.600, now it is 0.500" in message and "dino_v3_gram.yaml" in message


def test_a_run_logs_them_if_the_setting_says_so(image_folder: Path, tmp_path: Path) -> None:
    words = ["steps=2", "watch.every=1", "watch.images=4", *SMALL_DINO]
    for out, more in (("with", ["watch.dense=true"]), ("without", [])):
        pretrain("dino_smoke", data=image_folder, out=tmp_path / out, overrides=[*words, *more])
    read = {out: [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
            for out in ("with", "without")}  # fmt: skip
    assert all("dense_locality" in record for record in read["with"])
    assert not any(name.startswith("dense") for record in read["without"] for name in record)
