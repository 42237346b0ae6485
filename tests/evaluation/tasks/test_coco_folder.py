"""Detection tasks in COCO's form, by every layout of its files, and BCCD's boxes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from evaluation.tasks import open_task
from evaluation.tasks.boxes import boxes_digest, image_boxes, truth_rows


def stored(root, split="train"):
    path = root / split / "_annotations.coco.json"
    return path, json.loads(path.read_text())


def test_roboflow_folder(box_folder):
    task = open_task(str(box_folder), box_folder)
    assert (task.record.kind, task.record.metric, task.record.classes) == ("detection", "AP", ("dark", "bright"))
    assert {name: len(split.images) for name, split in task.splits.items()} == {"train": 12, "val": 4, "test": 5}
    first = task.splits["train"].boxes[0]
    assert first.boxes.shape == (2, 4) and list(first.labels) == [0, 1]
    np.testing.assert_allclose(first.areas, first.boxes[:, 2:].prod(axis=1))
    x, y, width, height = first.boxes[1].astype(int)
    assert task.splits["train"].images[0][y : y + height, x : x + width].mean() == 250


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("annotations/instances_{}2017.json", "{}2017"), ("annotations/instances_{}.json", "images/{}"),
     ("annotations/{}.json", "images"), ("{}.json", "")],
)  # fmt: skip
def test_other_places_of_files(box_folder, tmp_path, annotations, images):
    for split, word in (("train", "train"), ("valid", "val"), ("test", "test")):
        target = tmp_path / annotations.format(word)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = stored(box_folder, split)[1]
        for entry in content["images"]:
            name = f"{split}-{entry['file_name']}"
            place = tmp_path / images.format(word) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(box_folder / split / entry["file_name"], place)
            entry["file_name"] = name
        target.write_text(json.dumps(content))
    given, moved = open_task(str(box_folder), tmp_path), open_task(str(tmp_path), tmp_path)
    for name in given.splits:
        assert boxes_digest(given.splits[name].boxes) == boxes_digest(moved.splits[name].boxes)
        np.testing.assert_array_equal(given.splits[name].images[1], moved.splits[name].images[1])


def test_missing_splits_are_made_and_reported(box_folder, tmp_path):
    shutil.copytree(box_folder / "train", tmp_path / "one")
    task = open_task(str(tmp_path / "one"), tmp_path)
    assert sum(len(split.images) for split in task.splits.values()) == 12 and "no splits" in task.notes[0]
    for split in ("train", "valid"):
        shutil.copytree(box_folder / split, tmp_path / "two" / split)
    task = open_task(str(tmp_path / "two"), tmp_path)
    assert len(task.splits["test"].images) == 4 and len(task.splits["train"].images) < 12
    assert "validation split tests" in task.notes[0] and "every fifth training image" in task.notes[1]


def test_subjects_stay_together(box_folder, tmp_path):
    shutil.copytree(box_folder / "train", tmp_path / "one")
    path = tmp_path / "one" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["subject"] = f"p{entry['id'] // 3}"
    path.write_text(json.dumps(content))
    task = open_task(str(tmp_path / "one"), tmp_path)  # raises where a subject is in two splits
    assert {len(set(split.subjects)) for split in task.splits.values()} <= {1, 2}


def test_empty_boxes_crowds_and_images_without_boxes(box_folder, tmp_path):
    shutil.copytree(box_folder, tmp_path / "task")
    path, content = stored(tmp_path / "task")
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 0]
    content["annotations"][0]["bbox"][2] = 0
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][2]["area"] = 7.5
    content["annotations"][5]["bbox"] = [64, 3, 10, 10]  # images are 64 pixels wide
    path.write_text(json.dumps(content))
    task = open_task(str(tmp_path / "task"), tmp_path)
    boxes = task.splits["train"].boxes
    assert "2 boxes without an area" in task.notes[0] and len(boxes[0].labels) == 0
    assert len(boxes[1].labels) == 1 and len(boxes[1].things.labels) == 0
    assert boxes[2].areas[0] == 7.5
    assert truth_rows(boxes).shape == (20, 8) and truth_rows([]).shape == (0, 8)


def break_file_name(content):
    content["images"][0]["file_name"] = "../secret.png"


def break_missing(content):
    content["images"][0]["file_name"] = "nowhere.png"


def break_box(content):
    content["annotations"][0]["bbox"] = [1, 2, 3]


def break_reference(content):
    content["annotations"][0]["image_id"] = 999


def break_category(content):
    content["categories"] = [{"id": 1, "name": "dark"}, {"id": 2, "name": "dark"}]


def break_form(content):
    del content["annotations"]


@pytest.mark.parametrize(
    ("breaks", "message"),
    [(break_file_name, "no path within"), (break_missing, "nowhere.png is in none"), (break_box, "not in COCO's form"),
     (break_reference, "not in COCO's form"), (break_category, "two of one name"), (break_form, "not in COCO's form")],
)  # fmt: skip
def test_what_is_wrong_is_named(box_folder, tmp_path, breaks, message):
    shutil.copytree(box_folder, tmp_path / "task")
    path, content = stored(tmp_path / "task")
    breaks(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_task(str(tmp_path / "task"), tmp_path)


def halve(image, path):
    image.resize((32, 24)).save(path)


def turn(image, path):
    orientation = Image.Exif()
    orientation[0x0112] = 6
    image.save(path, exif=orientation)


@pytest.mark.parametrize(
    ("change", "message"),
    [(halve, r"003\.png is 32 x 24 pixels, but .*coco\.json states 64 x 48; give the image that was annotated"),
     (turn, r"003\.png is 48 x 64 pixels, but .*coco\.json states 64 x 48; its EXIF orientation turns it")],
)  # fmt: skip
def test_an_image_of_another_size_than_stated_is_refused(box_folder, tmp_path, change, message):
    shutil.copytree(box_folder, tmp_path / "task")
    image = tmp_path / "task" / "train" / "003.png"
    change(Image.open(image), image)
    with pytest.raises(UserError, match=message):
        open_task(str(tmp_path / "task"), tmp_path)
    path, content = stored(tmp_path / "task")
    for key, side in zip(("width", "height"), Image.open(image).size[:: -1 if change is turn else 1], strict=True):
        content["images"][3][key] = side
    path.write_text(json.dumps(content))
    open_task(str(tmp_path / "task"), tmp_path)  # an annotation of the image as displayed


def test_bccd(tmp_path):
    root = tmp_path / "BCCD"
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        name = f"BloodImage_{number}"
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{name}\n")
        Image.fromarray(np.full((40, 50, 3), 9, np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        objects = "".join(
            f"<object><name>{cell}</name><bndbox><xmin>{x}</xmin><ymin>2</ymin><xmax>{x + w}</xmax><ymax>12</ymax>"
            "</bndbox></object>" for cell, x, w in (("RBC", 1, 20), ("Platelets", 30, 5), ("WBC", 40, 0))
        )  # fmt: skip
        objects += "<size><width>50</width><height>40</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    task = open_task("bccd_boxes", tmp_path)
    boxes = task.splits["test"].boxes[0]
    assert list(boxes.labels) == [0, 2]  # the empty box is left out
    np.testing.assert_array_equal(boxes.boxes, [[1, 2, 20, 10], [30, 2, 5, 10]])
    Image.new("RGB", (25, 20)).save(root / "JPEGImages" / "BloodImage_2.jpg")
    for name in ("bccd_boxes", "bccd"):
        with pytest.raises(UserError, match=r"Image_2\.jpg is 25 x 20 pixels, but .*Image_2\.xml states 50 x 40"):
            open_task(name, tmp_path)


def test_boxes_are_part_of_a_tasks_digest():
    rows = [((1.0, 2.0, 3.0, 4.0), 0, None, False)]
    moved = [((1.0, 2.0, 3.0, 5.0), 0, None, False)]
    assert boxes_digest([image_boxes(rows)]) != boxes_digest([image_boxes(moved)])
    assert boxes_digest([image_boxes(rows), image_boxes([])]) != boxes_digest([image_boxes([]), image_boxes(rows)])
