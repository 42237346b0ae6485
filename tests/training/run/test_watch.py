"""What is watched: known values of RankMe and kNN, and alarms for collapses only."""

import json
import math
from pathlib import Path

import pytest
import torch

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.errors import UserError
from training.config_file import config_from_tree
from training.data.images import FolderImages
from training.objectives.dino.method import METHOD as DINO
from training.run.watch import (
    History,
    Watch,
    knn_accuracy,
    load_task,
    measure,
    open_watch,
    rankme,
    read_history,
    sample_images,
)

from ..conftest import write_images


def test_rankme_counts_dimensions() -> None:
    torch.manual_seed(0)
    orthogonal = torch.linalg.qr(torch.randn(64, 12))[0]
    assert rankme(orthogonal) == pytest.approx(12, rel=1e-3)
    assert rankme(torch.outer(torch.randn(64), torch.randn(12))) == pytest.approx(1, abs=1e-3)
    with pytest.raises(UserError, match=r"no longer finite; .* lower optim\.base_lr"):
        rankme(orthogonal / 0)


def test_knn_finds_clusters_and_weighs_classes_equally() -> None:
    torch.manual_seed(0)
    centres = torch.eye(3).repeat_interleave(20, dim=0) * 5
    labels = torch.arange(3).repeat_interleave(20)
    train, test = (centres + 0.3 * torch.randn_like(centres), labels), (centres, labels)
    assert knn_accuracy(train, test, 3, 5, 0.07) == 1.0
    # all votes for the large class: balanced accuracy is chance
    one_sided = (torch.ones(22, 4), torch.tensor([0] * 20 + [1] * 2))
    assert knn_accuracy(one_sided, one_sided, 2, 22, 0.07) == 0.5


def test_tasks_with_and_without_splits(tmp_path: Path) -> None:
    for part in ("", "train", "test"):
        for number, name in enumerate(("benign", "malignant")):
            write_images(tmp_path / f"task{'_split' if part else ''}" / part / name, 6, seed=number)
    for name, count in (("task", 6), ("task_split", 12)):
        task = load_task(tmp_path / name, 32, limit=100)
        assert task.classes == ["benign", "malignant"]
        assert task.train[0].shape == task.test[0].shape == (count, 3, 32, 32)
        assert task.train[1].tolist() == [0] * (count // 2) + [1] * (count // 2)
    assert len(load_task(tmp_path / "task", 32, limit=4).train[1]) == 4
    with pytest.raises(UserError, match="one folder of images per class"):
        load_task(tmp_path / "task" / "benign", 32, limit=4)
    write_images(tmp_path / "task_split" / "test" / "normal", 1)
    with pytest.raises(UserError, match="train lacks: normal"):
        load_task(tmp_path / "task_split", 32, limit=4)


def test_measuring_leaves_the_encoder_as_it_was(image_folder: Path) -> None:
    tree = {
        "method": "mae",
        "data": {"path": str(image_folder)},
        "augment": {"global_size": 32},
        "watch": {"every": 5},
    }
    config = config_from_tree(tree)
    watch = open_watch(config, FolderImages(image_folder))
    assert watch is not None and watch.sample.shape == (24, 3, 32, 32)
    encoder = BioVFMModel(BioVFMConfig.from_size("vit-tiny", num_hidden_layers=1, image_size=32)).train()
    values = measure(watch, config, encoder, dict(encoder.state_dict()), DINO.features, torch.device("cpu"))
    assert values.keys() == {"rankme"} and 1 < values["rankme"] <= 24
    assert encoder.training


def test_the_sample_is_the_same_for_a_seed(image_folder: Path) -> None:
    images = FolderImages(image_folder)
    assert torch.equal(sample_images(images, 8, 32, 1), sample_images(images, 8, 32, 1))
    assert not torch.equal(sample_images(images, 8, 32, 1), sample_images(images, 8, 32, 2))
    assert isinstance(Watch(sample_images(images, 4, 32, 1), None).sample, torch.Tensor)


def told(records: list[dict], settled: int, continued: bool = False) -> list[str]:
    history = History()
    return [warning for record in records for warning in warned(history, record, settled, continued)]


def warned(history: History, record: dict, settled: int, continued: bool = False) -> list[str]:
    history.add(record)
    return history.warnings(settled, continued, DINO.collapse)


def records(**values: float) -> list[dict]:
    healthy = {"dino_global_crops_gap": 2.0, "ibot_gap": 1.5, "teacher_entropy": 3.0, "rankme": 40.0}
    return [{"step": 100 + number, **healthy, **values} for number in range(12)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dino_global_crops_gap": 0.001}, "stayed at ln K"),
        ({"ibot_gap": -0.01}, "the ibot cross-entropy"),
        ({"teacher_entropy": 0.0}, "one prototype"),
        ({"rankme": 1.2}, "RankMe is 1.2"),
    ],
)
def test_each_collapse_has_a_warning(values: dict, words: str) -> None:
    (message,) = told(records(**values), settled=50)
    assert message.startswith("step 109: ") and words in message


def test_no_false_alarm() -> None:
    assert told(records(), settled=50) == []
    assert told(records(dino_global_crops_gap=0.0), settled=200) == [], "still warming up"
    assert told(records(dino_global_crops_gap=0.0)[:5], settled=50) == [], "too few records"
    assert told(records(ibot_gap=math.nan), settled=50) == [], "no patch was masked"
    mixed = records(dino_global_crops_gap=0.0)[:10]
    mixed[-1]["dino_global_crops_gap"] = 0.5
    assert told(mixed, settled=50) == [], "it has started to learn"
    assert told([{"step": step, "mae_loss": 0.9} for step in range(100, 112)], settled=50) == []


# dense_locality of docs/dinov3.py's three runs, every 15 steps
FIRST = [0.154, 0.153, 0.151, 0.147, 0.141, 0.134, 0.130, 0.127, 0.126, 0.125, 0.125]
DEGRADING = [0.125, 0.095, 0.064, 0.040, 0.034, 0.031, 0.030, 0.029, 0.029]
ANCHORED = [0.125, 0.094, 0.082, 0.091, 0.093, 0.092, 0.092, 0.092]


def measured(values: list[float], every: int = 15) -> list[dict]:
    return [{"step": every * number, "rankme": 9.0, "dense_locality": value} for number, value in enumerate(values)]


def test_patch_tokens_are_compared_with_those_that_a_run_continues_from() -> None:
    (message,) = told(measured(DEGRADING), 50, continued=True)
    assert message.startswith("step 60: patches lose their localisation: neighbours were 0.125 more alike")
    assert told(measured(FIRST), 50) == told(measured(ANCHORED), 50, continued=True) == []
    (message,) = told(measured([0.30, 0.10, 0.09, 0.08, 0.07], 500), 100, continued=True)
    assert message.startswith("step 1500: ")
    assert told(measured([0.9, 0.8, 0.1, 0.1, 0.1, 0.2], 10), 15) == [], "what a fresh network showed in its warm-up"


def test_a_run_that_continues_remembers_its_best_and_warns_of_each_kind(tmp_path: Path) -> None:
    logged = [*measured(DEGRADING[:4]), *({"step": step, "loss": 1.0} for step in range(46, 700))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in logged))
    history = read_history(tmp_path / "metrics.jsonl")
    (message,) = warned(history, {"step": 700, "rankme": 9.0, "dense_locality": 0.034}, 50, continued=True)
    assert message.startswith("step 700: patches lose")
    (message,) = warned(history, {"step": 701, "rankme": 1.2, "dense_locality": 0.03}, 50, continued=True)
    assert message.startswith("step 701: RankMe is 1.2"), "another kind, and the first one once"
    assert read_history(tmp_path / "nothing").measured == []
