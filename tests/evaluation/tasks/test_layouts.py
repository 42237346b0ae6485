"""Each benchmark's official layout in miniature, written here, opened, and probed from end to end."""

import json

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.commands.probe import main
from evaluation.statistics.kinds import DETECTION, SEGMENTATION
from evaluation.tasks import GROUPS, SPLITS, open_task, read_records
from tests.evaluation.miniatures import (
    WRITERS,
    write_amos,
    write_bccd,
    write_brain,
    write_chexpert,
    write_medmnist,
    write_montgomery,
    write_msd,
    write_nih,
    write_sars,
    write_volume,
)

COUNTS = {
    "nih_chestxray14": (74, 10, 36),
    "chexpert": (36, 4, 16),
    "sars_cov2_ct": (9, 5, 7),
    "brain_tumor": (21, 9, 15),
    "montgomery": (9, 3, 6),
    "amos_ct": (3, 1, 2),
    "msd_heart": (4, 1, 1),
    "msd_hippocampus": (4, 1, 1),
    "msd_spleen": (4, 1, 1),
    "busi": (22, 7, 7),
    "bccd": (18, 9, 12),
    "bccd_boxes": (6, 3, 4),
    "fundus_vessels": (12, 3, 15),
}
# How tasks without labels of whole images are probed, and a metric of theirs.
OTHER_PROBES = {
    SEGMENTATION: ("--method segment", "dice"),
    DETECTION: ("--method detect --epochs 1 --image-size 64", "AP"),
}


def test_every_benchmark_has_a_miniature():
    ours = set(read_records()) - set(GROUPS["medmnist"]) - set(GROUPS["medmnist3d"])
    assert not ours - set(WRITERS), "add a function that writes its files to WRITERS of tests/evaluation/miniatures.py"
    assert not set(WRITERS) - ours, "WRITERS of tests/evaluation/miniatures.py has tasks without a record"
    assert set(WRITERS) == set(COUNTS), "say in COUNTS how many cases each split of the miniature has"
    assert set(GROUPS["radiology"]) <= ours


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_official_layout_runs_end_to_end(tmp_path, tiny_model, name):
    WRITERS[name](tmp_path / "raw" / name)
    task = open_task(name, tmp_path / "raw")
    found = tuple(task.splits[split].num_cases for split in SPLITS)
    assert found == COUNTS[name]
    method, metric = OTHER_PROBES.get(task.record.kind, ("--method knn", "accuracy"))
    words = [
        "--model",
        str(tiny_model),
        "--tasks",
        name,
        "--data",
        str(tmp_path / "raw"),
        "--out",
        str(tmp_path / "out"),
    ]
    main([*words, *method.split(), "--resamples", "20", "--no-figures"])
    record = json.loads((tmp_path / "out" / "results.json").read_text())[0]
    assert record["task"] == name and record["n_test"] == COUNTS[name][2]
    assert record["metrics"][metric]["value"] is not None


def test_every_medmnist_set_runs_end_to_end(tmp_path, tiny_model):
    records = read_records()
    names = [*GROUPS["medmnist"], *GROUPS["medmnist3d"]]
    for name in names:
        write_medmnist(tmp_path / "data", records[name])
    words = ["--model", str(tiny_model), "--tasks", "medmnist,medmnist3d", "--data", str(tmp_path / "data")]
    main([*words, "--out", str(tmp_path / "out"), "--resamples", "10", "--no-figures"])
    found = {record["task"]: record for record in json.loads((tmp_path / "out" / "results.json").read_text())}
    assert set(found) == set(names)
    for name in names:
        assert found[name]["n_test"] == 2 * len(records[name].classes)
        assert found[name]["kind"] == records[name].kind and found[name]["metrics"]["auc"]["value"] is not None


def test_nih_labels_patients_and_lists(tmp_path):
    write_nih(tmp_path)
    splits = open_task("nih_chestxray14", tmp_path).splits
    assert splits["train"].labels.shape == (74, 14)
    assert {int(p) for p in splits["test"].subjects} == set(range(42, 60))
    assert not set(splits["train"].subjects) & set(splits["val"].subjects)


def test_chexpert_uncertain_is_absent_and_views_are_frontal(tmp_path):
    write_chexpert(tmp_path)
    split = open_task("chexpert", tmp_path).splits["test"]
    assert all("frontal" in str(path) for path in split.images.paths)
    assert set(np.unique(split.labels)) <= {0, 1}
    write_chexpert(tmp_path / "more", with_test=True)
    splits = open_task("chexpert", tmp_path / "more").splits
    assert [splits[name].num_cases for name in SPLITS] == [40, 16, 14]


def test_chexpert_paths_cannot_leave_the_folder(tmp_path):
    write_chexpert(tmp_path)
    table = tmp_path / "CheXpert-v1.0-small" / "valid.csv"
    table.write_text(table.read_text().replace("valid/patient00500", "valid/../../../patient00500"))
    with pytest.raises(UserError, match="leaves the folder"):
        open_task("chexpert", tmp_path)


def test_sars_cases_are_patients(tmp_path):
    write_sars(tmp_path)
    split = open_task("sars_cov2_ct", tmp_path).splits["train"]
    assert len(split.images) > split.num_cases and split.case_of_image.max() == split.num_cases - 1


def test_brain_slices_of_a_patient_stay_together(tmp_path):
    write_brain(tmp_path)
    splits = open_task("brain_tumor", tmp_path).splits
    people = [set(splits[name].subjects) for name in SPLITS]
    assert not people[0] & people[1] and not people[0] & people[2]
    assert not any("P0" in person for held in people for person in held)
    assert splits["train"].images[0].shape == (24, 24, 3)


def test_montgomery_masks_have_two_sides(tmp_path):
    write_montgomery(tmp_path)
    split = open_task("montgomery", tmp_path).splits["train"]
    mask = split.masks[0]
    assert mask[10, 5] == 1 and mask[10, 18] == 2 and mask[0, 0] == 0


def test_volume_masks_lie_on_their_images_whatever_the_orientation(tmp_path):
    write_msd("Task09_Spleen", "spleen", 2)(tmp_path)
    for split in open_task("msd_spleen", tmp_path).splits.values():
        for index in range(len(split.images)):
            image, mask = split.images[index][..., 0].astype(float), split.masks[index]
            assert image.shape == mask.shape == (18, 16)
            if mask.any():
                assert image[mask == 1].mean() > image[mask == 0].mean() + 20


def test_labels_of_another_shape_are_named(tmp_path):
    write_msd("Task09_Spleen", "spleen", 2)(tmp_path)
    write_volume(tmp_path / "Task09_Spleen" / "labelsTr" / "spleen_002.nii.gz", np.zeros((16, 18, 5), np.int16))
    with pytest.raises(UserError, match=r"\(16, 18, 6\) voxels and its labels \(16, 18, 5\)"):
        open_task("msd_spleen", tmp_path)


def test_amos_keeps_ct_only(tmp_path):
    write_amos(tmp_path)
    names = np.concatenate([split.subjects for split in open_task("amos_ct", tmp_path).splits.values()])
    assert "amos_0600" not in names and len(names) == 6


def test_damaged_sets_are_named(tmp_path):
    with pytest.raises(UserError, match="no folder in"):
        open_task("montgomery", tmp_path)
    write_bccd(tmp_path)
    path = next((tmp_path / "BCCD" / "Annotations").iterdir())
    path.write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>')
    with pytest.raises(UserError, match="declares no document type"):
        open_task("bccd", tmp_path)
    write_nih(tmp_path / "nih")
    (tmp_path / "nih" / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"test_list\.txt is missing"):
        open_task("nih_chestxray14", tmp_path / "nih")
    write_brain(tmp_path / "brain")
    (tmp_path / "brain" / "3.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(UserError, match=r"3\.mat is not a readable"):
        open_task("brain_tumor", tmp_path / "brain")
