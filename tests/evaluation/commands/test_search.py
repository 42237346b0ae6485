"""`biovfm search`: the images most like an example, and the sheet that shows them."""

import json
import re
import resource
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from evaluation.commands.embed import main
from evaluation.commands.features import read_features, write_features
from evaluation.commands.search import main as search
from evaluation.encoders.encoder import Encoder
from tests.evaluation.commands.conftest import write_dataset


def test_the_sheet_of_a_dataset_shows_its_rows(tmp_path, tiny_model, class_folder, monkeypatch):
    files = sorted(class_folder.rglob("*.png"))[:4]
    source, out = write_dataset(tmp_path / "set", [file.read_bytes() for file in files]), tmp_path / "f.parquet"
    assert main(["--model", str(tiny_model), "--images", source, "--out", str(out)]) == 0
    sheets = []
    monkeypatch.setattr("evaluation.commands.search.draw_sheet", lambda *rest: sheets.append(rest))
    words = [
        "--model",
        str(tiny_model),
        "--features",
        str(out),
        "--query",
        str(files[2]),
        "--out",
        str(tmp_path / "x"),
    ]
    assert search([*words, "--images", source]) == 0
    _, _, picture_of, (entry,) = sheets[0]
    assert entry["found"][0]["id"] == "2"
    for number, file in enumerate(files):
        np.testing.assert_array_equal(picture_of(str(number)), np.asarray(Image.open(file)))
    with pytest.raises(UserError, match="holds no image of the features"):
        search([*words, "--images", str(class_folder)])


def test_search_finds_the_image_itself_and_draws_a_sheet(features, tmp_path, tiny_model, class_folder):
    query = sorted(class_folder.rglob("val/*/*.png"))[3]
    words = ["--model", str(tiny_model), "--features", str(features), "--query", str(query), "--top", "3"]
    assert search([*words, "--images", str(class_folder), "--out", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found" / "search.json").read_text())[0]["found"]
    assert found[0]["id"] == str(query.relative_to(class_folder)) and found[0]["similarity"] > 0.9999
    assert (
        len(found) == 3 and (tmp_path / "found" / "sheet.png").exists() and (tmp_path / "found" / "sheet.txt").exists()
    )


@pytest.mark.parametrize("pool", ["mean", "slices"])
def test_the_sheet_shows_one_slice_of_a_volume_as_example_and_as_hit(tmp_path, tiny_model, monkeypatch, pool):
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "scans").mkdir()
    array = np.random.default_rng(0).integers(0, 900, (40, 40, 40)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scans" / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array[::-1].copy() // 2, np.eye(4)), tmp_path / "scans" / "b.nii.gz")
    out = tmp_path / "f.parquet"
    words = ["--model", str(tiny_model), "--images", str(tmp_path / "scans")]
    main([*words, "--out", str(out), "--axes", "axial,coronal", "--slices", "4", "--pool", pool])
    sheets = []
    monkeypatch.setattr("evaluation.commands.search.draw_sheet", lambda *rest: sheets.append(rest))
    query = ["--query", str(tmp_path / "scans" / "a.nii.gz"), "--top", "16"]
    search([*words, "--features", str(out), *query, "--out", str(tmp_path / "found")])
    ((_, ((_, example),), picture_of, (entry,)),) = sheets
    own = [picture_of(hit["id"]) for hit in entry["found"] if hit["itself"]]
    assert len(own) == len(entry["found"]) / 2 == (1 if pool == "mean" else 8)
    assert sum(np.array_equal(example, picture) for picture in own) == 1  # different slices are different pictures
    assert len({picture.tobytes() for picture in own}) == len(own)
    assert example.shape == (40, 40, 3) and example.std() > 0


def test_examples_are_embedded_in_the_precision_of_the_features(tmp_path, tiny_model, class_folder, monkeypatch):
    out, query = tmp_path / "features.parquet", next(class_folder.rglob("*.png"))
    main(["--model", str(tiny_model), "--images", str(class_folder), "--out", str(out), "--precision", "bf16"])
    used, encode = [], Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, *rest: used.append(self.precision) or encode(self, *rest))
    words = ["--model", str(tiny_model), "--features", str(out), "--query", str(query)]
    search([*words, "--out", str(tmp_path / "found")])
    assert used == ["bf16"] and read_features(out).made_with["precision"] == "bf16"


def test_search_with_another_model_is_refused(features, tmp_path, second_model, class_folder):
    query = next(class_folder.rglob("*.png"))
    words = ["--model", str(second_model), "--features", str(features), "--query", str(query), "--out", str(tmp_path)]
    with pytest.raises(UserError, match="another model"):
        search(words)


def test_a_folder_that_was_not_embedded_is_refused_before_the_search(features, tmp_path, tiny_model, class_folder):
    query = next(class_folder.rglob("*.png"))
    words = ["--model", str(tiny_model), "--features", str(features), "--query", str(query), "--out", str(tmp_path)]
    for wrong in (tmp_path / "nowhere", class_folder / "train"):
        with pytest.raises(UserError, match=rf"images: {wrong} holds no image of .* give the folder or dataset"):
            search([*words, "--images", str(wrong)])
    assert not (tmp_path / "search.json").exists()


def test_a_search_leaves_vectors_out_that_are_not_finite(features, tmp_path, tiny_model, class_folder, capsys):
    written = read_features(features)
    written.vectors[1] = np.nan
    write_features(tmp_path / "f.parquet", written)
    query, out = next(class_folder.rglob("*.png")), tmp_path / "out"
    words = ["--model", str(tiny_model), "--features", str(tmp_path / "f.parquet"), "--query", str(query)]
    words += ["--out", str(out), "--top", "99", "--images", str(class_folder)]
    assert search(words) == 0
    found = json.loads((out / "search.json").read_text(), parse_constant=pytest.fail)[0]["found"]
    assert {hit["id"] for hit in found} == set(written.names) - {written.names[1]}
    assert f"f.parquet: 1 of {len(written.names)} vectors are not finite, and left out" in capsys.readouterr().err
    written.vectors[:] = np.nan
    write_features(tmp_path / "f.parquet", written)
    with pytest.raises(UserError, match=r"f\.parquet: no vector is finite"):
        search(words)


@pytest.fixture
def many(features, tmp_path):
    """A features file of 1,500 rows, the first of which are those of `features`."""
    written = read_features(features)
    rng = np.random.default_rng(0)
    others = rng.normal(size=(1500 - len(written.names), written.vectors.shape[1])).astype(np.float32)
    names = [*written.names, *(f"other {row}" for row in range(len(others)))]
    path = tmp_path / "many" / "f.parquet"
    path.parent.mkdir()
    write_features(path, replace(written, names=names, vectors=np.concatenate([written.vectors, others])))
    return path


def test_a_search_answers_where_no_index_can_be_written(many, tmp_path, tiny_model, class_folder, capsys):
    pytest.importorskip("faiss")
    query = sorted(class_folder.rglob("*.png"))[0]
    words = ["--model", str(tiny_model), "--features", str(many), "--query", str(query), "--index"]
    words += ["--out", str(tmp_path / "out")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as on a full disk, a write fails
    try:
        assert search(words) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capsys.readouterr().err
    assert re.search(r"no index was kept: .*f\.parquet\.faiss cannot be written \(write error .*File too large", told)
    assert "; give it room, or search without --index" in told
    found = (tmp_path / "out" / "search.json").read_text()
    assert [file.name for file in many.parent.iterdir()] == ["f.parquet"]
    assert search(words) == 0 and (many.parent / "f.parquet.faiss").is_file()
    assert search(words) == 0 and not capsys.readouterr().err
    again = json.loads((tmp_path / "out" / "search.json").read_text())[0]["found"]
    assert again[0] == json.loads(found)[0]["found"][0]


def test_a_search_without_need_of_an_index_says_so_and_answers(features, tmp_path, tiny_model, class_folder, capsys):
    pytest.importorskip("faiss")
    query = next(class_folder.rglob("*.png"))
    words = ["--model", str(tiny_model), "--features", str(features), "--query", str(query), "--index"]
    assert search([*words, "--out", str(tmp_path)]) == 0 and (tmp_path / "search.json").is_file()
    assert "no index was kept: 51 vectors need no index" in capsys.readouterr().err


def test_features_that_are_replaced_while_their_index_is_used_are_told(many, tmp_path, tiny_model, class_folder):
    pytest.importorskip("faiss")
    query = next(class_folder.rglob("*.png"))
    words = ["--model", str(tiny_model), "--features", str(many), "--query", str(query), "--index"]
    words += ["--out", str(tmp_path / "out")]
    assert search(words) == 0

    def replacing(path, **options):
        write_features(path, read_features(path))
        return read_features(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.commands.search.read_features", replacing)
        with pytest.raises(UserError, match=r"f\.parquet changed while it was read; search again"):
            search(words)
    assert search(words) == 0
