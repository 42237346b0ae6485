"""`biovfm embed` and `biovfm search`."""

import csv
import json
import os
import re
import resource
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from biovfm_hf.cards.provenance import Provenance, read_provenance, write_provenance
from biovfm_hf.cli import main as biovfm
from biovfm_hf.decoding.files import VOLUME_SUFFIXES
from biovfm_hf.errors import UserError
from evaluation.commands import nearest
from evaluation.commands.embed import EmbedOptions, embed, main
from evaluation.commands.features import Features, read_features, read_places, write_features
from evaluation.commands.images import open_images
from evaluation.commands.nearest import most_similar
from evaluation.commands.search import main as search
from evaluation.encoders.device import default_precision, embedding_precision
from evaluation.encoders.encoder import Encoder
from evaluation.encoders.load import load_encoder
from tests.dataset_builder.conftest import write_dicom


@pytest.fixture
def features(tmp_path, tiny_model, class_folder):
    out = tmp_path / "features.parquet"
    words = ["--model", str(tiny_model), "--images", str(class_folder), "--out", str(out), "--precision", "fp32"]
    assert main(words) == 0
    return out


def test_one_row_per_image_with_its_vector(features, tiny_model, class_folder):
    written = read_features(features)
    names, vectors, made_with = written.names, written.vectors, written.made_with
    assert len(names) == 51 and vectors.shape == (51, 64) and names == sorted(names)
    encoder = load_encoder(str(tiny_model))
    image = np.asarray(Image.open(class_folder / names[7]))
    summary = encoder.encode(encoder.preprocess([image])).summary()
    wanted = np.concatenate([summary["class"][0], summary["mean"][0]])
    np.testing.assert_allclose(vectors[7], wanted, atol=1e-5)
    assert made_with["revision"] == encoder.revision and str(class_folder) not in json.dumps([names, made_with])
    assert [p.name for p in features.parent.iterdir()] == [features.name]


@pytest.mark.usefixtures("traced_only")
def test_compiled_vectors_agree(features, tmp_path, tiny_model, class_folder):
    out = tmp_path / "compiled.parquet"
    words = ["--model", str(tiny_model), "--images", str(class_folder), "--out", str(out), "--precision", "fp32"]
    main([*words, "--compile"])
    np.testing.assert_allclose(read_features(out).vectors, read_features(features).vectors, atol=1e-5)


def test_plain_readers_open_it(features):
    import pandas

    frame = pandas.read_parquet(features)
    assert list(frame.columns) == ["id", "features", "length"] and len(frame.features[0]) == 64


def test_datasets_are_embedded_too(tmp_path, tiny_model, class_folder):
    import datasets

    paths = sorted(class_folder.rglob("test/*/*.png"))[:6]
    rows = {
        "image": [str(path) for path in paths],
        "path": [f"a/{n}.nii" for n in range(6)],
        "view": ["axial"] * 6,
        "index": [None, 1, 2, 3, 4, 5],
    }
    (tmp_path / "set" / "data").mkdir(parents=True)
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    out = tmp_path / "f.parquet"
    main(["--model", str(tiny_model), "--images", str(tmp_path / "set"), "--out", str(out), "--features", "class"])
    written = read_features(out)
    names, vectors = written.names, written.vectors
    assert names[:2] == ["a/0.nii:axial", "a/1.nii:axial:1"] and vectors.shape == (6, 32)


def test_features_and_finds_of_private_sources_are_marked(tmp_path, tiny_model, class_folder):
    files = sorted(class_folder.rglob("*.png"))[:3]
    write_dataset(tmp_path / "set", [file.read_bytes() for file in files])
    write_provenance(tmp_path / "set", Provenance(private_sources=("clinic",)))
    out = tmp_path / "features.parquet"
    main(["--model", str(tiny_model), "--images", str(tmp_path / "set"), "--out", str(out)])
    assert read_features(out).private_sources == ("clinic",)
    search(
        [
            "--model",
            str(tiny_model),
            "--features",
            str(out),
            "--query",
            str(files[0]),
            "--out",
            str(tmp_path / "found"),
        ]
    )
    assert read_provenance(tmp_path / "found").private_sources == ("clinic",)


def write_dataset(folder, files):
    """A dataset folder with the bytes of files as its images; None for an empty cell."""
    import datasets

    cells = [None if data is None else {"bytes": data, "path": None} for data in files]
    features = datasets.Features({"image": datasets.Image()})
    (folder / "data").mkdir(parents=True)
    made = datasets.Dataset.from_dict({"image": cells}, features=features)
    made.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)


@pytest.mark.parametrize(("broken", "words"), [(b"no image", "no known image format"), (None, "is empty")])
def test_the_row_that_cannot_be_read_is_named(tmp_path, tiny_model, class_folder, broken, words):
    good = next(class_folder.rglob("*.png")).read_bytes()
    source = write_dataset(tmp_path / "set", [good, good, broken])
    out = tmp_path / "f.parquet"
    assert main(["--model", str(tiny_model), "--images", source, "--out", str(out)]) == 0
    features = read_features(out)
    assert features.names == ["0", "1"] and words in features.left_out["2"]


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


@pytest.fixture
def messy(tmp_path, make_image):
    """A folder with two good images and every kind of other file, and the message expected for each."""
    folder = tmp_path / "scans"
    (folder / ".hidden").mkdir(parents=True)
    (folder / "__MACOSX").mkdir()
    good = Image.fromarray(make_image(0, 0))
    for name in ("a.png", ".hidden/b.png", "__MACOSX/c.png", ".d.png", "deep/e.jfif"):
        (folder / name).parent.mkdir(exist_ok=True)
        good.save(folder / name, format="PNG" if name.endswith("png") else "JPEG")
    (folder / "cut.jpg").write_bytes((folder / "deep" / "e.jfif").read_bytes()[:300])
    good.save(folder / "cine.gif", save_all=True, append_images=[Image.fromarray(make_image(1, n)) for n in range(5)])
    (folder / "scan.nii.gz").write_bytes(b"")
    (folder / "report.txt").write_text("no picture")
    write_dicom(folder / "IM0001", np.tile(np.arange(64, dtype=np.uint8), (64, 1)))
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    told = {"cut.jpg": "truncated|damaged|not a readable", "cine.gif": "holds 6 frames", "pipe.png": "regular file",
            "scan.nii.gz": "", "report.txt": "no known image format", "gone.png": "No such file"}  # fmt: skip
    return folder, told


def test_what_cannot_be_read_is_left_out_and_accounted_for(tmp_path, tiny_model, messy, capsys):
    folder, told = messy
    out = tmp_path / "f.parquet"
    words = ["--model", str(tiny_model), "--images", str(folder), "--out", str(out)]
    assert main(words) == 0
    features = read_features(out)
    assert features.names == ["IM0001", "a.png", "deep/e.jfif"] and np.isfinite(features.vectors).all()
    assert features.left_out.keys() == told.keys()
    for name, reason in told.items():
        assert re.search(reason, features.left_out[name]) and str(tmp_path) not in features.left_out[name]
    with (tmp_path / "f.parquet.left_out.csv").open(newline="") as file:
        assert dict(list(csv.reader(file))[1:]) == features.left_out
    assert "6 files left out" in capsys.readouterr().out
    assert main([*words, "--strict"]) == 1


def test_frames_are_embedded_on_request(tmp_path, tiny_model, messy, capsys):
    out = tmp_path / "f.parquet"
    words = ["--model", str(tiny_model), "--images", str(messy[0]), "--out", str(out)]
    main([*words, "--frames", "2"])
    frames = [name for name in read_features(out).names if name.startswith("cine")]
    assert frames == ["cine.gif:frame:1", "cine.gif:frame:4"]
    main([*words, "--frames", "all"])
    assert len(read_features(out).names) == 9
    search_words = ["--model", str(tiny_model), "--features", str(out), "--query", str(messy[0] / "a.png")]
    search_words += ["--query", str(messy[0] / "cut.jpg"), "--images", str(messy[0]), "--out", str(tmp_path / "found")]
    assert search(search_words) == 0
    found = json.loads((tmp_path / "found" / "search.json").read_text())
    assert [entry["query"] for entry in found] == ["a.png"] and found[0]["found"][1]["id"] == "cine.gif:frame:0"
    told = (tmp_path / "found" / "left_out.csv").read_text()
    assert "\ncut.jpg,cut.jpg: " in told and "scans" not in told
    assert [hit["itself"] for hit in found[0]["found"]] == [True] + [False] * 7
    others = ", ".join(f"{hit['id']} ({hit['similarity']:.3f})" for hit in found[0]["found"][1:3])
    assert (
        f"a.png: a.png (1.000, the example itself), {others} and 5 more\nin {tmp_path / 'found' / 'search.json'}\n"
        in capsys.readouterr().out
    )
    assert search([*search_words, "--strict"]) == 1
    (tmp_path / "quimby").mkdir()
    (tmp_path / "quimby" / "cut.jpg").write_bytes(b"no image")
    search([*search_words, "--query", str(tmp_path / "quimby" / "cut.jpg")])
    told = (tmp_path / "found" / "left_out.csv").read_text()
    assert re.findall("^example .", told, re.MULTILINE) == ["example 2", "example 3"] and "quimby" not in told


def test_paths_are_withheld_on_request(tmp_path, tiny_model, messy, capsys):
    """Ids are keyed hashes, only the user can read the table of paths, and a search finds images through it."""
    folder, told = messy
    out = tmp_path / "f.parquet"
    words = ["--model", str(tiny_model), "--images", str(folder), "--out", str(out), "--frames", "2"]
    assert main([*words, "--paths", "withhold"]) == 0
    features, places = read_features(out), read_places(out)
    assert all(re.fullmatch(r"[0-9a-f]{16}(\.\w+)?(:frame:\d)?", name) for name in features.names)
    read = {places[name.partition(":")[0]] for name in features.names}
    assert read == {"IM0001", "a.png", "deep/e.jfif", "cine.gif"}
    assert {places[name] for name in features.left_out} == told.keys() - {"cine.gif"}
    assert (tmp_path / "f.parquet.paths.csv").stat().st_mode & 0o777 == 0o600
    query = ["--query", str(folder / "a.png"), "--query", str(folder / "cut.jpg"), "--images", str(folder)]
    found = tmp_path / "found"
    assert search(["--model", str(tiny_model), "--features", str(out), *query, "--out", str(found)]) == 0
    (entry,) = json.loads((found / "search.json").read_text())
    assert entry["query"] == "example 1" and places[entry["found"][0]["id"]] in ("a.png", "deep/e.jfif")
    shown = "".join(capsys.readouterr()) + out.read_bytes().decode("latin-1")
    assert f"{out}.paths.csv, for you only, maps ids to paths" in shown
    shown += "".join(
        path.read_bytes().decode("latin-1") for path in (*found.iterdir(), out.with_name(f"{out.name}.left_out.csv"))
    )
    assert not re.findall(r"\b(a\.png|e\.jfif|cut\.jpg|IM0001|cine|report)", shown)
    assert read_provenance(found).private_sources
    main(words)
    assert "a.png" in read_features(out).names and not (tmp_path / "f.parquet.paths.csv").exists()


def test_slices_of_one_series_get_a_hint(tmp_path, tiny_model, make_image, capsys):
    pictures = tmp_path / "pictures"
    place = {"SeriesInstanceUID": "1.2.3", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    for number in range(3):
        header = {**place, "ImagePositionPatient": [0, 0, 2.0 * number], "InstanceNumber": number + 1}
        write_dicom(tmp_path / "scans" / "one" / f"{number}.dcm", make_image(0, number)[..., 0], **header)
        write_dicom(pictures / f"{number}.dcm", make_image(0, number)[..., 0], SeriesInstanceUID="1.2.3")
    words = ["--model", str(tiny_model), "--out", str(tmp_path / "f.parquet"), "--images"]
    hint = "3 DICOM files share a series; --series makes them one volume"
    assert main([*words, str(tmp_path / "scans")]) == 0 and capsys.readouterr().err.count(hint) == 1
    assert main([*words, str(tmp_path / "scans"), "--series"]) == 0 and hint not in capsys.readouterr().err
    assert main([*words, str(pictures)]) == 0 and "--series" not in capsys.readouterr().err


def test_paths_that_repeat_headers_are_withheld_by_default(tmp_path, tiny_model, make_image, capsys):
    """One such path makes ids of the whole folder hashes; the user is told why, and not the name."""
    folder, out = tmp_path / "scans", tmp_path / "f.parquet"
    write_dicom(folder / "quimby" / "1.dcm", make_image(0, 0), PatientName="Quimby^Jane")
    Image.fromarray(make_image(0, 1)).save(folder / "quimby" / "report.png")
    words = ["--model", str(tiny_model), "--images", str(folder), "--out", str(out)]
    assert main(words) == 0
    shown = "".join(capsys.readouterr())
    assert "ids are keyed hashes, because paths repeat" in shown and "f.parquet.paths.csv" in shown
    features = read_features(out)
    assert "quimby" not in shown + str(features) and "quimby/report.png" in read_places(out).values()
    found = ["--model", str(tiny_model), "--features", str(out), "--out", str(tmp_path / "found")]
    assert search([*found, "--query", str(folder / "quimby" / "report.png")]) == 0
    assert main([*words, "--paths", "keep"]) == 0 and "quimby/1.dcm" in read_features(out).names
    write_dicom(tmp_path / "jane.dcm", make_image(0, 0), PatientName="Quimby^Jane")
    assert search([*found, "--query", str(tmp_path / "jane.dcm")]) == 0
    assert "jane" not in (tmp_path / "found" / "search.json").read_text() + "".join(capsys.readouterr())


@pytest.mark.parametrize("stray", ["sub/table.parquet", "quimby/data/t.parquet", "t.parquet"])
def test_a_table_among_images_is_left_out(tmp_path, tiny_model, make_image, stray):
    """It does not make a dataset of the folder; nor do features that are written into the folder itself."""
    folder = tmp_path / "scans"
    write_dicom(folder / "quimby" / "1.dcm", make_image(0, 0), PatientName="Quimby^Jane")
    (folder / "quimby" / "broken.png").write_bytes(b"no image")
    (folder / stray).parent.mkdir(exist_ok=True)
    (folder / stray).write_bytes(b"")
    out = folder / "f.parquet"
    for _ in range(2):
        assert main(["--model", str(tiny_model), "--images", str(folder), "--out", str(out)]) == 0
        features = read_features(out)
        assert len(features.names) == 1 and "quimby" not in str(features)
        assert set(read_places(out).values()) == {"quimby/1.dcm", "quimby/broken.png", stray}


def test_a_dataset_may_have_pictures_beside_its_data(tmp_path, tiny_model, make_image):
    Image.fromarray(make_image(0, 0)).save(tmp_path / "one.png")
    source = write_dataset(tmp_path / "set", [(tmp_path / "one.png").read_bytes()])
    (tmp_path / "set" / "figures").mkdir()
    (tmp_path / "one.png").rename(tmp_path / "set" / "figures" / "sizes.png")
    words = ["--model", str(tiny_model), "--images", source, "--out", str(tmp_path / "f.parquet")]
    assert main(words) == 0 and read_features(tmp_path / "f.parquet").names == ["0"]
    with pytest.raises(UserError, match="withhold is for a folder of images"):
        main([*words, "--paths", "withhold"])
    next((tmp_path / "set" / "data").iterdir()).write_bytes(b"no table")
    with pytest.raises(UserError, match="neither a folder of images nor a dataset"):
        main(words)


def test_a_resumed_run_still_reports_what_was_left_out(tmp_path, tiny_model, messy, monkeypatch):
    out = tmp_path / "f.parquet"
    options = EmbedOptions(model=str(tiny_model), images=str(messy[0]), out=out)
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.commands.embed.write_features", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed(options)
    assert embed(options).left_out.keys() == messy[1].keys()


def test_a_folder_without_readable_files_is_reported(tmp_path, tiny_model):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 1 images could be read; the first, a\.png: "):
        main(["--model", str(tiny_model), "--images", str(tmp_path / "scans"), "--out", str(tmp_path / "f.parquet")])


@pytest.mark.parametrize("broken", [SafetensorError("I/O error: No space left on device"), OSError(28, "No space")])
def test_a_full_disk_is_one_line(tmp_path, tiny_model, class_folder, monkeypatch, broken):
    def save_file(*_, **__):
        raise broken

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    with pytest.raises(UserError, match=r"cannot be written .*No space.*free some disk space"):
        main(["--model", str(tiny_model), "--images", str(class_folder), "--out", str(tmp_path / "f.parquet")])


@contextmanager
def largest_file(size):
    """Let no file grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_in_writing_is_one_line(features, tmp_path, tiny_model, class_folder, capsys):
    """Of every file in turn: the limit lets one more of them pass."""
    query = ["--query", str(next(class_folder.rglob("*.png"))), "--images", str(class_folder)]
    search_words = ["search", "--model", str(tiny_model), "--features", str(features), *query]
    embed_words = ["embed", "--model", str(tiny_model), "--images", str(class_folder)]
    for command, size, name in (
        (embed_words, 100, "safetensors"), (search_words, 1, "provenance.json"), (search_words, 300, "search.json"),
        (search_words, 4000, "sheet.png"),
    ):  # fmt: skip
        out = tmp_path / ("f.parquet" if command is embed_words else "found")
        with largest_file(size):
            assert biovfm([*command, "--out", str(out)]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if "img/s" not in line and line.strip()]
        assert len(errors) == 1 and errors[0].startswith("error: ") and name in errors[0]
    assert not [path for path in tmp_path.rglob("*.tmp-*")]


def test_the_help_names_every_suffix_of_a_volume(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert ", ".join(VOLUME_SUFFIXES) in capsys.readouterr().out


def test_misuse_is_reported(tmp_path, tiny_model):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image file"):
        main(["--model", str(tiny_model), "--images", str(tmp_path / "empty"), "--out", str(tmp_path / "f.parquet")])
    with pytest.raises(UserError, match="not a features file"):
        read_features(tmp_path / "nothing.parquet")


def test_what_cannot_be_embedded_is_reported_before_the_work(tmp_path, tiny_model, class_folder, capsys):
    words = ["--model", str(tiny_model), "--out"]
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path), "--images", str(class_folder)])
    assert "is a folder; give a file" in capsys.readouterr().err
    image = next(class_folder.rglob("*.png"))
    for source, told in ((str(image), "is a file"), (str(tmp_path / "none"), "no such folder")):
        with pytest.raises(UserError, match=told):
            main([*words, str(tmp_path / "f.parquet"), "--images", source])


def test_no_dataset_is_waited_for_without_a_network(monkeypatch):
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def load_dataset(*_, **__):
        raise FileNotFoundError(f"offline: {constants.HF_HUB_OFFLINE}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match="offline: True"):
        open_images("someone/scans", None, "train", 32)


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


@pytest.mark.parametrize(("avx512", "amx", "expected"), [(0, 0, "fp32"), (1, 0, "bf16"), (0, 1, "bf16")])
def test_bfloat16_is_taken_where_the_cpu_has_it(
    tmp_path, tiny_model, class_folder, monkeypatch, avx512, amx, expected
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    out = tmp_path / "out.parquet"
    main(["--model", str(tiny_model), "--images", str(class_folder), "--out", str(out), "--device", "cpu"])
    assert read_features(out).made_with["precision"] == expected == embedding_precision("cpu")
    assert default_precision("cpu") == "fp32"


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


def test_most_similar_is_the_sorted_cosine():
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(40, 5)), rng.normal(size=(3, 5))
    rows, similarity = most_similar(vectors, queries, 6)
    whole = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ).T
    assert np.array_equal(rows, np.argsort(-whole, axis=1)[:, :6])
    np.testing.assert_allclose(similarity, -np.sort(-whole, axis=1)[:, :6])
    assert most_similar(vectors, queries, 99)[0].shape == (3, 40)


def test_lengths_are_stored_with_the_vectors_and_used(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    vectors[7] = 0
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(40)], vectors, {"model": "m"}))
    features = read_features(path)
    np.testing.assert_array_equal(features.vectors, vectors)
    np.testing.assert_allclose(features.lengths, np.maximum(np.linalg.norm(vectors, axis=1), 1e-12), rtol=1e-6)
    known = most_similar(vectors, vectors[:3], 6, features.lengths)
    for one, other in zip(known, most_similar(vectors, vectors[:3], 6), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    ids = read_features(path, vectors=False)
    assert ids.names == features.names and not ids.vectors.size
    table = pq.read_table(path)
    assert table.column_names == ["id", "features", "length"] and table["features"][3].as_py() == vectors[3].tolist()


@pytest.mark.parametrize("rows", [1, 40, 3000])
@pytest.mark.parametrize("layout", ["ours", "one page", "pages of 2", "compressed", "dictionary", "nullable", "lists"])
def test_vectors_are_read_from_any_layout(tmp_path, rows, layout):
    vectors = np.random.default_rng(0).integers(0, 9, (rows, 24)).astype(np.float32) - 4
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(rows)], vectors, {"model": "m"}))
    table, options = pq.read_table(path), {"use_dictionary": False, "compression": "none"}
    if layout in ("nullable", "lists"):
        kind = pa.list_(pa.float32(), 24) if layout == "nullable" else pa.list_(pa.float32())
        table = table.set_column(1, pa.field("features", kind), table["features"].cast(kind))
    options |= {"compressed": {"compression": "zstd"}, "dictionary": {"use_dictionary": True}}.get(layout, {})
    options |= {"one page": {"data_page_size": 1 << 30, "data_page_version": "2.0"}}.get(layout, {})
    options |= {"pages of 2": {"data_page_size": 1, "write_batch_size": 2, "write_page_checksum": True}}.get(
        layout, {}
    )
    if layout != "ours":
        pq.write_table(table, path, row_group_size=1000, **options)
    np.testing.assert_array_equal(read_features(path).vectors, vectors)


def test_reading_vectors_needs_their_memory_once(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(160_000, 64)).astype(np.float32)
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(160_000)], vectors, {"model": "m"}))
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        read_features(path)
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert traced < 1.5 * vectors.nbytes and pool.max_memory() < vectors.nbytes / 3  # ids and lengths are read, too


def test_damaged_pages_are_told(tmp_path):
    path = tmp_path / "f.parquet"
    write_features(path, Features(["a", "b"], np.ones((2, 500), np.float32), {"model": "m"}))
    part = pq.ParquetFile(path).metadata.row_group(0).column(1)
    damaged = bytearray(path.read_bytes())
    damaged[part.data_page_offset : part.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"f\.parquet is not a features file"):
        read_features(path)


def test_a_table_without_a_row_or_a_vector_says_so(tmp_path):
    path = tmp_path / "f.parquet"
    write_features(path, Features([], np.empty((0, 3), np.float32), {"model": "m"}))
    with pytest.raises(UserError, match=r"f\.parquet has no row; embed a folder"):
        read_features(path)
    about = pq.read_schema(path).metadata
    column = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"id": ["a", "b", "c"], "features": column}).replace_schema_metadata(about), path)
    with pytest.raises(UserError, match=r"f\.parquet, row 1: it has no vector; leave it out"):
        read_features(path)
    for lists, reason in (
        ([[1, 2], [3, 4, 5, 6], [7, 8, 9]], "row 1: its vector has 4 numbers, that of row 0 2; leave"),
        ([[], [], []], "row 0: it has no vector"),
    ):
        column = pa.array(lists, pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": ["a", "b", "c"], "features": column}).replace_schema_metadata(about), path)
        with pytest.raises(UserError, match=reason):
            read_features(path)


def _compact(number):
    """A number of two bytes as Thrift's compact protocol writes it in a page's header: doubled, seven bits a byte."""
    return bytes([2 * number & 127 | 128, 2 * number >> 7 & 127 | 128, 2 * number >> 14])


def test_a_page_with_fewer_rows_than_stated_is_told(tmp_path):
    """Arrow reads what is there without a word; the rest of the array would be what was in memory before."""
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(300)], np.ones((300, 48), np.float32), {"model": "m"}))
    whole, start = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    at = whole.index(_compact(300 * 48), start, start + 64)
    path.write_bytes(whole[:at] + _compact(172 * 48) + whole[at + 3 :])
    with pytest.raises(UserError, match=r"f\.parquet is not a features file \(172 rows could be read of the 300"):
        read_features(path)


@pytest.mark.parametrize("lengths", [None, "stored"])
def test_vectors_that_are_not_finite_are_not_similar(lengths):
    vectors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    query = vectors[:1].copy()
    vectors[3], vectors[4, 2], vectors[5], vectors[6] = np.nan, np.inf, 0, query
    known = None if lengths is None else np.linalg.norm(vectors, axis=1)
    rows, similarity = most_similar(vectors, query, 3, known)
    assert sorted(rows[0, :2].tolist()) == [0, 6] and np.isfinite(similarity).all()
    rows, similarity = most_similar(vectors, query, 9, known)
    assert sorted(rows[0].tolist()) == [-1, -1, 0, 1, 2, 5, 6, 7, 8] and rows[0, 7:].tolist() == [-1, -1]
    assert similarity[0, rows[0] == 5] == 0


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


def test_an_index_finds_what_the_exact_search_finds(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 24))
    vectors = (centres[rng.integers(0, 50, 4000)] + 0.3 * rng.normal(size=(4000, 24))).astype(np.float32)
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(4000)], vectors, {"model": "m"}))
    index = nearest.Index(path)
    assert not index.fresh
    index.build(vectors)
    rows, similarity = index.most_similar(vectors[:100], 10)
    exact, cosines = most_similar(vectors, vectors[:100], 10)
    shared = [len(set(one) & set(other)) for one, other in zip(rows.tolist(), exact.tolist(), strict=True)]
    assert np.mean(shared) > 9.5 and (rows[:, 0] == exact[:, 0]).all()
    np.testing.assert_allclose(similarity[:, 0], cosines[:, 0], atol=1e-5)
    assert nearest.Index(path).fresh
    lacking = np.where(np.arange(4000)[:, None] == 5, np.nan, vectors).astype(np.float32)
    index.build(lacking)
    assert (index.most_similar(vectors[:3], 10)[0] == rows[:3]).mean() > 0.9
    write_features(path, Features([str(n) for n in range(39)], vectors[:39], {"model": "m"}))
    assert not nearest.Index(path).fresh
    with pytest.raises(UserError, match="39 vectors need no index"):
        nearest.Index(path).build(vectors[:39])


@pytest.mark.parametrize("damage", ["cut", "emptied", "another file", "a few bytes", "removed"])
def test_a_damaged_index_is_not_fresh(tmp_path, damage):
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    path, file = tmp_path / "f.parquet", tmp_path / "f.parquet.faiss"
    write_features(path, Features([str(n) for n in range(1500)], vectors, {"model": "m"}))
    index = nearest.Index(path)
    index.build(vectors)
    assert index.fresh
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 40]) + whole[middle + 40 :]
    contents = {"cut": whole[:middle], "emptied": b"", "another file": b"x" * len(whole), "a few bytes": flipped}
    file.unlink() if damage == "removed" else file.write_bytes(contents[damage])
    assert not nearest.Index(path).fresh
    if damage in ("cut", "emptied", "another file"):
        with pytest.raises(UserError, match=r"f\.parquet\.faiss is damaged; remove it"):
            index.most_similar(vectors[:1], 3)


def test_a_search_does_not_copy_the_vectors():
    vectors = np.random.default_rng(0).normal(size=(50_000, 64)).astype(np.float32)
    vectors.flags.writeable = False
    tracemalloc.start()
    try:
        most_similar(vectors, vectors[:2], 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 4


@pytest.mark.parametrize(
    ("sides", "part"), [((500, 500), 1), ((512, 640), 2), ((1100, 1100), 4), ((4096, 4096), 8), ((1130, 1168), 2)]
)
def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path, sides, part):
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=90)
    images = open_images(str(tmp_path), None, "train", 224).images
    rows = open_images(write_dataset(tmp_path / "set", [(tmp_path / "a.jpg").read_bytes()]), None, "train", 224).images
    assert images[0].shape == (sides[1] // part, sides[0] // part, 3) and np.array_equal(images[0], rows[0])
    whole = np.asarray(Image.open(tmp_path / "a.jpg"))
    small, expected = (np.asarray(Image.fromarray(image).resize((224, 224), 3), float) for image in (images[0], whole))
    assert np.abs(small - expected).mean() < 0.5


def test_jpegs_of_sides_without_a_common_part_are_decoded_whole(tmp_path):
    """565 x 584 at 1/8 is 71 x 73: in a square of 48 that image was 47 wide; from the whole file it is 46."""
    Image.new("RGB", (565, 584)).save(tmp_path / "a.jpg")
    images = open_images(str(tmp_path), None, "train", 48).images
    assert images[0].shape == (584, 565, 3)
