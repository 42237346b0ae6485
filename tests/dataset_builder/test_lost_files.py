"""Files that are lost or damaged, of the dataset or of the builder, are made again; `--check` names them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from biovfm_hf.errors import UserError
from dataset_builder.build import build
from dataset_builder.dataset.check import faults
from dataset_builder.plan.plan import Plan, Unit, load_plan
from dataset_builder.shards.shard import build_unit


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset except the builder's private ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in sorted(named.items()) if not name.startswith(".build/")}


@pytest.fixture
def again(tmp_path, make, monkeypatch) -> Callable[..., dict]:
    """Builds `tmp_path/out`, which is built already: three shards of a private source, with two duplicates."""
    monkeypatch.setattr("dataset_builder.plan.making.SHARD_ITEMS", 3)
    monkeypatch.setattr("dataset_builder.screening.duplicates.SUBSET_SIZE", 4)
    for number in range(9):
        make.png(tmp_path / "raw" / "scans" / f"{number}.png", make.picture(number % 7))
    record = make.record(tmp_path / "records", "scans", access="private")

    salt = tmp_path / "salt"
    salt.write_text("salt")

    def run(out: Path = tmp_path / "out", **options: object) -> dict:
        return build(tmp_path / "raw", out, [record], workers=0, size=32, salt_file=salt, **options)

    run()
    return run


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.unlink()  # its second name stays whole
    path.write_bytes(whole[:-9])


WORK = ["shards/000000.parquet", "shards/000001.candidates.parquet", "shards/000002.json", "decisions.arrow"]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", [Path.unlink, emptied, cut])
def test_every_lost_or_damaged_file_of_the_work_folder_is_made_again(again, tmp_path, damage, finished):
    work, before = tmp_path / "out" / ".build", tree(tmp_path / "out")
    for name in WORK:
        damage(work / name)
        if not finished:
            (work / "complete.json").unlink()
        again()
        assert (tree(tmp_path / "out"), faults(tmp_path / "out")[1]) == (before, []), name


def test_every_lost_state_of_the_work_folder_is_made_again(again, tmp_path):
    work, before = tmp_path / "out" / ".build", tree(tmp_path / "out")
    for name in ("items.parquet", "complete.json", "places.parquet"):
        (work / name).unlink()
        again()
        assert (tree(tmp_path / "out"), faults(tmp_path / "out")[1]) == (before, []), name
    assert (work / "places.parquet").exists() and (work / "complete.json").exists()


def reshaped(path: Path) -> None:
    path.write_text("[]")


def misread(path: Path) -> None:
    path.write_text('{"inputs": 3, "files": {}, "outcomes": {}, "sizes": 3}')


@pytest.mark.parametrize("damage", [reshaped, misread])
def test_every_state_of_another_shape_is_made_again(again, tmp_path, damage):
    work, before = tmp_path / "out" / ".build", tree(tmp_path / "out")
    (work / "marks").mkdir(exist_ok=True)
    for name in ("complete.json", "shards/000001.json", "marks/000001.json"):
        damage(work / name)
        again()
        assert (tree(tmp_path / "out"), faults(tmp_path / "out")[1]) == (before, []), name


@pytest.mark.parametrize("content", ["[]", '{"version": 8}', '{"version": 8, "options": [], "shards": 3}'])
def test_a_plan_of_another_shape_is_named(again, tmp_path, content):
    (tmp_path / "out" / ".build" / "plan.json").write_text(content)
    with pytest.raises(UserError, match=r"plan\.json is damaged, so the build cannot continue; choose another --out"):
        again()


@pytest.mark.parametrize("damage", [emptied, cut])
def test_a_damaged_table_of_inputs_is_made_again(again, tmp_path, damage):
    work, before = tmp_path / "out" / ".build", tree(tmp_path / "out")
    damage(work / "items.parquet")
    (work / "shards" / "000002.parquet").unlink()
    again()
    assert (tree(tmp_path / "out"), faults(tmp_path / "out")[1]) == (before, [])


def test_inputs_that_cannot_be_read_are_named(again, tmp_path):
    path = tmp_path / "out" / ".build" / "items.parquet"
    with path.open("r+b") as file:
        file.seek(4)
        file.write(b"?" * 64)
    (tmp_path / "out" / ".build" / "shards" / "000000.parquet").unlink()
    with pytest.raises(UserError, match=r"items\.parquet: cannot be read .*; remove it, and the same command lists"):
        again()
    path.unlink()
    again()
    assert not faults(tmp_path / "out")[1]


@pytest.mark.parametrize("damage", [emptied, cut])
def test_a_damaged_part_of_a_shard_is_read_again(again, tmp_path, damage):
    out, before = tmp_path / "out", tree(tmp_path / "out")
    plan = load_plan(out)
    plan.stats_path(1).unlink()
    for unit in (Unit(1, 0, 2), Unit(1, 2, 3)):
        build_unit(str(out), str(tmp_path / "raw"), unit)
    damage(plan.part_path(Unit(1, 0, 2)))
    again()
    assert (tree(out), faults(out)[1]) == (before, [])
    assert not list((out / ".build" / "shards").glob("*.arrow"))


def test_a_lost_shard_needs_no_thumbnails_of_the_others(again, tmp_path, make, capsys):
    shards, before = tmp_path / "out" / ".build" / "shards", tree(tmp_path / "out")
    for path in shards.glob("*.thumbnails"):
        path.unlink()
    (shards / "000001.json").unlink()
    again()
    assert [path.name for path in shards.glob("*.thumbnails")] == ["000001.thumbnails"]
    assert tree(tmp_path / "out") == before
    make.png(tmp_path / "benchmarks" / "1.png", make.picture(1))
    again(benchmarks=tmp_path / "benchmarks")
    assert "2 shards have no thumbnails, which a new screening needs: made again" in capsys.readouterr().out
    assert len(list(shards.glob("*.thumbnails"))) == 3 and not faults(tmp_path / "out")[1]


def test_a_finished_build_reads_the_statistics_of_each_shard_once(again, monkeypatch):
    numbers, statistics = [], Plan.statistics

    def counted(plan: Plan, number: int) -> dict | None:
        numbers.append(number)
        return statistics(plan, number)

    monkeypatch.setattr(Plan, "statistics", counted)
    again()
    assert sorted(numbers) == [0, 1, 2]


@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.99])
def test_damaged_decisions_are_made_again(again, tmp_path, place):
    out, before = tmp_path / "out", tree(tmp_path / "out")
    with (out / ".build" / "decisions.arrow").open("r+b") as file:
        file.seek(int(place * file.seek(0, 2)))
        file.write(b"\0\x7f" * 4)
    next((out / "data").rglob("*.parquet")).unlink()
    again()
    assert (tree(out), faults(out)[1]) == (before, [])


def test_no_decisions_of_an_earlier_version_stay(again, tmp_path):
    work = tmp_path / "out" / ".build"
    for name in ("decided.json", "drops.arrow", "sample.npy"):
        (work / name).write_text("{}")
    (work / "decisions.arrow").unlink()
    (work / "complete.json").unlink()
    again()
    assert not [path for path in work.iterdir() if path.suffix == ".npy" or path.stem in ("decided", "drops")]


def test_jobs_of_an_array_do_not_all_list_the_sources_again(again, tmp_path):
    (tmp_path / "out" / ".build" / "items.parquet").unlink()
    with pytest.raises(
        UserError, match=r"items\.parquet: is missing or damaged; list the sources again with --plan-only"
    ):
        again(shard_index=0, num_shards=2)
    again(plan_only=True)
    assert again(shard_index=0, num_shards=1)["shards"] == 3


def test_the_work_of_a_lost_plan_is_not_taken_for_that_of_a_new_one(again, tmp_path):
    plan = tmp_path / "plan" / ".build"
    shutil.copytree(tmp_path / "out" / ".build", plan)
    (plan / "plan.json").unlink()
    again(tmp_path / "plan", quality=1, image_format="jpeg")
    again(tmp_path / "new", quality=1, image_format="jpeg")
    assert tree(tmp_path / "plan") == tree(tmp_path / "new")


@pytest.mark.parametrize("name", ["README.md", ".gitignore", "provenance.json", "figures/sizes.png"])
def test_every_lost_file_of_the_card_is_made_again_and_an_edited_one_stays(again, tmp_path, capsys, name):
    out, before = tmp_path / "out", tree(tmp_path / "out")
    (out / "README.md").write_text("edited")
    again()
    assert "nothing is left to do" in capsys.readouterr().out and (out / "README.md").read_text() == "edited"
    (out / name).unlink()
    again()
    assert f"1 files are missing or of the wrong size, among them {name}" in capsys.readouterr().out
    assert tree(out) == before


@pytest.mark.parametrize("name", ["manifest.parquet", "build.json"])
def test_a_check_names_the_file_that_is_missing(again, tmp_path, name):
    (tmp_path / "out" / name).unlink()
    with pytest.raises(UserError, match=rf"out: holds no finished dataset \({name} is missing\); run the build again"):
        faults(tmp_path / "out")


def test_a_check_names_work_that_is_lost_or_damaged(again, tmp_path):
    shards = tmp_path / "out" / ".build" / "shards"
    (shards / "000000.candidates.parquet").unlink()
    emptied(shards / "000001.json")
    size = (shards / "000002.candidates.parquet").stat().st_size
    (shards / "000002.candidates.parquet").write_bytes(b"?" * size)
    lost, empty, damaged = faults(tmp_path / "out")[1]
    for number, fault in enumerate((lost, empty)):
        assert fault.startswith(f"plan: the work on shard {number} (data/ultrasound/scans-0000{number}.parquet) is ")
    assert "000002.candidates.parquet cannot be read" in damaged and "remove it and run the build again" in damaged


def test_a_screening_needs_whole_thumbnails(again, tmp_path, make):
    make.png(tmp_path / "benchmarks" / "1.png", make.picture(1))
    again(tmp_path / "new", benchmarks=tmp_path / "benchmarks")
    cut(tmp_path / "out" / ".build" / "shards" / "000001.thumbnails")
    again(benchmarks=tmp_path / "benchmarks")
    assert tree(tmp_path / "out") == tree(tmp_path / "new")
