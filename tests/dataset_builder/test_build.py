"""Whole builds from raw folders to datasets: rows, manifest, card, resume, options, and what must not be published."""

import json
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from dataset_builder import pipeline
from dataset_builder.build import build, main
from dataset_builder.dataset.check import faults
from dataset_builder.dataset.output_folder import hold
from dataset_builder.schema import COLUMNS, ROWS
from dataset_builder.screening.hashing import sha256_of_pixels
from dataset_builder.screening.rules import software
from dataset_builder.shards import replan


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset except the builder's private ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in sorted(named.items()) if not name.startswith(".build/")}


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def built(small_raw, out) -> Path:
    raw, sources = small_raw
    build(raw, out, [sources], workers=0, size=32)
    return out


def test_load_dataset_reads_every_config(built, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    full = datasets.load_dataset(str(built), "full", split="train", cache_dir=str(tmp_path / "cache"))
    assert tuple(full.column_names) == COLUMNS
    assert set(full["modality"]) == {"Ultrasound", "Fundus", "MR"}
    image = full[0]["image"]
    assert image.size == (32, 32)
    assert sha256_of_pixels(np.asarray(image)) == full[0]["sha256"]
    assert len(list(datasets.load_dataset(str(built), "0.2m", split="train", streaming=True))) == len(full)
    stream = datasets.load_dataset(str(built), "ultrasound", split="train", streaming=True)
    assert [row["source"] for row in stream] == ["scans"] * 12
    assert len(list(datasets.load_dataset(str(built), "us", split="train", streaming=True))) == 12


def test_rows_follow_the_design(built):
    rows = pq.read_table(built / "data" / "ultrasound" / "scans-00000.parquet").to_pylist()
    assert rows[0]["path"] == "scans/p000/0.png"
    assert (rows[0]["width"], rows[0]["height"], rows[0]["view"], rows[0]["index"]) == (80, 60, "2d", None)
    assert (rows[0]["source"], rows[0]["anatomy"]) == ("scans", "breast")
    subjects = {row["path"].split("/")[1]: row["subject"] for row in rows}
    assert len(set(subjects.values())) == 6
    assert all(len(subject) == 16 and "p00" not in subject for subject in subjects.values())
    volumes = pq.read_table(built / "data" / "mr" / "heads-00000.parquet").to_pylist()
    assert {row["view"] for row in volumes} == {"axial", "sagittal", "coronal"}
    assert all(np.asarray(Image.open(BytesIO(row["image"]["bytes"]))).ndim == 2 for row in volumes)


def test_manifest_accounts_for_everything(built):
    manifest = pq.read_table(built / "manifest.parquet").to_pylist()
    summary = json.loads((built / "build.json").read_text())
    outcomes: dict[str, int] = {}
    for line in manifest:
        outcomes[line["outcome"]] = outcomes.get(line["outcome"], 0) + 1
    assert outcomes == summary["outcomes"]
    assert summary["considered"] == len(manifest)
    assert outcomes["mask"] == 1
    assert outcomes["not in the training part"] == 3
    # Two volumes of 30 x 34 x 26: every slice is a line, and those outside the ellipsoid are padding.
    slices = [line for line in manifest if line["source"] == "heads"]
    assert len(slices) == 2 * (30 + 34 + 26)
    padding = [line for line in slices if line["outcome"] == "padding"]
    assert 12 <= len(padding) < 60
    assert {line["index"] for line in padding if line["view"] == "axial"} >= {0, 25}
    kept = [line for line in manifest if line["outcome"] == "kept"]
    for line in kept[:5]:
        row = pq.read_table(built / line["shard"]).slice(line["row"], 1).to_pylist()[0]
        assert (row["sha256"], row["path"]) == (line["sha256"], line["path"])
    assert faults(built) == (outcomes, [])


def test_check_finds_tampered_files(built, capsys):
    assert main(["--out", str(built), "--check"]) == 0
    assert "the accounting is complete" in capsys.readouterr().out
    victim = built / "data" / "fundus" / "eyes-00000.parquet"
    table = pq.read_table(victim)
    victim.unlink()
    pq.write_table(table.slice(1), victim)
    assert main(["--out", str(built), "--check"]) == 1
    assert "eyes-00000.parquet: its 2 rows are not the manifest's 3" in capsys.readouterr().out
    victim.unlink()
    assert any("not on disk" in fault for fault in faults(built)[1])


def test_stored_pixels_are_checked(built):
    path = built / "data" / "fundus" / "eyes-00000.parquet"
    rows = pq.read_table(path).to_pylist()
    black = BytesIO()
    Image.new("RGB", (32, 32)).save(black, format="PNG")
    rows[0]["image"]["bytes"] = black.getvalue()
    path.unlink()
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows, schema=ROWS), path)
    assert any("pixels are not those" in fault for fault in faults(built)[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_and_column_is_checked(small_raw, built, workers):
    path = built / "data" / "ultrasound" / "scans-00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1]["image"]["bytes"] = b"not an image"
    rows[2]["source"] = "another"
    rows[3]["width"] = 7
    rows[4]["phash"] = None
    path.unlink()
    pq.write_table(table.from_pylist(rows, schema=ROWS), path)
    name = "data/ultrasound/scans-00000.parquet"
    assert faults(built, workers)[1] == [
        f"{name}: 1 images do not decode, first row 1",
        f"{name}: phash of 1 rows is not the manifest's, first row 4: None, not {table['phash'][4]}",
        f"{name}: source of 1 rows is not the manifest's, first row 2: another, not scans",
        f"{name}: width of 1 rows is not the manifest's, first row 3: 7, not 80",
    ]


def test_running_again_changes_nothing(small_raw, built, capsys):
    raw, sources = small_raw
    before = tree(built)
    capsys.readouterr()
    build(raw, built, [sources], workers=0, size=32)
    assert tree(built) == before
    assert "kept" in capsys.readouterr().out


def test_a_build_says_that_another_version_began_it(small_raw, built, capsys):
    """Also after the raw folder is listed again, since the finished shards stay."""
    raw, sources = small_raw
    path, before = built / ".build" / "plan.json", tree(built)
    assert json.loads(path.read_text())["software"] == software() and "begun by" not in capsys.readouterr().out
    for first, words in (("biovfm-hf 0.0.1 with rules 01234567",) * 2, ("", "an earlier version")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"software": first}))
        for retry in (False, True, False):
            build(raw, built, [sources], workers=0, size=32, retry_failed=retry)
            assert f"begun by {words}, and this is {software()}" in capsys.readouterr().out
    assert tree(built) == before


def test_a_finished_build_makes_lost_and_damaged_files_again(small_raw, built, capsys):
    raw, sources = small_raw
    before = tree(built)
    for name in ("data/mr/heads-00000.parquet", "manifest.parquet", "build.json"):
        (built / name).unlink()
    cut = built / "data" / "ultrasound" / "scans-00000.parquet"
    with cut.open("r+b") as file:  # in place: its second name in the work folder is damaged as well
        file.truncate(100)
    build(raw, built, [sources], workers=0, size=32)
    assert "4 files are missing or of the wrong size" in capsys.readouterr().out
    assert tree(built) == before
    build(raw, built, [sources], workers=0, size=32)
    assert "nothing is left to do" in capsys.readouterr().out


def test_thumbnails_that_were_removed_are_made_again_where_the_screening_needs_them(small_raw, built, tmp_path, make):
    raw, sources = small_raw
    before = tree(built)
    thumbnails = sorted((built / ".build" / "shards").glob("*.thumbnails"))
    for path in thumbnails:
        path.unlink()
    build(raw, built, [sources], workers=0, size=32)
    assert tree(built) == before and not any(path.exists() for path in thumbnails)
    make.png(tmp_path / "benchmark" / "copy.png", make.picture(3, 60, 80))
    summary = build(raw, built, [sources], workers=0, size=32, benchmarks=tmp_path / "benchmark")
    assert summary["outcomes"]["benchmark image"] == 1 and all(path.exists() for path in thumbnails)


def test_a_file_that_was_damaged_and_removed_is_made_again_whole(small_raw, built):
    raw, sources = small_raw
    before = tree(built)
    path = built / "data" / "ultrasound" / "scans-00000.parquet"
    with path.open("r+b") as file:  # in place: its second name in the work folder is damaged as well
        file.seek(path.stat().st_size // 2)
        file.write(b"damaged")
    assert faults(built)[1]
    path.unlink()
    build(raw, built, [sources], workers=0, size=32)
    assert tree(built) == before and faults(built)[1] == []


def test_a_check_reports_at_once_that_the_plan_is_of_another_version(built, monkeypatch):
    monkeypatch.setattr("dataset_builder.dataset.check._faults_of_file", lambda task: pytest.fail("rows were read"))
    plan = built / ".build" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "version": 1}))
    with pytest.raises(UserError, match="another version of biovfm; continue with that version"):
        faults(built)
    plan.write_text(plan.read_text()[:-9])
    with pytest.raises(UserError, match=r"plan\.json is damaged, so the build cannot continue; choose another --out"):
        faults(built)
    with pytest.raises(UserError, match="holds no finished dataset"):
        faults(built / "README.md")


def test_job_arrays_give_the_same_bytes(small_raw, built, tmp_path, capsys):
    raw, sources = small_raw
    other = tmp_path / "other"
    words = ["--raw", str(raw), "--out", str(other), "--sources", sources, "--size", "32", "--workers", "0"]
    for index in range(2):
        assert main([*words, "--shard-index", str(index), "--num-shards", "2"]) == 0
        assert not (other / "manifest.parquet").exists()
    assert main(words) == 0
    assert tree(other) == tree(built)


def test_retry_failed_repairs_and_nothing_else_changes(small_raw, out, tmp_path):
    raw, sources = small_raw
    broken = raw / "scans" / "p000" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    summary = build(raw, out, [sources], workers=0, size=32)
    assert summary["outcomes"]["unreadable"] == 1
    line = next(
        line for line in pq.read_table(out / "manifest.parquet").to_pylist() if line["outcome"] == "unreadable"
    )
    assert line["path"] == "scans/p000/0.png"
    assert str(tmp_path) not in str(line["detail"])
    assert faults(out)[1] == []
    broken.write_bytes(whole)
    assert build(raw, out, [sources], workers=0, size=32)["outcomes"]["unreadable"] == 1
    assert "unreadable" not in build(raw, out, [sources], workers=0, size=32, retry_failed=True)["outcomes"]
    fresh = tmp_path / "fresh"
    build(raw, fresh, [sources], workers=0, size=32)
    assert tree(out) == tree(fresh)


@pytest.mark.parametrize("retry_failed", [True, False])
def test_no_second_build_runs_during_or_after_another_listing(small_raw, out, monkeypatch, make, retry_failed):
    """Whether the user asks for it, or inputs have changed since they were listed."""
    raw, sources = small_raw
    words = {"sources": [sources], "workers": 0, "size": 32}
    build(raw, out, plan_only=not retry_failed, **words)
    make.png(raw / "scans" / "p000" / "0.png", make.picture(77, 60, 90))
    refused = []

    def with_second_build(function):
        def called(*args):
            with pytest.raises(UserError, match="another build is running there"):
                build(raw, out, **words)
            refused.append(function.__name__)
            return function(*args)

        return called

    for module, name in ((replan, "_listed"), (pipeline, "_run_shards"), (pipeline, "write_manifest")):
        monkeypatch.setattr(module, name, with_second_build(getattr(module, name)))
    build(raw, out, retry_failed=retry_failed, **words)
    assert refused.count("_listed") > 1 and refused[-2:] == ["_run_shards", "write_manifest"]
    assert {path.name for path in out.parent.iterdir()} == {"raw", "records", "dataset"}


def test_retry_failed_sees_changed_files_of_equal_size(tmp_path, out, make, capsys):
    picture = tmp_path / "raw" / "own" / "1.bmp"
    make.png(picture, make.picture(1))
    make.png(tmp_path / "raw" / "other" / "1.bmp", make.picture(3))
    records = [str(make.record(tmp_path, name, items=["*.bmp"])) for name in ("other", "own")]
    words = {"sources": records, "workers": 0, "size": 32}
    build(tmp_path / "raw", out, **words)
    size, before = picture.stat().st_size, rows_of(out)
    make.png(picture, make.picture(2))
    assert picture.stat().st_size == size
    build(tmp_path / "raw", out, **words, retry_failed=True)
    assert "1 of 2 shards stay as they are" in capsys.readouterr().out
    assert [row["sha256"] in {old["sha256"] for old in before} for row in rows_of(out)] == [True, False]


def test_another_raw_folder_is_reported_and_a_moved_one_continues(small_raw, built, tmp_path, capsys):
    raw, sources = small_raw
    (tmp_path / "empty").mkdir()
    before = tree(built)
    with pytest.raises(UserError, match=rf"was planned from {raw}, not from .*/empty; .*--retry-failed"):
        build(tmp_path / "empty", built, [sources], workers=0, size=32)
    moved = raw.rename(tmp_path / "moved")
    build(moved, built, [sources], workers=0, size=32, retry_failed=True)
    assert "3 of 3 shards stay as they are" in capsys.readouterr().out
    build(moved, built, [sources], workers=0, size=32)
    assert "nothing is left to do" in capsys.readouterr().out
    assert tree(built) == before


def test_other_options_need_another_folder(small_raw, built):
    raw, sources = small_raw
    with pytest.raises(UserError, match="size 32 \\(now 48\\)"):
        build(raw, built, [sources], workers=0, size=48)


def test_an_empty_raw_folder_says_what_to_do(tmp_path, out):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="biovfm sources status"):
        build(tmp_path / "raw", out, workers=0)
    assert not (out / ".build" / "plan.json").exists()
    with pytest.raises(UserError, match="no such folder"):
        build(tmp_path / "absent", out, workers=0)


def test_wrong_arguments_exit_with_2(capsys):
    array = ["--raw", ".", "--out", "x", "--shard-index", "0"]
    wrong = [["--out", "x"], ["--raw", ".", "--out", "x", "--size", "0"], ["--out", "x", "--views"]]
    wrong += [[*array, "--num-shards", "2", "--retry-failed"], [*array[:-1], "3", "--num-shards", "3"], array]
    values = {"--size": "1", "--quality": "500", "--item-seconds": "nan", "--views": "axial,foo", "--slurm": "cpu"}
    wrong += [["--raw", ".", "--out", "x", name, value] for name, value in values.items()]
    for words in wrong:
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    for name, value, answer in (
        ("--size", "5000", "size: 5000 must be 4096 or less"),
        ("--workers", "-1", "workers: -1 must be 0 or more"),
        ("--item-seconds", "inf", "--item-seconds: inf is not a finite number"),
        ("--views", "axial,foo", "views: 'foo' is not one of axial, sagittal, coronal"),
        ("--slurm", "cpu", "slurm: 'cpu' has no value; give KEY=VALUE,KEY=VALUE"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["--raw", ".", "--out", "x", name, value])
        assert answer in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_python_takes_lists_and_returns_the_plan(small_raw, out, tmp_path, make):
    raw, sources = small_raw
    make.png(tmp_path / "copy.png", make.picture(3, 60, 80))
    words = {"workers": 0, "size": 32, "views": ("axial", "coronal"), "benchmarks": [tmp_path / "copy.png"]}
    planned = build(raw, out, sources.split(","), plan_only=True, **words)
    assert planned == {"shards": 3, "inputs": 21, "sources": ["eyes", "heads", "scans"], "skipped": {}}
    assert build(raw, out, sources, **words)["outcomes"]["benchmark image"] == 1
    assert {row["view"] for row in rows_of(out) if row["source"] == "heads"} == {"axial", "coronal"}
    for nothing in ([], "", "eyes,"):  # which is not every source
        with pytest.raises(UserError, match="no source"):
            build(raw, tmp_path / "other", nothing, workers=0)
    with pytest.raises(UserError, match="shard_index: 5; the 3 jobs are numbered from 0 to 2"):
        build(raw, out, sources, shard_index=5, num_shards=3)


def test_subset_us_takes_ultrasound_only(small_raw, out):
    raw, sources = small_raw
    summary = build(raw, out, [sources], workers=0, size=32, subset="us")
    assert set(summary["modality_anatomy"]) == {"Ultrasound"}
    assert summary["outcomes"]["not in the subset us"] == 3 + 2


def test_views_fit_and_format(small_raw, tmp_path):
    raw, sources = small_raw
    only = sources.split(",")[2]
    build(raw, tmp_path / "a", [only], workers=0, size=32, views="coronal", image_format="jpeg", fit="shortest")
    rows = pq.read_table(next((tmp_path / "a" / "data").rglob("*.parquet"))).to_pylist()
    assert {row["view"] for row in rows} == {"coronal"}
    image = Image.open(BytesIO(rows[0]["image"]["bytes"]))
    assert (image.format, image.size) == ("JPEG", (37, 32))  # 30 columns and 26 rows of 1 mm


def test_leakage_strict_and_paper(tmp_path, make):
    for number in range(4):
        make.png(tmp_path / "raw" / "mix" / f"{'busi' if number < 2 else 'own'}_{number}.png", make.picture(number))
    overlaps = [{"relation": "contains", "benchmark": "BreastMNIST", "part": "busi_", "note": "test"}]
    record = make.record(tmp_path, "mix", overlaps=overlaps)
    strict = build(tmp_path / "raw", tmp_path / "strict", [str(record)], workers=0, size=32)
    assert strict["outcomes"] == {"kept": 2, "leakage: contains BreastMNIST": 2}
    assert strict["overlaps"][0]["benchmark"] == "BreastMNIST"
    paper = build(tmp_path / "raw", tmp_path / "paper", [str(record)], workers=0, size=32, leakage="paper")
    assert paper["outcomes"] == {"kept": 4}


def test_benchmark_images_are_dropped(tmp_path, make):
    for number in range(6):
        make.png(tmp_path / "raw" / "own" / f"{number}.png", make.picture(number, 120, 120))
    record = make.record(tmp_path, "own")
    small = np.stack([np.asarray(Image.fromarray(make.picture(n, 120, 120)).resize((28, 28))) for n in (1, 4)])
    np.savez(tmp_path / "breastmnist.npz", train_images=small[:0], val_images=small[:1], test_images=small[1:])
    words = {"workers": 0, "size": 64, "benchmarks": tmp_path / "breastmnist.npz"}
    summary = build(tmp_path / "raw", tmp_path / "out", [str(record)], **words)
    assert summary["outcomes"] == {"benchmark image": 2, "kept": 4}
    manifest = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    found = {line["path"]: line["detail"] for line in manifest if line["outcome"] == "benchmark image"}
    assert found == {"own/1.png": "breastmnist/val/0", "own/4.png": "breastmnist/test/0"}


def test_benchmarks_given_later_are_applied_without_reading_again(small_raw, built, tmp_path, make):
    raw, sources = small_raw
    make.png(tmp_path / "benchmark" / "copy.png", make.picture(3, 60, 80))
    stamp = (built / ".build" / "shards" / "000000.json").stat().st_mtime_ns
    summary = build(raw, built, [sources], workers=0, size=32, benchmarks=tmp_path / "benchmark")
    assert summary["outcomes"]["benchmark image"] == 1
    assert (built / ".build" / "shards" / "000000.json").stat().st_mtime_ns == stamp
    assert faults(built)[1] == []


def test_wrong_benchmark_files_are_named_before_anything_is_planned(small_raw, built, out, tmp_path):
    raw, sources = small_raw
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "arrays.npz", train_images=np.zeros((1, 28, 28), np.uint8))
    whole = (tmp_path / "arrays.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-40])
    (tmp_path / "cut.png").write_bytes(next((raw / "eyes").rglob("*.png")).read_bytes()[:99])
    wrong = {"nope/pathmnist.npz": "no such file or folder", "empty": "holds no benchmark image"}
    wrong |= {"arrays.npz": "neither val_images nor test_images", "cut.npz": "cannot be read", "cut.png": ""}
    for name, reason in wrong.items():
        for folder in (built, tmp_path / "fresh"):
            with pytest.raises(UserError, match=f"{name}.*{reason}"):
                build(raw, folder, [sources], workers=0, size=32, benchmarks=tmp_path / name)
    assert not (tmp_path / "fresh").exists()
    job = ["--raw", str(raw), "--out", str(out), "--sources", sources, "--shard-index", "0", "--num-shards", "2"]
    with pytest.raises(UserError, match="no such file or folder"):
        main([*job, "--benchmarks", str(tmp_path / "nope")])


def test_a_benchmark_folder_may_hold_folders_named_like_images_and_hidden_files(
    small_raw, out, tmp_path, make, capsys, monkeypatch
):
    monkeypatch.setattr("biovfm_hf.progress.SECONDS", 0.0)  # also a short step writes its line
    raw, sources = small_raw
    make.png(tmp_path / "benchmark" / "a.png" / "copy.png", make.picture(3, 60, 80))
    (tmp_path / "benchmark" / "a.png" / "._copy.png").write_bytes(b"what macOS adds")
    summary = build(raw, out, [sources], workers=0, size=32, benchmarks=tmp_path / "benchmark")
    assert summary["benchmark_images"] == summary["outcomes"]["benchmark image"] == 1
    assert "reading benchmarks: 1 of 1 " in capsys.readouterr().err


def test_a_benchmark_file_of_equal_size_but_other_content_is_applied(small_raw, out, tmp_path, make, capsys):
    raw, sources = small_raw
    copy = tmp_path / "copy.bmp"
    for number, path in ((3, "scans/p001/3.png"), (4, "scans/p002/4.png")):
        Image.fromarray(make.picture(number, 60, 80)).save(copy)
        build(raw, out, [sources], workers=0, size=32, benchmarks=copy)
        manifest = pq.read_table(out / "manifest.parquet").to_pylist()
        assert [line["path"] for line in manifest if line["outcome"] == "benchmark image"] == [path]
    assert "the benchmark files have changed" in capsys.readouterr().out
    build(raw, out, [sources], workers=0, size=32, benchmarks=copy)
    assert "nothing is left to do" in capsys.readouterr().out


def test_duplicates_across_sources(small_raw, out, make):
    raw, sources = small_raw
    original = make.picture(3, 60, 80)
    make.png(raw / "scans" / "p900" / "same.png", original)
    altered = Image.fromarray(original).resize((160, 120), Image.Resampling.BICUBIC)
    (raw / "scans" / "p901").mkdir()
    altered.save(raw / "scans" / "p901" / "near.png")
    build(raw, out, [sources], workers=0, size=32)
    manifest = {line["path"]: line for line in pq.read_table(out / "manifest.parquet").to_pylist()}
    assert manifest["scans/p900/same.png"]["outcome"] == "duplicate"
    assert manifest["scans/p901/near.png"]["outcome"] == "near duplicate"
    for name in ("p900/same.png", "p901/near.png"):
        assert manifest[f"scans/{name}"]["detail"] == "scans/p001/3.png"


def test_uploads_leave_the_private_folder_out(built):
    assert (built / ".gitignore").read_text() == ".build/\n"


def test_the_card_states_licences_and_outsiders(built):
    card = (built / "README.md").read_text()
    assert "Not among the paper's 61 sources: scans, eyes, heads." in card
    assert "| **considered** |" in card
    assert "not established" in card
    for name in ("modality-anatomy.png", "samples-mr.png", "samples-ultrasound.png"):
        assert Image.open(built / "figures" / name).size[0] > 100


def test_other_sources_need_another_folder_or_a_new_listing(small_raw, built, tmp_path, make):
    raw, sources = small_raw
    with pytest.raises(UserError, match=r"other records of eyes, heads; .*--retry-failed"):
        build(raw, built, [sources.split(",")[0]], workers=0, size=32)
    make.record(tmp_path / "records", "eyes", modality="Fundus", anatomies=["eye"], train="all")
    with pytest.raises(UserError, match="other records of eyes;"):
        build(raw, built, [sources], workers=0, size=32)


def test_two_records_with_one_id_are_refused(tmp_path, out, make):
    make.png(tmp_path / "raw" / "same" / "1.png", make.picture(1))
    records = [make.record(tmp_path / name, "same") for name in "ab"]
    for pair in (records, [records[0], records[0]]):
        with pytest.raises(UserError, match=r"/same.yaml: its id same is that of .*/a/same.yaml too"):
            build(tmp_path / "raw", out, [str(record) for record in pair], workers=0)
    assert not out.exists()


def test_a_source_can_be_added_later(small_raw, out, tmp_path, capsys):
    raw, sources = small_raw
    few = ",".join(sources.split(",")[1:])
    build(raw, out, [few], workers=0, size=32)
    first = out / ".build" / "shards" / "000000.parquet"
    before = first.stat()
    build(raw, out, [sources], workers=0, size=32, retry_failed=True)
    assert "2 of 3 shards stay as they are" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    build(raw, tmp_path / "fresh", [sources], workers=0, size=32)
    assert tree(out) == tree(tmp_path / "fresh")
    assert faults(out)[1] == []


def test_a_mended_archive_is_listed_again(tmp_path, out, make):
    archive = tmp_path / "raw" / "own" / "a.zip"
    archive.parent.mkdir(parents=True)
    make.png(tmp_path / "1.png", make.picture(1))
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(tmp_path / "1.png", "1.png")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-30])
    record = str(make.record(tmp_path, "own"))
    assert "kept" not in build(tmp_path / "raw", out, [record], workers=0, size=32)["outcomes"]
    archive.write_bytes(whole)
    assert build(tmp_path / "raw", out, [record], workers=0, size=32, retry_failed=True)["outcomes"] == {"kept": 1}


def test_a_plan_alone_builds_nothing(small_raw, out, capsys):
    raw, sources = small_raw
    words = ["--raw", str(raw), "--out", str(out), "--sources", sources, "--size", "32"]
    assert main([*words, "--plan-only"]) == 0
    assert "3 shards of 3 sources with 21 inputs are planned" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [".build"]


def test_a_full_dataset_has_a_seeded_sample_of_every_modality(small_raw, out, tmp_path, monkeypatch):
    raw, sources = small_raw
    monkeypatch.setattr("dataset_builder.screening.duplicates.SUBSET_SIZE", 60)
    monkeypatch.setattr("dataset_builder.dataset.finish.SAMPLE_ROWS", 25)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    summary = build(raw, out, [sources], workers=0, size=32)
    assert [path.name for path in sorted((out / "sample").iterdir())] == [f"0000{n}.parquet" for n in range(3)]
    sample = datasets.load_dataset(str(out), "0.2m", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(sample) == summary["sampled"]
    assert abs(len(sample) - 60) <= 1
    assert set(sample["modality"]) == {"Ultrasound", "Fundus", "MR"}
    full = {(row["sha256"], row["path"], row["index"]): row for row in rows_of(out)}
    assert all(full[row["sha256"], row["path"], row["index"]]["subject"] == row["subject"] for row in sample)
    assert faults(out)[1] == []
    build(raw, tmp_path / "other", [sources], workers=0, size=32, seed=1)
    chosen = [sorted(row["sha256"] for row in rows_of(folder, "sample")) for folder in (out, tmp_path / "other")]
    assert chosen[0] != chosen[1]
    (out / "sample" / "00002.parquet").unlink()
    assert faults(out)[1] == [f"sample: holds 50 rows of {summary['sampled']}"]


def test_subset_of_200_000_is_drawn_from_what_is_kept(small_raw, out, monkeypatch):
    raw, sources = small_raw
    monkeypatch.setattr("dataset_builder.screening.duplicates.SUBSET_SIZE", 60)
    summary = build(raw, out, [sources], workers=0, size=32, subset="0.2m")
    assert abs(summary["kept"] - 60) <= 1
    assert summary["outcomes"]["not sampled"] > 60
    assert set(summary["modality_anatomy"]) == {"Ultrasound", "Fundus", "MR"}
    assert summary["sampled"] == 0


def rows_of(out: Path, folder: str = "data") -> list[dict]:
    return [row for path in sorted((out / folder).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_zip_inside_a_zip_is_built_in_place(tmp_path, out, make):
    inner = BytesIO()
    make.png(tmp_path / "1.png", make.picture(1))
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.write(tmp_path / "1.png", "set/1.png")
    (tmp_path / "raw" / "own").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "raw" / "own" / "all.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("part.zip", inner.getvalue())
    assert build(tmp_path / "raw", out, [str(make.record(tmp_path, "own"))], workers=0, size=32)["kept"] == 1
    assert [row["path"] for row in rows_of(out)] == ["own/all.zip!part.zip!set/1.png"]


def test_a_full_disk_is_named(small_raw, out, monkeypatch):
    raw, sources = small_raw
    with monkeypatch.context() as patched:
        patched.setattr("dataset_builder.schema.pq.ParquetWriter.write_table", _full)
        with pytest.raises(UserError, match="the disk is full; make room, and the same command continues"):
            build(raw, out, [sources], workers=0, size=32)
    assert build(raw, out, [sources], workers=0, size=32)["kept"] > 0


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_message_about_a_file_is_the_same_in_every_run(tmp_path, make, monkeypatch):
    raw = tmp_path / "raw" / "own"
    make.png(raw / "a.png", make.picture(1))
    (raw / "b.png").write_bytes(b"no picture")
    with zipfile.ZipFile(raw / "c.zip", "w") as archive:
        archive.writestr("d.png", b"no picture")
    record = str(make.record(tmp_path, "own", items=["**/*.png"]))
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate((tmp_path / "raw", "raw", "../" + tmp_path.name + "/raw")):
        build(folder, tmp_path / str(number), [record], workers=0, size=32)
    whole = (tmp_path / "0" / "manifest.parquet").read_bytes()
    assert all((tmp_path / str(n) / "manifest.parquet").read_bytes() == whole for n in (1, 2))
    details = [line["detail"] for line in pq.read_table(tmp_path / "0" / "manifest.parquet").to_pylist()]
    assert len(details) == 3 and not any("0x" in str(text) or str(tmp_path) in str(text) for text in details)


def test_the_message_about_a_file_is_not_cut_by_its_name(tmp_path, make):
    """A series is called by its number, which stands in other numbers too; members of an archive may be short."""
    raw = tmp_path / "raw" / "own"
    for number in range(3):
        header = {"SeriesInstanceUID": "1.2", "InstanceNumber": number}
        make.dicom(raw / "series" / f"{number}.dcm", make.picture(number), **header)
    whole = (raw / "series" / "1.dcm").read_bytes()
    (raw / "series" / "1.dcm").write_bytes(whole[:-1000])
    with zipfile.ZipFile(raw / "a.zip", "w") as archive:
        archive.writestr("0", whole[:-1000])
        archive.writestr("b.dcm", whole[:400])
    items = [{"pattern": "series/*", "kind": "dicom_series"}, "a.zip/*"]
    record = str(make.record(tmp_path, "own", items=items, access="open"))
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32)
    lines = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    details = {line["path"]: line["detail"] for line in lines if line["outcome"] == "unreadable"}
    assert details.keys() == {"own/series/1.dcm", "own/a.zip!0", "own/a.zip!b.dcm"}
    assert all("group 0028" in details[path] for path in ("own/series/1.dcm", "own/a.zip!0"))
    assert details["own/a.zip!b.dcm"].startswith("is DICOM without an image")


def test_a_folder_with_other_files_is_refused_and_left_alone(small_raw, tmp_path, capsys):
    raw, sources = small_raw
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "data" / "thesis.txt").write_text("precious")
    shutil.copytree(raw, project / "raw")
    shutil.move(raw / "eyes", tmp_path / "disk")
    (raw / "eyes").symlink_to(tmp_path / "disk")
    (raw / "loop").symlink_to("loop")
    for words, reason in (
        ({"raw": raw, "out": project}, "contains data but no build"),
        ({"raw": project / "raw", "out": project}, "holds the raw folder"),
        ({"raw": raw, "out": raw}, "holds the raw folder"),
        ({"raw": raw, "out": raw / "scans" / "out"}, "lies in the source folder"),
        ({"raw": raw, "out": tmp_path / "disk" / "out"}, "lies in the source folder"),
        ({"raw": raw, "out": project / "data" / "thesis.txt" / "out"}, "thesis.txt is a file"),
        ({"raw": raw, "out": raw / "loop"}, "a link that leads nowhere"),
    ):
        with pytest.raises(UserError, match=reason):
            build(words["raw"], words["out"], [sources], workers=0, size=32)
    assert sorted(path.name for path in project.iterdir()) == ["data", "raw"]
    assert (project / "data" / "thesis.txt").read_text() == "precious" and not (raw / "scans" / "out").exists()


def test_a_build_leaves_other_files_in_its_folder_alone(small_raw, built, tmp_path, make):
    raw, sources = small_raw
    (built / "data" / "note.txt").write_text("mine")
    make.png(tmp_path / "benchmark" / "copy.png", make.picture(3, 60, 80))
    build(raw, built, [sources], workers=0, size=32, benchmarks=tmp_path / "benchmark")
    assert (built / "data" / "note.txt").read_text() == "mine" and faults(built)[1] == []


def test_one_build_at_a_time_in_a_folder(small_raw, built):
    raw, sources = small_raw
    with hold(built, shared=True):
        build_words = ["--raw", str(raw), "--out", str(built), "--sources", sources, "--size", "32", "--workers", "0"]
        assert main([*build_words, "--shard-index", "0", "--num-shards", "2"]) == 0
        with pytest.raises(UserError, match="another build is running"):
            main(build_words)
    assert main(build_words) == 0
