"""`biovfm probe --by` from end to end: groups.json of a CSV task with columns of people."""

import csv
import json

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.commands.probe import main
from evaluation.results.trust.records import check_columns
from evaluation.tasks import open_task
from evaluation.tasks.radiographs import _columns


@pytest.fixture
def listing(tmp_path, class_folder):
    files = sorted(class_folder.rglob("*.png"))
    test = [file for file in files if file.parts[-3] == "test"] * 3
    path = tmp_path / "people.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "split", "sex", "age"])
        for number, file in enumerate([*(f for f in files if f.parts[-3] != "test"), *test]):
            if file.parts[-3] == "test":
                copy = tmp_path / f"{number}.png"
                copy.write_bytes(file.read_bytes())
            else:
                copy = file
            writer.writerow([copy, file.parts[-2], file.parts[-3], "FM"[number % 2], number % 90])
    return path


def test_a_column_that_is_not_there_is_answered_with_those_that_are(listing):
    task = open_task(str(listing), listing.parent)
    with pytest.raises(UserError, match=r"no column 'gender' to group its cases by; there are [a-z, ]*sex, age$"):
        check_columns([task], ("gender",))


def test_every_record_has_its_groups(tmp_path, tiny_model, listing, capsys):
    out = tmp_path / "results"
    words = ["--model", str(tiny_model), "--tasks", str(listing), "--out", str(out), "--method", "knn", "--no-figures"]
    assert main([*words, "--resamples", "20", "--by", "sex,age"]) == 0
    rows = json.loads((out / "groups.json").read_text())
    assert {(row["by"], row["label"]) for row in rows} == {("sex", 0), ("age", 0)}
    assert set(rows[0]["groups"]) == {"F", "M"}
    assert sum(group["n"] for group in rows[0]["groups"].values()) == json.loads(
        (out / "results.json").read_text())[0]["n_test"]  # fmt: skip
    assert "by sex, label 0: " in capsys.readouterr().out
    # A grouping that is asked for later joins them; rows of a record that is gone, or of other weights, do not stay.
    gone = {**rows[0], "model": "gone"}, {**rows[0], "by": "site", "revision": "other"}
    (out / "groups.json").write_text(json.dumps([rows[0], *gone, rows[1]]))
    assert main([*words, "--resamples", "20", "--by", "split"]) == 0
    later = json.loads((out / "groups.json").read_text())
    assert [row["by"] for row in later] == [rows[0]["by"], rows[1]["by"], "split"] and later[0] == rows[0]
    with pytest.raises(UserError, match=r"no column 'seks'.*sex"):
        main([*words, "--by", "seks"])


def test_a_source_gives_the_columns_that_it_has():
    rows = [{"Patient Gender": "F"}, {"Patient Gender": "M"}]
    found = _columns(rows, {"sex": "Patient Gender", "age": "Patient Age"})
    assert {name: values.tolist() for name, values in found.items()} == {"sex": ["F", "M"]}
    assert isinstance(found["sex"], np.ndarray)
