"""Tar shards and zipped folders: the images of the folder that they were made of, wherever they lie."""

import io
import itertools
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pyarrow.parquet as parquet
import pytest
import torch

from biovfm_hf.errors import UserError
from training.command import pretrain
from training.data.batches import CropBatches, Share, loader, sample_order
from training.data.files import find_files
from training.data.images import FolderImages, open_images
from training.settings.config import DataConfig

from ..conftest import SMALL_MAE
from .test_batches import small_config


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def tar_bytes(paths: list[Path], first: int) -> bytes:
    """A WebDataset shard: `KEY.png` with `KEY.json` and `KEY.cls` beside it, as `wds.ShardWriter` writes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, path in enumerate(paths, first):
            row = {"modality": "CT" if number % 4 else "US", "source": "a"}
            add(archive, f"{path.stem}.cls", b"3")
            add(archive, f"{path.stem}.json", json.dumps(row).encode())
            add(archive, f"{path.stem}.png", path.read_bytes())
        add(archive, "._hidden.png", b"nothing")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    paths = sorted(image_folder.glob("*.png"))
    for number in range(3):
        (folder / f"train-{number:02d}.tar").write_bytes(tar_bytes(paths[8 * number : 8 * number + 8], 8 * number))
    return folder


@pytest.fixture(scope="module")
def zipped(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for image in sorted(image_folder.glob("*.png")):
            archive.write(image, f"images/{image.name}")
        archive.writestr("__MACOSX/images/._000.png", b"nothing")
        archive.writestr("images/notes.txt", b"nothing")
    return path


def test_shards_and_zip_hold_the_folders_images(image_folder: Path, shards: Path, zipped: Path) -> None:
    folder = FolderImages(image_folder)
    pattern = str(shards / "train-{00..02}.tar")
    for path in (shards, pattern, str(shards / "*.tar"), zipped, zipped.parent):
        images = open_images(DataConfig(path=str(path)))
        assert len(images) == 24
        assert all(images.fetch(index)[0] == folder.fetch(index)[0] for index in range(24))
    assert len(open_images(DataConfig(path=str(shards / "train-01.tar")))) == 8


def test_json_beside_an_image_gives_modality_filters_and_weights(shards: Path) -> None:
    images = open_images(DataConfig(path=str(shards)))
    assert [images.fetch(index)[2] for index in (0, 1, 4)] == ["US", "CT", "US"]
    kept = open_images(DataConfig(path=str(shards), modality=["US"]))
    assert len(kept) == 6 and kept.fetch(1)[0] == images.fetch(4)[0]
    config = small_config(shards, weight_by="modality", weights={"CT": 0.0})
    drawn = sample_order(open_images(config.data), config).indices(torch.arange(50).numpy())
    assert all(index % 4 == 0 for index in drawn.tolist())
    with pytest.raises(UserError, match="no image has modality 'PET'"):
        open_images(DataConfig(path=str(shards), modality=["PET"]))


def test_batches_of_archives_do_not_depend_on_workers(shards: Path, zipped: Path) -> None:
    for path in (shards, zipped):
        config = small_config(path)

        def batches() -> CropBatches:
            images = open_images(config.data)  # noqa: B023
            return CropBatches(images, sample_order(images, config), config, Share(5))  # noqa: B023

        for number, got in enumerate(loader(batches(), range(3), 2, False)):
            assert torch.equal(got["global_crops"], batches()[number]["global_crops"])


@pytest.fixture
def memory(image_folder: Path, shards: Path, zipped: Path, streamed_folder: Path) -> str:
    """An address that fsspec alone reads, as it would a bucket."""
    system = fsspec.filesystem("memory")
    for kind, folder in (("images", image_folder), ("tar", shards), ("zip", zipped.parent), ("rows", streamed_folder)):
        for path in folder.iterdir():
            system.pipe_file(f"/bucket/{kind}/{path.name}", path.read_bytes())
    return "memory://bucket"


@pytest.mark.parametrize("kind", ["images", "tar", "zip", "rows"])
def test_addresses_hold_the_same_images(kind: str, memory: str, image_folder: Path) -> None:
    folder = FolderImages(image_folder)
    streaming = kind == "rows"
    images = open_images(DataConfig(path=f"{memory}/{kind}", streaming=streaming))
    assert len(images) == 24
    assert all(images.fetch(index)[0] == folder.fetch(index)[0] for index in (0, 9, 23))


def test_a_run_trains_from_an_address(memory: str, tmp_path: Path) -> None:
    words = ["steps=2", *SMALL_MAE]
    model = pretrain("mae_smoke", data=f"{memory}/tar", out=tmp_path / "out", overrides=words)
    assert (model / "config.json").is_file()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{folder}/absent.tar", "absent.tar does not exist"),
        ("{folder}/*.zip", "no images under"),
        ("nosuch://bucket/x", "cannot read nosuch://bucket/x: Protocol not known"),
        ("memory://nowhere/at-all", "memory://nowhere/at-all does not exist or"),
    ],
)
def test_an_address_with_nothing_is_told_in_one_line(path: str, words: str, shards: Path) -> None:
    with pytest.raises(UserError, match=words.replace("{folder}", str(shards))) as caught:
        open_images(DataConfig(path=path.replace("{folder}", str(shards))))
    assert "\n" not in str(caught.value)


def test_a_folder_of_two_kinds_is_refused_by_both_names(
    image_folder: Path, shards: Path, zipped: Path, streamed_folder: Path, tmp_path: Path
) -> None:
    kinds = {
        "image": image_folder / "000.png",
        "tar": shards / "train-00.tar",
        "zip": zipped,
        "Parquet": next(streamed_folder.glob("*.parquet")),
    }
    for pair in itertools.combinations(kinds, 2):
        folder = tmp_path / "-".join(pair)
        for kind in pair:
            (folder / kind).mkdir(parents=True)
            shutil.copy(kinds[kind], folder / kind)
        with pytest.raises(UserError, match=r"holds 1 \w+ file\(s\) and 1 \w+ file\(s\)") as caught:
            open_images(DataConfig(path=str(folder)))
        assert all(f"1 {kind} file" in str(caught.value) for kind in pair)
        if "tar" in pair:  # the remedy that it names
            assert len(open_images(DataConfig(path=f"{folder}/**/*.tar"))) == 8


def test_figures_of_a_card_are_no_second_kind(image_folder: Path, streamed_folder: Path, tmp_path: Path) -> None:
    for file in streamed_folder.glob("*.parquet"):
        shutil.copy(file, tmp_path)
    (tmp_path / "figures").mkdir()
    shutil.copy(image_folder / "000.png", tmp_path / "figures")
    (tmp_path / "README.md").write_text("![samples](figures/000.png)\n")
    assert len(open_images(DataConfig(path=str(tmp_path), streaming=True))) == 24


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_files_are_taken_by_name_and_by_pattern(streaming: bool, streamed_folder: Path) -> None:
    paths = sorted(streamed_folder.glob("*.parquet"))
    rows = sum(parquet.read_metadata(path).num_rows for path in paths)
    assert len(open_images(DataConfig(path=f"{streamed_folder}/*.parquet", streaming=streaming))) == rows
    first = open_images(DataConfig(path=str(paths[0]), streaming=streaming))
    assert len(first) == parquet.read_metadata(paths[0]).num_rows


def test_damaged_archives_are_named(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = (shards / "train-00.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    assert 2 <= len(open_images(DataConfig(path=str(tmp_path / "cut.tar")))) < 8
    assert "cut.tar is not a complete tar file (it was cut off); " in caplog.text
    (tmp_path / "no.TAR").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no\.TAR: no image in 1 tar file"):
        open_images(DataConfig(path=str(tmp_path / "no.TAR")))
    with pytest.raises(UserError, match=r"cannot read .*no\.zip"):
        open_images(DataConfig(path=str(tmp_path / "no.zip")))
    with pytest.raises(UserError, match=r"is tar shards; data\.streaming is for datasets"):
        open_images(DataConfig(path=str(shards), streaming=True))


def test_a_shard_without_access_is_an_error_not_a_smaller_dataset(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar").symlink_to(shards / "train-00.tar")
    (tmp_path / "b.tar").symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(UserError, match=r"cannot read .*b\.tar: .*No such file"):
        open_images(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_file_in_a_zip_is_one_line_and_the_others_are_read(
    packing: int, image_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        for image in sorted(image_folder.glob("*.png"))[:3]:
            archive.write(image, image.name)
        first = archive.infolist()[0]
    content = bytearray(path.read_bytes())
    head = 9 if packing == zipfile.ZIP_LZMA else 0  # LZMA's settings come before the data
    start = first.header_offset + 30 + len(first.filename) + head
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    images = open_images(DataConfig(path=str(path)))
    with pytest.raises(UserError, match=rf"cannot read .*images\.zip/{first.filename}: .+"):
        images.fetch(0)
    assert images.fetch(1)[0].startswith(b"\x89PNG")


def test_a_damaged_table_at_an_address_is_not_said_to_be_looked_for_on_the_hub() -> None:
    fsspec.filesystem("memory").pipe_file("/damaged/train.parquet", b"nothing")
    with pytest.raises(UserError, match=r"^cannot open the data memory://damaged: "):
        open_images(DataConfig(path="memory://damaged"))


def test_braces_stand_for_numbers_and_words(tmp_path: Path) -> None:
    for name in ("a-07.tar", "a-08.tar", "a-09.tar", "b.tar", ".hidden.tar"):
        (tmp_path / name).write_bytes(b"")
    assert [Path(name).name for name in find_files(f"{tmp_path}/a-{{08..09}}.tar")] == ["a-08.tar", "a-09.tar"]
    assert [Path(name).name for name in find_files(f"{tmp_path}/{{b,a-07}}.tar")] == ["a-07.tar", "b.tar"]
    assert len(find_files(str(tmp_path))) == 4
