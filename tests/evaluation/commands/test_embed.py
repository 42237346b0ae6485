"""`biovfm embed`: a row for each image, and what is left out or withheld."""

import csv
import json
import os
import re
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from biovfm_hf.cards.provenance import Provenance, read_provenance, write_provenance
from biovfm_hf.cli import main as biovfm
from biovfm_hf.decoding.files import VOLUME_SUFFIXES
from biovfm_hf.errors import UserError
from evaluation.commands.embed import EmbedOptions, embed, main
from evaluation.commands.features import read_features, read_places
from evaluation.commands.search import main as search
from evaluation.encoders.device import default_precision, embedding_precision
from evaluation.encoders.load import load_encoder
from tests.dataset_builder.conftest import write_dicom
from tests.evaluation.commands.conftest import write_dataset


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


@pytest.mark.parametrize(("broken", "words"), [(b"no image", "no known image format"), (None, "is empty")])
def test_the_row_that_cannot_be_read_is_named(tmp_path, tiny_model, class_folder, broken, words):
    good = next(class_folder.rglob("*.png")).read_bytes()
    source = write_dataset(tmp_path / "set", [good, good, broken])
    out = tmp_path / "f.parquet"
    assert main(["--model", str(tiny_model), "--images", source, "--out", str(out)]) == 0
    features = read_features(out)
    assert features.names == ["0", "1"] and words in features.left_out["2"]


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
