"""CSV lists of people's own: any column names, patients' labels, and what warns of patients in two splits."""

import csv

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from evaluation.commands.probe import write_task_left_out
from evaluation.tasks import open_task
from evaluation.tasks.classes import many_numbers, numbered, told_order
from evaluation.tasks.listing import Listing, read_listing


@pytest.fixture
def scans(tmp_path):
    """Twelve patients with two images each, in folders of their names."""
    for patient in range(12):
        for number in range(2):
            file = tmp_path / "images" / f"P{patient:02d}" / f"P{patient:02d}_{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 10 * patient + number, np.uint8)).save(file)
    return tmp_path / "images"


def names():
    return [f"P{patient:02d}/P{patient:02d}_{number}.png" for patient in range(12) for number in range(2)]


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def splits_of(task):
    return {name: len(split.images) for name, split in task.splits.items()}


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_list_as_spreadsheets_write_it(tmp_path, scans, delimiter):
    rows = [delimiter.join((name, "a, b" if i % 2 else "c", name[:3])) for i, name in enumerate(names())]
    header = delimiter.join(("\ufeffimage", "label", "subject"))
    task = open_task(write(tmp_path / "l.csv", header, rows), tmp_path, listing=Listing(images_root=scans))
    assert sum(splits_of(task).values()) == 24 and task.record.classes == ("a, b", "c")


def test_columns_of_any_name_and_an_images_root(tmp_path, scans):
    rows = [f"{name},{i % 3},{name[:3]}" for i, name in enumerate(names())]
    path = write(tmp_path / "l.csv", "scan,grade,who", rows)
    listing = Listing(image_column="scan", label_column="grade", subject_column="who", images_root=scans)
    task = open_task(path, tmp_path, listing=listing)
    assert sum(splits_of(task).values()) == 24 and not task.warnings
    assert {len(set(split.subjects)) * 2 for split in task.splits.values()} == set(splits_of(task).values())
    assert task.record.kind == "multi-class"


def test_paths_may_begin_beside_the_list(tmp_path, scans):
    rows = [f"images/{name},{i % 2},{name[:3]}" for i, name in enumerate(names())]
    path = write(tmp_path / "l.csv", "file_name,label,patient", rows)
    task = open_task(path, tmp_path, listing=Listing(images_root=tmp_path / "elsewhere"))
    assert sum(splits_of(task).values()) == 24


def test_a_missing_file_names_where_it_was_looked_for(tmp_path, scans):
    rows = [f"{name},{i % 2}" for i, name in enumerate([*names(), "P99/lost.png"])]
    path = write(tmp_path / "l.csv", "image,label", rows)
    with pytest.raises(
        UserError,
        match=r"1 of 25 lines has an image that is not there: line 26 \(P99/lost.png\); looked in .*images and",
    ):
        open_task(path, tmp_path, listing=Listing(images_root=scans))


def test_hugging_faces_column_and_split_names(tmp_path, scans):
    parts = ["Train"] * 12 + ["validation"] * 6 + ["TEST"] * 6
    rows = [
        f"images/{name},{i % 2},{part},{name[:3]}" for i, (name, part) in enumerate(zip(names(), parts, strict=True))
    ]
    task = open_task(write(tmp_path / "metadata.csv", "file_name,label,split,subject", rows), tmp_path)
    assert splits_of(task) == {"train": 12, "val": 6, "test": 6}


def test_folders_may_use_them_too(tmp_path, make_class_folder):
    made = make_class_folder(tmp_path / "x", 2, {"train": 8, "validation": 4, "test": 4})
    task = open_task(str(made), tmp_path)
    assert {name: split.num_cases for name, split in task.splits.items()} == {"train": 8, "val": 4, "test": 4}


def test_labels_of_patients_join_by_folder(tmp_path, scans):
    rows = [f"P{patient:02d},{patient % 2}" for patient in range(12)]
    path = write(tmp_path / "patients.csv", "patient,label", rows)
    task = open_task(path, tmp_path, listing=Listing(images_root=scans))
    for split in task.splits.values():
        assert [int(subject[1:]) % 2 for subject in split.subjects] == split.labels.tolist()
    assert sum(splits_of(task).values()) == 24
    write(tmp_path / "patients.csv", "patient,label", [*rows, "P77,0"])
    with pytest.raises(UserError, match=r"no folder of the subject below .* with an image: line 14 \(P77\)"):
        open_task(path, tmp_path, listing=Listing(images_root=scans))


def test_patients_of_two_centres_lie_in_two_folders(tmp_path):
    for patient in range(12):
        folder = tmp_path / "raw" / ("north" if patient % 3 else "south") / str(patient)
        for series in ("1", "2"):  # named as two of the patients
            (folder / series).mkdir(parents=True)
            Image.fromarray(np.full((9, 9), 20 * patient, np.uint8)).save(folder / series / "a.png")
    write(tmp_path / "patients.csv", "patient;label", [f"{patient};{patient % 2}" for patient in range(12)])
    cases, _ = read_listing(tmp_path / "patients.csv", Listing(images_root=tmp_path / "raw"))
    assert {case.subject: case.file.parent.parent.name for case in cases} == {str(n): str(n) for n in range(12)}
    assert len(cases) == 24


def test_labels_of_patients_join_by_a_column(tmp_path, scans):
    path = write(tmp_path / "l.csv", "image,patient", [f"images/{name},{name[:3]}" for name in names()])
    rows = [f"P{patient:02d},{patient % 2}" for patient in range(12)]
    labels = tmp_path / "labels.csv"
    write(labels, "patient,outcome", rows)
    task = open_task(path, tmp_path, listing=Listing(labels=labels, label_column=["outcome"]))
    assert sum(splits_of(task).values()) == 24
    write(labels, "patient,outcome", rows[1:])
    with pytest.raises(
        UserError, match=r"2 of 24 lines have no label of the subject in .*labels.csv: line 2 \(P00\), line 3 \(P00\)"
    ):
        open_task(path, tmp_path, listing=Listing(labels=labels, label_column=("outcome",)))


@pytest.mark.parametrize("column", ["split", "fold"])
def test_without_a_subject_column_labels_and_splits_join_by_the_folder(tmp_path, scans, column):
    path = write(tmp_path / "l.csv", "image", [f"images/{name}" for name in names()])
    labels, parts = tmp_path / "patients.csv", ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    rows = [f"P{patient:02d},{patient % 2},{parts[patient]}" for patient in range(12)]
    write(labels, f"patient,label,{column}", rows)
    listing = Listing(labels=labels, split_column=None if column == "split" else column)
    task = open_task(path, tmp_path, listing=listing)
    assert splits_of(task) == {"train": 12, "val": 6, "test": 6} and not task.warnings
    for split in task.splits.values():
        assert [int(subject[1:]) % 2 for subject in split.subjects] == split.labels.tolist()
    write(labels, f"patient,label,{column}", rows[1:])
    with pytest.raises(
        UserError, match=r"no folder in the image's path that is a subject of .*patients.csv: line 2, line 3"
    ):
        open_task(path, tmp_path, listing=listing)
    write(labels, f"patient,label,{column}", [*rows, "P00,0,test"])
    with pytest.raises(UserError, match=r"1 of 13 lines has another label or split .*: line 14 \(P00\)"):
        open_task(path, tmp_path, listing=listing)


def test_a_list_of_patients_takes_the_files_of_a_pattern(tmp_path, scans):
    for folder in scans.iterdir():
        (folder / "scan.nii.gz").write_bytes(b"")
    path = write(
        tmp_path / "patients.csv", "patient,label", [f"P{patient:02d},{patient % 2}" for patient in range(12)]
    )
    with pytest.raises(UserError, match=r"patients.csv, line 2, \*_0.png: a picture among volumes.*--files") as error:
        open_task(path, tmp_path, listing=Listing(images_root=scans))
    assert "P00" not in str(error.value)
    cases, _ = read_listing(tmp_path / "patients.csv", Listing(images_root=scans, files="*.nii.gz"))
    assert {case.file.name for case in cases} == {"scan.nii.gz"} and len(cases) == 12
    with pytest.raises(
        UserError, match=r"12 of 12 lines .* an image \*.mha: line 2 \(P00\), .* and 9 more; .*--files"
    ):
        read_listing(tmp_path / "patients.csv", Listing(images_root=scans, files="*.mha"))


def test_several_label_columns_make_several_labels(tmp_path, scans):
    rows = [f"images/{name},{i % 2},{i % 3 == 0:d},{name[:3]}" for i, name in enumerate(names())]
    path = write(tmp_path / "l.csv", "image,effusion,mass,subject", rows)
    task = open_task(path, tmp_path, listing=Listing(label_column=("effusion", "mass")))
    assert task.record.kind == "multi-label, binary-class" and task.record.classes == ("effusion", "mass")
    assert sum(split.labels.sum(0)[1] for split in task.splits.values()) == 8


@pytest.mark.parametrize(
    ("labels", "positive", "classes"),
    [
        (("disease", "healthy"), None, ("healthy", "disease")),
        (("Covid", "No finding"), None, ("No finding", "Covid")),
        (("benign", "malignant"), None, ("benign", "malignant")),
        (("left", "nose"), None, ("left", "nose")),
        (("normal", "negative"), None, ("negative", "normal")),
        (("0", "1"), None, ("0", "1")),
        (("0", "1"), "0", ("1", "0")),
        (("disease", "healthy"), "healthy", ("disease", "healthy")),
    ],
)
def test_the_positive_class_is_no_accident_of_the_alphabet(tmp_path, scans, labels, positive, classes):
    rows = [f"images/{name},{labels[i % 3 == 0]},{name[:3]}" for i, name in enumerate(names())]
    path = write(tmp_path / "l.csv", "image,label,subject", rows)
    task = open_task(path, tmp_path, listing=Listing(positive=positive))
    assert (task.record.classes, task.record.positive) == (classes, classes[1])
    rare = classes.index(labels[1])
    assert sum((split.labels == rare).sum() for split in task.splits.values()) == 8


def test_a_positive_class_that_is_none_is_refused(tmp_path, scans):
    rows = [f"images/{name},{('disease', 'healthy')[i % 2]},{name[:3]}" for i, name in enumerate(names())]
    path = write(tmp_path / "l.csv", "image,label,subject", rows)
    with pytest.raises(UserError, match=r"no class 'diseas' to be positive; did you mean disease\?"):
        open_task(path, tmp_path, listing=Listing(positive="diseas"))


def test_grades_are_recorded_as_ordinal_and_measurements_refused(tmp_path, scans):
    rows = [f"images/{name},{i % 4},{name[:3]}" for i, name in enumerate(names())]
    path = write(tmp_path / "l.csv", "image,label,subject", rows)
    assert open_task(path, tmp_path, listing=Listing(target="ordinal")).record.kind == "ordinal-regression"
    path = write(tmp_path / "m.csv", "image,label,subject", [row.replace(",1,", ",1.5,") for row in rows])
    with pytest.raises(UserError, match=r"a regression target.*--target ordinal"):
        open_task(path, tmp_path)


@pytest.fixture
def labelled(tmp_path, scans):
    """Opens a list of the scans with a label for each, made from its number, and options."""

    def opened(label, subject=lambda i: names()[i][:3], **options):
        rows = [f"images/{name},{label(i)},{subject(i)}" for i, name in enumerate(names())]
        return open_task(write(tmp_path / "l.csv", "image,label,subject", rows), tmp_path, listing=Listing(**options))

    return opened


@pytest.mark.parametrize("target", ["classes", "ordinal"])
def test_many_whole_numbers_are_measurements(labelled, target):
    with pytest.raises(UserError, match=r"such as 30 and 52 \(12 different numbers\) are measurements"):
        labelled(lambda i: 30 + i // 2 * 2, target=target)
    with pytest.raises(UserError, match="12 different numbers"):  # and not a class called NA, nor one called 30.5
        labelled(lambda i: "NA" if i == 5 else 29.5 + i // 2, target=target)


def test_few_whole_numbers_are_classes(labelled):
    assert labelled(lambda i: i % 4).record.classes == ("0", "1", "2", "3")


def test_many_numbers_with_many_cases_of_each_are_classes_with_a_warning():
    labels = [str(20 + n % 30) for n in range(300)]
    assert numbered("ages", labels)[0] == [str(n) for n in range(20, 50)]
    assert "30 different numbers are taken as classes" in many_numbers(sorted(set(labels)))
    assert many_numbers([str(n) for n in range(20)]) is None
    with pytest.raises(UserError, match="30 different numbers"):
        numbered("ages", labels[:299])


def test_labels_that_are_missing_are_counted(labelled):
    words = {0: "NA", 5: "nan", 7: "", 11: " n/a"}
    with pytest.raises(UserError, match=r"4 of 24 lines have no label .*: line 2, line 7, line 9 and 1 more"):
        labelled(lambda i: words.get(i, i % 2))


def test_a_column_of_patients_is_no_column_of_labels(labelled):
    with pytest.raises(UserError, match=r"12 classes, such as P00 and P11, for 12 cases .*--label-column"):
        labelled(lambda i: names()[i][:3])
    organs = labelled(lambda i: f"organ {i % 2}", subject=lambda i: i // 2)  # all classes of every patient are fine
    assert organs.record.classes == ("organ 0", "organ 1")


def test_a_class_without_a_training_case_is_refused(tmp_path, scans):
    rows = [f"images/{name},{('rare' if i > 21 else i % 2)},{'test' if i > 15 else 'train'}" for i, name in
            enumerate(names())]  # fmt: skip
    path = write(tmp_path / "l.csv", "image,label,split", rows)
    with pytest.raises(UserError, match=r"1 of 3 classes have no training case .*: rare \(2 elsewhere\)"):
        open_task(path, tmp_path)


@pytest.mark.parametrize(("one", "other"), [("benign", "Benign"), ("no  mass", "no mass"), ("1", "1.0")])
def test_labels_that_differ_in_writing_are_pointed_out(labelled, one, other):
    assert len(labelled(lambda i: (one, f" {one} ", "z")[i % 3]).record.classes) == 2
    with pytest.raises(UserError, match="differ only in capitals, spaces or zeros"):
        labelled(lambda i: (one, other, "z")[i % 3])


@pytest.mark.parametrize("write_as", [lambda n: f"p{n:02d}", lambda n: f"P00{n:02d}", lambda n: f"P{n:02d}.0"])
def test_subjects_that_differ_in_writing_are_warned_of(tmp_path, scans, write_as):
    rows = [f"images/{name},{i // 4 % 2},{name[:3] if i % 2 else write_as(i // 2)},{('train', 'test')[i % 2]}"
            for i, name in enumerate(names())]  # fmt: skip
    task = open_task(write(tmp_path / "l.csv", "image,label,subject,split", rows), tmp_path)
    assert task.leaks == tuple(task.warnings) and "subjects in test and another split differ only" in task.leaks[0]
    assert f"{write_as(0)} in train and P00 in test" in task.warnings[task.leaks[0]]


def test_grades_are_in_natural_order_which_is_told(labelled):
    record = labelled(lambda i: f"grade {(1, 2, 10)[i % 3]}", target="ordinal").record
    assert record.classes == ("grade 1", "grade 2", "grade 10")
    assert "from low to high are grade 1, grade 2, grade 10" in told_order(record)
    assert told_order(labelled(lambda i: i % 3, target="ordinal").record) is None


def test_a_list_in_latin_1_is_told_with_its_line(tmp_path):
    (tmp_path / "l.csv").write_bytes("image,label\na.png,1\nb.png,gutartig\nc.png,bösartig\n".encode("latin1"))
    with pytest.raises(UserError, match=r"l.csv, line 4: not UTF-8, perhaps Latin-1; save .* CSV UTF-8"):
        open_task(str(tmp_path / "l.csv"), tmp_path)


def test_without_subjects_the_user_is_warned_and_shown_names(tmp_path, scans):
    rows = [f"images/{name},{i % 2}" for i, name in enumerate(names())]
    task = open_task(write(tmp_path / "l.csv", "image,label", rows), tmp_path)
    general, alike = task.warnings
    assert task.leaks == (general, alike)
    assert "no subject column" in general and task.warnings[general] == ""
    assert "beginnings of file names" in alike and "P0" not in alike  # records and cards name no patient
    assert "in train, test" in task.warnings[alike] or "in val, test" in task.warnings[alike]


def test_names_that_differ_warn_of_no_patient(tmp_path):
    for number in range(20):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / f"IMG_{number:04d}.png")
    rows = [f"IMG_{number:04d}.png,{number % 2}" for number in range(20)]
    assert len(open_task(write(tmp_path / "l.csv", "image,label", rows), tmp_path).warnings) == 1


def test_unreadable_images_are_left_out_on_request(tmp_path, scans):
    (scans / "P03" / "P03_1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    rows = [f"images/{name},{i % 2},{name[:3]}" for i, name in enumerate(names())]
    path = write(tmp_path / "l.csv", "image,label,subject", rows)
    task = open_task(path, tmp_path, listing=Listing(skip_unreadable=True))
    assert sum(splits_of(task).values()) == 23
    assert list(task.warnings) == ["1 of 24 images could not be read and are left out"] and not task.leaks
    reason = next(iter(task.warnings.values()))
    line = 2 + names().index("P03/P03_1.png")
    assert reason.startswith(f"l.csv, line {line}: ") and "P03" not in reason  # a file's name may be a patient's
    with pytest.raises(UserError, match=rf"1 of 24 images cannot be read: l.csv, line {line}: .*--skip-unreadable"):
        [image for split in open_task(path, tmp_path).splits.values() for image in split.images]


def test_of_a_list_of_patients_the_file_is_named(tmp_path, scans):
    for name in ("view.png", "P03_1.png"):
        (scans / "P03" / name).write_bytes(b"broken")
    rows = [f"P{patient:02d},{patient % 2}" for patient in range(14)]
    path = write(tmp_path / "patients.csv", "patient,label", rows)
    with pytest.raises(UserError, match=r"line 14 \(P12\), line 15 \(P13\);.*--skip-unreadable leaves these out"):
        open_task(path, tmp_path, listing=Listing(images_root=scans))
    task = open_task(path, tmp_path, listing=Listing(images_root=scans, skip_unreadable=True))
    assert list(task.warnings) == ["4 of 27 images could not be read and are left out"]
    assert [each.where for each in task.left_out] == [
        "patients.csv, line 14", "patients.csv, line 15", "patients.csv, line 5, *_1.png",
        "patients.csv, line 5, view.png",
    ]  # fmt: skip
    write_task_left_out(tmp_path / "out", task)
    with (tmp_path / "out" / "patients.left_out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [each.where for each in task.left_out]
    assert not any(str(tmp_path) in row["reason"] or "P03" in row["reason"] for row in rows)
    (scans / "P03" / "notes.doc").write_bytes(b"PK")  # an archive, which may tell the names beside it
    write_task_left_out(tmp_path / "out", task)
    assert "patients.csv, line 5, file 2 of 3" in (text := (tmp_path / "out" / "patients.left_out.csv").read_text())
    assert "view" not in text


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (Listing(image_column="scn"), "no column 'scn' .*did you mean scan"),
        (Listing(image_column="scan"), "no column of labels .*--label-column"),
        (
            Listing(image_column="scan", label_column=("a", "b")),
            r"1 of 1 lines .* of several label columns: line 2 \(a is 'x'\)",
        ),
    ],
)
def test_missing_columns_are_named(tmp_path, listing, words):
    with pytest.raises(UserError, match=words):
        open_task(write(tmp_path / "l.csv", "scan,a,b", ["1.png,x,1"]), tmp_path, listing=listing)
