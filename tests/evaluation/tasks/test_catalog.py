"""Tasks: records, users' folders and lists, MedMNIST files, splits, and what is refused."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from biovfm_hf.decoding.files import PICTURE_SUFFIXES
from biovfm_hf.errors import UserError
from biovfm_hf.reading.masks import read_mask
from evaluation.tasks import GROUPS, KINDS, SPLITS, open_task, read_records, resolve_names
from evaluation.tasks.images import file_digest, to_rgb
from evaluation.tasks.splitting import systematic_split


def test_every_record_describes_its_task():
    records = read_records()
    assert set(GROUPS["medmnist"]) | set(GROUPS["medmnist3d"]) <= set(records)
    for name, record in records.items():
        assert record.name == name and record.kind in KINDS
        assert record.licence and record.citation and record.splits and record.url.startswith("http")
        assert len(record.classes) >= 2


def test_names_groups_and_paths_are_resolved(class_folder):
    assert resolve_names(["medmnist"]) == list(GROUPS["medmnist"])
    assert resolve_names(["busi", f" {class_folder}", "busi"]) == ["busi", str(class_folder)]
    with pytest.raises(UserError, match="did you mean pneumoniamnist"):
        resolve_names(["pneumonamnist"])
    with pytest.raises(UserError, match="no task named"):
        resolve_names([" ", ""])


def test_class_folder_gives_splits_and_sorted_classes(class_folder):
    task = open_task(str(class_folder), class_folder)
    assert task.name == "stripes" and task.record.kind == "binary-class"
    assert task.record.classes == ("class0", "class1")
    assert [task.splits[name].num_cases for name in SPLITS] == [24, 12, 15]
    assert task.splits["train"].images[0].shape == (32, 32, 3)
    assert np.bincount(task.splits["test"].labels).tolist() == [8, 7]


def test_folder_without_splits_is_sampled_systematically(tmp_path, make_class_folder):
    made = make_class_folder(tmp_path / "x", 3, {"all": 30}) / "all"
    task = open_task(str(made), tmp_path)
    assert {name: task.splits[name].num_cases for name in SPLITS} == {"train": 18, "val": 6, "test": 6}
    assert all(set(task.splits[name].labels) == {0, 1, 2} for name in SPLITS)
    assert "systematic" in task.record.splits


@pytest.mark.parametrize("suffix", sorted(set(PICTURE_SUFFIXES)))
def test_pictures_of_every_format_are_a_class_folders_images(tmp_path, suffix):
    for split in ("train", "test"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(3):
                (tmp_path / split / label / f"{number}{suffix.upper()}").write_bytes(bytes([number]))
    assert sum(len(split.labels) for split in open_task(str(tmp_path), tmp_path).splits.values()) == 12


def test_missing_validation_is_taken_from_train(tmp_path, make_class_folder):
    task = open_task(str(make_class_folder(tmp_path / "x", 2, {"train": 20, "test": 4})), tmp_path)
    assert {name: task.splits[name].num_cases for name in SPLITS} == {"train": 16, "val": 4, "test": 4}
    assert task.notes


def write_csv(folder, rows, header="image,label,split,subject"):
    for row in rows:
        path = folder / row.split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 9, np.uint8)).save(path)
    path = folder / "list.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_csv_with_several_labels(tmp_path):
    rows = [
        f"i/{n}.png,{'a|b' if n % 2 else 'b|c'},{'train' if n < 6 else 'val' if n < 8 else 'test'},s{n}"
        for n in range(10)
    ]
    task = open_task(str(write_csv(tmp_path, rows)), tmp_path)
    assert task.record.kind == "multi-label, binary-class" and task.record.classes == ("a", "b", "c")
    assert task.splits["train"].labels[:2].tolist() == [[0, 1, 1], [1, 1, 0]]
    assert task.splits["test"].subjects.tolist() == ["s8", "s9"]


def test_csv_with_several_labels_can_state_their_absence(tmp_path):
    rows = ["a.png,x|y,train", "b.png,|,train", "c.png,x,val", "d.png,y,test"]
    task = open_task(str(write_csv(tmp_path, rows, "image,label,split")), tmp_path)
    assert task.splits["train"].labels.tolist() == [[1, 1], [0, 0]]


def test_csv_without_splits_keeps_subjects_whole(tmp_path):
    rows = [f"{n}.png,{n // 2 % 2},p{n // 2}" for n in range(40)]
    task = open_task(str(write_csv(tmp_path, rows, "image,label,subject")), tmp_path)
    people = [set(task.splits[name].subjects) for name in SPLITS]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["a.png,x,train,p", "b.png,y,test,p", "c.png,x,val,q"], "image,label,split,subject", "subject p is in both"),
        (["a.png,x,train,", "b.png,y,test,p"], "image,label,split,subject", "1 of 2 lines has no subject: line 2;"),
        (["a.png,x,train", "b.png,y,train", "a.png,x,test", "c.png,x,val"], "image,label,split", "line 4: .* line 2"),
        (["a.png,x,train", "./a.png,y,train", "b.png,y,val"], "image,label,split", "line 3: a.png is in line 2"),
        (["a.png,0.5,train", "b.png,1,train", "c.png,2,val", "d.png,2,test"], "image,label,split", "measurements"),
        (
            ['a.png,"0,5",train', 'b.png,"1,2",train', "c.png,2,val", "d.png,2,test"],
            "image,label,split",
            "measurements",
        ),
        (
            ["a.png,1,train", "b.png,nan,train", "c.png,1,val", "d.png,1,test"],
            "image,label,split",
            "no label .*: line 3",
        ),
        (["a.png,x,train", "b.png,y,", "c.png,x,test"], "image,label,split", "some images have a split"),
        (["a.png,x,train", "b.png,x,test", "c.png,x,val"], "image,label,split", "same class"),
        (["a.png,x,trainig"], "image,label,split", "is none of train"),
        (["a.png,"], "image,label", "line 2"),
        (["a.png,x"], "picture,label", "no column of images .*picture, label.*--image-column"),
    ],
)
def test_csv_faults_are_named(tmp_path, rows, header, words):
    with pytest.raises(UserError, match=words):
        open_task(str(write_csv(tmp_path, rows, header)), tmp_path)


def test_unknown_layouts_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image found"):
        open_task(str(tmp_path / "empty"), tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="neither a known task"):
        open_task(str(tmp_path / "a.txt"), tmp_path)


def test_mask_folder_and_its_faults(mask_folder, tmp_path, make_mask_folder):
    task = open_task(str(mask_folder), mask_folder)
    assert task.record.kind == "segmentation" and len(task.record.classes) == 2
    assert set(np.unique(task.splits["train"].masks[0])) == {0, 1}
    broken = make_mask_folder(tmp_path / "broken")
    (broken / "val" / "masks" / "000.png").unlink()
    with pytest.raises(UserError, match="has no mask"):
        open_task(str(broken), tmp_path)


def test_masks_of_another_size_are_named(tmp_path, make_mask_folder):
    folder = make_mask_folder(tmp_path / "sizes")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "test" / "masks" / "000.png")
    with pytest.raises(UserError, match="32 x 32 pixels and its mask 16 x 16"):
        open_task(str(folder), tmp_path)


def test_masks_of_0_and_255_mean_two_classes(tmp_path, make_mask_folder):
    folder = make_mask_folder(tmp_path / "white")
    for path in folder.rglob("masks/*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    task = open_task(str(folder), tmp_path)
    assert len(task.record.classes) == 2 and task.splits["test"].masks[0].max() == 1


def write_npz(path, counts=(20, 8, 9), kind="binary", shape=(28, 28), compressed=True):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in zip(SPLITS, counts, strict=True):
        arrays[f"{name}_images"] = rng.integers(0, 255, (count, *shape), dtype=np.uint8)
        labels = np.arange(count)[:, None] % 2 if kind == "binary" else rng.integers(0, 2, (count, 14))
        arrays[f"{name}_labels"] = labels.astype(np.uint8)
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def test_medmnist_file_with_one_and_several_labels(tmp_path):
    write_npz(tmp_path / "pneumoniamnist.npz")
    write_npz(tmp_path / "chestmnist_64.npz", kind="multi", shape=(64, 64))
    task = open_task("pneumoniamnist", tmp_path)
    assert task.splits["val"].labels.tolist() == [0, 1] * 4
    assert task.splits["train"].images[3].shape == (28, 28, 3)
    chest = open_task("chestmnist", tmp_path)
    assert chest.splits["test"].labels.shape == (9, 14) and chest.splits["test"].images[0].shape == (64, 64, 3)


def test_medmnist_volumes_give_slices_as_images(tmp_path):
    write_npz(tmp_path / "nodulemnist3d.npz", shape=(28, 28, 28))
    split = open_task("nodulemnist3d", tmp_path).splits["test"]
    assert len(split.images) == 9 * 28 and split.num_cases == 9
    assert split.case_of_image[:29].tolist() == [0] * 28 + [1]


def test_largest_medmnist_size_is_taken_and_a_missing_one_named(tmp_path):
    write_npz(tmp_path / "breastmnist.npz")
    write_npz(tmp_path / "breastmnist_64.npz", shape=(64, 64))
    assert open_task("breastmnist", tmp_path).splits["train"].images[0].shape == (64, 64, 3)
    assert open_task("breastmnist", tmp_path, size=28).splits["train"].images[0].shape == (28, 28, 3)
    with pytest.raises(UserError, match="at 224 pixels"):
        open_task("breastmnist", tmp_path, size=224)


def test_large_members_are_memory_mapped(tmp_path):
    from evaluation.tasks.npz_images import NpzImages

    write_npz(tmp_path / "x.npz")
    small = NpzImages(tmp_path / "x.npz", "train_images")
    mapped = NpzImages(tmp_path / "x.npz", "train_images", spill_dir=tmp_path / "cache", spill_bytes=10)
    assert np.array_equal(small[5], mapped[5]) and small.fingerprint() == mapped.fingerprint()
    assert isinstance(mapped._load(), np.memmap)


def test_wrong_label_shapes_and_broken_files_are_named(tmp_path):
    write_npz(tmp_path / "pneumoniamnist.npz", kind="multi")
    with pytest.raises(UserError, match=r"train_labels has shape \(20, 14\)"):
        open_task("pneumoniamnist", tmp_path)
    for value, words in ((0.5, "fractions"), (np.nan, "1 values that are not finite")):
        write_npz(tmp_path / "pneumoniamnist.npz")
        with np.load(tmp_path / "pneumoniamnist.npz") as stored:
            arrays = dict(stored)
        arrays["test_labels"] = np.where(np.arange(len(arrays["test_labels"])) == 3, value, 0.0)[:, None]
        np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
        with pytest.raises(UserError, match=f"pneumoniamnist.npz: test_labels holds {words}"):
            open_task("pneumoniamnist", tmp_path)
    (tmp_path / "bloodmnist.npz").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="not a readable"):
        open_task("bloodmnist", tmp_path)
    np.savez(tmp_path / "octmnist.npz", train_labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="never unpickled"):
        open_task("octmnist", tmp_path)
    write_npz(tmp_path / "retinamnist.npz", kind="binary")
    with np.load(tmp_path / "retinamnist.npz") as held:
        arrays = dict(held)
    arrays["val_labels"] = arrays["val_labels"] + 9
    np.savez(tmp_path / "retinamnist.npz", **arrays)
    with pytest.raises(UserError, match=r"numbers 0\.\.4"):
        open_task("retinamnist", tmp_path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_of_a_medmnist_file_gives_images_or_one_line(tmp_path, data):
    path = tmp_path / "breastmnist.npz"
    if not (tmp_path / "whole.npz").exists():
        write_npz(tmp_path / "whole.npz", shape=(8, 8))
    held = bytearray((tmp_path / "whole.npz").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(held) - 1), min_size=1, max_size=8)):
        held[place] = data.draw(st.integers(0, 255))
    path.write_bytes(held[: data.draw(st.integers(0, len(held)))] if data.draw(st.booleans()) else held)
    try:
        task = open_task("breastmnist", tmp_path)
        assert task.splits["test"].images[0].shape[2] == 3
    except UserError as error:
        assert "breastmnist" in str(error)


def test_fingerprint_follows_the_content(class_folder, tmp_path, make_class_folder):
    same = make_class_folder(tmp_path / "same")
    first = open_task(str(class_folder), tmp_path).splits["train"].images.fingerprint()
    assert open_task(str(same), tmp_path).splits["train"].images.fingerprint() == first
    path = next((same / "train" / "class0").iterdir())
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    assert open_task(str(same), tmp_path).splits["train"].images.fingerprint() != first
    with pytest.raises(UserError, match="is missing"):
        file_digest(tmp_path / "nowhere.png")


def test_a_pixel_in_the_middle_of_an_uncompressed_file_changes_the_digest(tmp_path):
    image = np.zeros((400, 400), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.tif")
    image[200, 200] = 1
    Image.fromarray(image).save(tmp_path / "b.tif")
    assert (tmp_path / "a.tif").stat().st_size == (tmp_path / "b.tif").stat().st_size
    assert file_digest(tmp_path / "a.tif") != file_digest(tmp_path / "b.tif")


def test_sets_are_downloaded_by_the_medmnist_package_at_any_size(tmp_path, monkeypatch):
    import medmnist

    asked = []

    class Fetched:
        def __init__(self, split, root, download, size):
            asked.append((root, download, size))
            write_npz(tmp_path / ("breastmnist.npz" if size == 28 else f"breastmnist_{size}.npz"), shape=(size, size))

    monkeypatch.setattr(medmnist, "BreastMNIST", Fetched)
    for size in (28, 64, 128, None):
        assert open_task("breastmnist", tmp_path, size, fetch=True).splits["train"].images[0].shape[0] == (size or 128)
    assert [entry[2] for entry in asked] == [28, 64, 128]
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(medmnist, "OrganMNIST3D", lambda **given: asked.append(given["size"]))
    with pytest.raises(UserError, match="no organmnist3d"):
        open_task("organmnist3d", tmp_path / "empty", fetch=True)
    assert asked[-1] == 64
    with pytest.raises(UserError, match="does not come at 224 pixels; give --size 28 or 64"):
        open_task("organmnist3d", tmp_path / "empty", 224, fetch=True)


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    import medmnist

    def offline(**given):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(medmnist, "PathMNIST", offline)
    with pytest.raises(UserError, match=r"fetch pathmnist\.npz by hand"):
        open_task("pathmnist", tmp_path, fetch=True)


RECORD = """\
name: stripes_clinic
title: Stripes of our clinic
kind: binary-class
metric: mcc
layout: folder
classes: [class0, class1]
splits: as the folder gives them
licence: CC0
citation: none
url: https://example.org
options: {marker: train/class0}
"""


def test_a_task_is_one_file(tmp_path, class_folder, make_class_folder):
    make_class_folder(tmp_path / "data" / "clinic")
    path = tmp_path / "stripes_clinic.yaml"
    path.write_text(RECORD)
    task = open_task(str(path), tmp_path / "data")
    assert (task.name, task.record.metric, task.record.licence) == ("stripes_clinic", "mcc", "CC0")
    assert [task.splits[name].num_cases for name in SPLITS] == [24, 12, 15]
    path.write_text(RECORD.replace("[class0, class1]", "[class1, class0]"))
    assert open_task(str(path), tmp_path / "data").record.positive == "class0"
    for old, new, words in (
        ("[class0, class1]", "[a, class1]", "in the order class0, class1"),
        ("[class0, class1]", "[a, b]", "no class 'b' to be positive; there are: class0, class1"),
        ("[class0, class1]", "[a, b, c]", "the record says binary-class of a, b, c"),
        ("layout: folder", "layout: magic", "has no reader"),
        ("train/class0", "nowhere", "no folder in"),
        ("{marker: train/class0}", "{}", "gives no options: marker"),
        ("kind: binary-class", "kind: wonderful", "is none of"),
        ("kind: binary-class", "kind: multiclass", "; did you mean multi-class"),
        ("kind: binary-class", "sort: x", "not a task record: unknown key 'sort'"),
        ("kind: binary-class", "", "not a task record: the key 'kind' is missing"),
        ("options:", "option:", "unknown key 'option'; did you mean options"),
        ("classes: [class0, class1]", "classes: class0", "classes is not a list"),
        ("options: {marker: train/class0}", "options: train/class0", "options is not a mapping"),
        ("metric: mcc", "metric: mmc", "no metric 'mmc'; did you mean mcc"),
        ("metric: mcc", "metric: zzzz", "no metric 'zzzz'; there are: .*auc, accuracy"),
        ("layout: folder", "layout: foldr", "did you mean folder"),
    ):
        path.write_text(RECORD.replace(old, new))
        with pytest.raises(UserError, match=words):
            open_task(str(path), tmp_path / "data")


def test_broken_images_and_masks_are_named(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match=r"x\.png"):
        read_mask(path)
    with pytest.raises(UserError, match="is not an image"):
        to_rgb(np.zeros((3, 3, 7)), "x")
    with pytest.raises(UserError, match="no finite pixel"):
        to_rgb(np.full((3, 3), np.nan), "x")


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 60), st.integers(1, 4), st.integers(0, 2**31))
def test_systematic_split_keeps_subjects_whole_and_fills_every_split(people, images, seed):
    rng = np.random.default_rng(seed)
    subjects = rng.permutation(np.repeat([f"p{i:02d}" for i in range(people)], images))
    split = systematic_split(subjects)
    assert set(split) == set(SPLITS)
    for person in np.unique(subjects):
        assert len(set(split[subjects == person])) == 1
    order = rng.permutation(len(subjects))
    assert np.array_equal(systematic_split(subjects[order]), split[order])
