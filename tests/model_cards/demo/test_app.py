"""The demo page's pieces, and the page itself over HTTP where gradio is installed."""

import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biovfm_hf.errors import UserError
from model_cards.demo import app as demo_app
from model_cards.demo import command as demo
from model_cards.demo import reading
from tests.dataset_builder.conftest import write_dicom
from tests.preloaded import with_torch


@pytest.fixture(scope="module")
def encoder(saved_model):
    return demo_app.Encoder(str(saved_model))


@pytest.fixture
def classes(make, tmp_path):
    """Two classes of clearly different images."""
    for name, shade in (("stripes", 16), ("smooth", 1)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(make.image(shade, 48 + number))
    (tmp_path / "images" / "smooth" / "broken.png").write_bytes(b"nothing")
    return tmp_path / "images"


def test_an_image_finds_itself_and_its_class(encoder, classes):
    index = demo.build_index(encoder, classes, 100, seed=0)
    assert sorted(set(index.labels)) == ["smooth", "stripes"] and len(index.labels) == 12
    analyser, file = demo_app.Analyser.of(encoder, index), str(classes / "stripes" / "3.png")
    result = analyser(file)
    assert result.view.size == result.colours.size == (336, 336) and len(result.gallery) == 8
    assert result.gallery[0][1] == "1.000 stripes" and result.message == ""
    assert sum(result.shares.values()) == pytest.approx(1) == sum(result.scores.values())
    assert result.scores["stripes"] > 0.5
    with pytest.raises(ValueError, match="whole number"):
        analyser(file, "-1")


def test_a_rare_label_is_indexed_as_often_as_others(tmp_path):
    rows = [("MR", "brain", str(number)) for number in range(300)] + [("X-Ray", None, "rare")] * 3
    columns = dict(zip(("modality", "anatomy", "subject"), map(list, zip(*rows, strict=True)), strict=True))
    columns["image"] = [{"bytes": b"%d" % number, "path": None} for number in range(303)]
    (tmp_path / "set" / "data").mkdir(parents=True)
    pq.write_table(pa.table(columns), tmp_path / "set" / "data" / "a.parquet", row_group_size=100)
    drawn = list(demo.indexed_images(tmp_path / "set", 32, seed=0))
    assert len(drawn) == 32 == len({raw for raw, _, _ in drawn})
    assert [(raw, label) for raw, label, subject in drawn if subject == "rare"] == [
        (b"300", "X-Ray"), (b"301", "X-Ray"), (b"302", "X-Ray"),
    ]  # fmt: skip
    assert {(subject, label) for raw, label, subject in drawn if raw == b"7"} <= {("7", "MR, brain")}
    for name in [f"a/{number}" for number in range(30)] + ["b/0"]:
        (tmp_path / "folder" / name[0]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / f"{name}.png").write_bytes(b"x")
    for seed in range(3):
        labels = [label for _, label, _ in demo.indexed_images(tmp_path / "folder", 4, seed)]
        assert sorted(labels) == ["a", "a", "a", "b"]


def test_what_is_unlike_the_indexed_images_gets_no_label():
    """Directions around one axis: a held-out subject is near the others, the opposite direction is not."""
    chance = np.random.default_rng(0)
    features = demo_app.unit(np.eye(8)[0] + chance.normal(0, 0.05, (60, 8)))
    index = demo_app.Index(features, ["a", "b"] * 30, [b""] * 60, [str(number // 2) for number in range(60)])
    familiar = demo_app.Familiarity.of(index)
    assert 0.9 < familiar.least < 1
    near = demo_app.nearest(index, demo_app.unit(np.eye(8)[0]))
    far = demo_app.nearest(index, demo_app.unit(np.eye(8)[3]))
    assert familiar.doubt(near) == "" and "So no label is given." in familiar.doubt(far)
    told = demo_app.Familiarity(0.9971).doubt([(0, 0.9968)])
    assert "similarity 0.9968" in told and "have 0.9971 or more" in told
    few = demo_app.Index(features[:8], ["a"] * 8, [b""] * 8, list("abcdefgh"))
    assert demo_app.Familiarity.of(few) is None


def test_a_small_index_gives_neighbours_but_no_labels(encoder, classes):
    pytest.importorskip("gradio")
    index = demo.build_index(encoder, classes, 8, seed=0)
    count = len(set(index.subjects))
    assert count < 10 and len(set(index.labels)) == 2
    result = demo_app.Analyser.of(encoder, index)(str(classes / "stripes" / "3.png"))
    assert len(result.gallery) == len(index.labels) and result.shares is None and result.scores is None
    blocks = demo_app.build_page(encoder, index).blocks.values()
    told = [block.value for block in blocks if type(block).__name__ == "Markdown"]
    assert any(f"takes 10 subjects, and these are of {count}. So that check is off" in str(text) for text in told)
    assert [block.visible for block in blocks if type(block).__name__ == "Label"] == [False, False]


def test_uploads_lie_in_a_folder_of_their_own(encoder, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/nowhere")
    demo_app.build_page(encoder, None)
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert folder.name == "uploads" and folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700


def test_files_are_read_by_a_process_that_may_die(encoder, make, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(make.image(3))
    limited = demo_app.Encoder(encoder.name, read=reading.read_image)
    for mine, theirs in zip(limited(str(tmp_path / "a.png")), encoder(str(tmp_path / "a.png")), strict=True):
        assert np.allclose(mine, theirs, atol=1e-5)
    monkeypatch.setattr(reading, "shown", die)
    with pytest.raises(UserError, match=r"a\.png: its decoder crashed"):
        limited(str(tmp_path / "a.png"))


def die(*_):
    os.abort()


def test_an_image_of_too_many_pixels_is_refused(tmp_path):
    Image.new("L", (9000, 5000)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="over the limit"):
        reading.read_image(tmp_path / "large.png", {}, {})


def test_long_pixels_make_no_more_of_them_than_allowed(tmp_path, monkeypatch):
    write_dicom(tmp_path / "long.dcm", np.full((60, 60), 9, np.uint8), PixelSpacing=[9.0, 1.0])
    assert reading.read_image(tmp_path / "long.dcm", {}, {}).size == (60, 540)
    monkeypatch.setattr(reading, "MAX_PIXELS", 10_000)
    width, height = reading.read_image(tmp_path / "long.dcm", {}, {}).size
    assert width * height < 10_200 and abs(height / width - 9) < 0.3


def test_a_dataset_folder_is_indexed_with_modality_and_anatomy(encoder, dataset_dir):
    index = demo.build_index(encoder, dataset_dir, 30, seed=1)
    assert 20 <= len(index.labels) <= 30 and set(index.labels) <= {"X-Ray, chest", "OCT, retina", "Ultrasound"}
    assert index.labels == demo.build_index(encoder, dataset_dir, 30, seed=1).labels


def test_the_index_survives_its_file(encoder, classes, tmp_path):
    index = demo.build_index(encoder, classes, 5, seed=0)
    index.save(tmp_path / "index.npz")
    again = demo_app.Index.load(tmp_path / "index.npz")
    assert again.labels == index.labels and again.subjects == index.subjects and again.thumbnails == index.thumbnails
    assert np.allclose(again.features, index.features, atol=1e-3)
    assert Image.open(io.BytesIO(again.thumbnails[0])).size == (32, 32)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_pca_map_is_a_picture_that_ignores_offsets(side, depth, seed):
    patches = np.random.default_rng(seed).normal(size=(side, side, depth))
    colours = demo_app.pca_map(patches)
    assert colours.shape == (side, side, 3) and colours.dtype == np.uint8
    moved = demo_app.pca_map(patches + 3.0)
    assert np.abs(colours.astype(int) - moved.astype(int)).max() <= 1


def test_pca_map_separates_two_regions():
    patches = np.zeros((8, 8, 5))
    patches[:, 4:, 2] = 1
    red = demo_app.pca_map(patches)[..., 0]
    assert (red[:, 4:] == 255).all() and (red[:, :4] == 0).all()


def test_votes_favour_the_nearer():
    index = demo_app.Index(np.eye(3), ["a", "b", "b"], [b"", b"", b""], ["x", "y", "z"])
    shares = demo_app.votes(index, [(0, 0.9), (1, 0.83), (2, 0.1)])
    assert shares["a"] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-3) and list(shares) == ["a", "b"]


def test_the_probe_is_the_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    chance = np.random.default_rng(0)
    labels = list(chance.choice(["ct", "mr", "us"], 90))
    rows = chance.normal(size=(90, 6)) + np.array([["ct", "mr", "us"].index(label) for label in labels])[:, None]
    scaler = StandardScaler().fit(rows)
    theirs = LogisticRegression(tol=1e-8, max_iter=2000).fit(scaler.transform(rows), labels)
    probe = demo_app.fit_probe(rows, labels)
    assert probe.classes == list(theirs.classes_)
    assert np.abs(probe(rows) - theirs.predict_proba(scaler.transform(rows))).max() < 1e-4


def test_held_out_accuracy_keeps_subjects_apart():
    """Features that identify only the subject: seen subjects would be classified right, held-out ones by chance."""
    chance = np.random.default_rng(0)
    subjects = np.repeat(np.arange(60), 4)
    labels = [("a", "b")[label] for label in chance.integers(0, 2, 60)[subjects]]
    own = chance.normal(size=(60, 80))[subjects]
    index = demo_app.Index(own + chance.normal(0, 0.01, own.shape), labels, [], [str(s) for s in subjects])
    accuracy, images = demo_app.held_out_accuracy(index)
    assert images == 48 and accuracy < 0.85
    assert demo_app.held_out_accuracy(demo_app.Index(own[:4], labels[:4], [], ["x"] * 4)) is None


def test_code_of_a_repository_is_not_run(saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "hostile")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "stranger", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        demo_app.Encoder(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("hub_without_address")
def test_a_wrong_model_is_reported_at_once(tmp_path, monkeypatch):
    """Without a wait for a network that is not there, and before gradio is asked for."""
    import time

    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    for name, said in (
        ("nothere", "no such folder"),
        ("a/b/c", "no such folder"),
        (str(tmp_path), r"no config\.json"),
    ):
        with pytest.raises(UserError, match=said):
            demo.main([name])
    demo._check_model("somebody/nothere")
    with pytest.raises(UserError, match="check the name, the network"):
        demo._load("somebody/nothere")


@pytest.mark.parametrize(
    ("words", "reason"),
    [({"index": "nowhere"}, "no such folder"), ({"images": 0}, "1 or more"), ({"export": "x"}, "needs repo_id")],
)
def test_wrong_options_are_explained(saved_model, words, reason):
    with pytest.raises(UserError, match=reason):
        demo.demo(demo.DemoOptions(str(saved_model), **words))


def packages_of(files) -> set[str]:
    """The packages of the modules that decoders ask for by `require`."""
    modules = {name for file in files for name in re.findall(r'require\("(\w+)', file.read_text(encoding="utf-8"))}
    packages = importlib.metadata.packages_distributions()
    return {packages[name][0] for name in modules}


def test_an_exported_space_stands_alone(encoder, classes, tmp_path):
    pytest.importorskip("gradio")
    index = demo.build_index(encoder, classes, 99, seed=0)
    demo.export_space(tmp_path / "space", "you/biovfm-tiny", index, demo.index_provenance(classes))
    names = {path.name for path in (tmp_path / "space").iterdir()}
    assert names == {
        "app.py",
        "space.json",
        "index.npz",
        "requirements.txt",
        "README.md",
        "provenance.json",
        "reading.py",
        "biovfm_hf",
    }
    assert json.loads((tmp_path / "space" / "space.json").read_text()) == {"model": "you/biovfm-tiny"}
    assert "HF_TOKEN" in (tmp_path / "space" / "README.md").read_text()
    needed = packages_of((tmp_path / "space" / "biovfm_hf" / "decoding").glob("*.py"))
    assert needed <= set((tmp_path / "space" / "requirements.txt").read_text().split()) and "av" in needed
    code = "import app, pathlib; print(len(app.Index.load(pathlib.Path('index.npz')).labels))"
    done = subprocess.run(
        [with_torch(), "-c", code], cwd=tmp_path / "space", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "12"


def test_the_page_answers_over_http_and_loads_nothing_from_elsewhere(encoder, classes, monkeypatch):
    pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    import urllib.request

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    page = demo_app.build_page(encoder, demo.build_index(encoder, classes, 99, seed=0))
    launched = {}
    launch = page.launch
    monkeypatch.setattr(page, "launch", lambda **given: launched.update(given))
    assert demo_app.MAX_UPLOAD == "64mb"
    monkeypatch.setattr(demo_app, "MAX_UPLOAD", "64kb")
    before = signal.getsignal(signal.SIGTERM)
    demo_app.launch(page, "127.0.0.1", 0)
    with pytest.raises(SystemExit):  # so that the folder of uploads is removed at the exit
        signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    options = {name: launched[name] for name in ("theme", "max_file_size")}
    _, url, _ = launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
    try:
        html = urllib.request.urlopen(url).read().decode()
        assert "fonts.googleapis.com" not in html
        caller = client.Client(url, verbose=False)
        file = client.handle_file(str(classes / "smooth" / "1.png"))
        message, view, colours, gallery, shares, scores = caller.predict(file, "", "axial", api_name="/analyse")
        assert message == "" and Path(view).is_file() and Path(colours).is_file() and len(gallery) == 8
        assert shares["label"] in ("smooth", "stripes") and scores["label"] == "smooth"
        broken = client.handle_file(str(classes / "smooth" / "broken.png"))
        message, *rest = caller.predict(broken, "", "axial", api_name="/analyse")
        assert message.startswith("Not read: broken.png") and not any(rest)
        assert upload_status(url, 63 << 10) == 200 and upload_status(url, 65 << 10) == 413
        uploads = Path(os.environ["GRADIO_TEMP_DIR"])
        assert max(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) == 63 << 10
    finally:
        page.close()


def upload_status(url: str, size: int) -> int:
    """The server's answer to a file of `size` bytes, sent as a browser sends it."""
    import urllib.error
    import urllib.request

    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    request = urllib.request.Request(f"{url}gradio_api/upload", head + bytes(size) + b"\r\n--b--\r\n", kind)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_volume_without_a_chosen_slice_shows_the_middle_one(encoder, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    voxels = np.zeros((24, 24, 9), dtype=np.int16)
    voxels[4:20, 4:20, 4] = np.arange(16) * 100
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "v.nii.gz")
    middle = demo_app.Analyser(encoder)(str(tmp_path / "v.nii.gz")).view
    first = demo_app.Analyser(encoder)(str(tmp_path / "v.nii.gz"), "0").view
    assert np.asarray(middle).max() > 200 and np.asarray(first).max() == 0
