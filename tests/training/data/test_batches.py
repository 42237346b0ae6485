"""Order, sources and batches: every image once per pass for any number of workers; damaged ones are counted."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biovfm_hf.errors import UserError
from training.config_file import config_from_tree
from training.data import images as images_module
from training.data.batches import CropBatches, Share, _substitutes, loader, normalise, sample_order
from training.data.decode import read_image
from training.data.images import open_images
from training.data.order import SampleOrder, permute
from training.data.stream import RowGroup, StreamedImages
from training.data.stream_order import StreamOrder
from training.settings.augment import check_augment
from training.settings.config import DataConfig, TrainConfig

from .conftest import rows


def small_config(path: Path | str, **data) -> TrainConfig:
    tree = {"method": "dino", "data": {"path": str(path), **data}, "model": {"size": "vit-tiny"}}
    tree["augment"] = {"global_size": 32, "local_size": 16, "local_count": 2}
    return config_from_tree(tree)


def batches(config: TrainConfig, share: Share) -> CropBatches:
    images = open_images(config.data)
    return CropBatches(images, sample_order(images, config), config, share)


def mixed(path: Path, **more: object) -> TrainConfig:
    tree = {"method": "dino", "data": {"path": str(path)}, "model": {"size": "vit-tiny"}, "batch": {"size": 4}}
    sizes = [{"global_size": 32, "local_size": 16, "weight": 3}, {"global_size": 48, "local_size": 32}]
    augment = {"global_size": 32, "local_size": 16, "local_count": 2, "mixture": sizes}
    return config_from_tree({**tree, "augment": {**augment, **more}})


def test_a_mixture_draws_one_size_a_step_for_all_passes_and_processes(image_folder: Path) -> None:
    config = mixed(image_folder)
    parts = [batches(config, Share(1, 2, rank)) for rank in (0, 1)]  # two passes of two processes make a step
    sides = [[part.draw_cutters(number).sizes.global_size for number in range(400)] for part in parts]
    assert sides[0] == sides[1] and sides[0][::2] == sides[0][1::2]
    assert 0.65 < np.mean(np.array(sides[0][::2]) == 32) < 0.85
    number = sides[0].index(48)
    batch = parts[1][number]
    assert batch["global_crops"].shape == (2, 3, 48, 48) and batch["local_crops"].shape == (2, 3, 32, 32)
    whole = batches(config, Share(4))[number // 2]
    part = parts[1].share.positions(number)[0] % 4
    assert torch.equal(batch["global_crops"][0], whole["global_crops"][part])


def test_what_joins_a_batch_knows_its_images_and_the_side_of_its_crops(image_folder: Path) -> None:
    config, drawn = mixed(image_folder), []
    images = open_images(config.data)
    order = sample_order(images, config)
    dataset = CropBatches(images, order, config, Share(4), lambda what, _: drawn.append(what) or {})
    batch = dataset[3]
    assert drawn[0].side == batch["global_crops"].shape[-1]
    assert drawn[0].images.tolist() == order.indices(drawn[0].positions).tolist()


def test_sizes_of_a_mixture_are_checked_one_by_one(image_folder: Path) -> None:
    for sizes, message in (
        ([{"global_size": 16, "local_size": 32}], r"augment\.mixture\[0\]\.local_size 32 is larger"),
        ([{}, {"weight": 0}], r"augment\.mixture\[1\]\.weight is 0"),
        (
            [{"globel_size": 3}],
            r"unknown config key augment\.mixture\[0\]\.globel_size; did you mean augment\.mixture\[0\]\.global_size",
        ),
        ([{"anchor_size": 64}], r"anchor_size is given, but gram\.weight is 0"),
    ):
        with pytest.raises(UserError, match=message):
            mixed(image_folder, mixture=sizes)
    with pytest.raises(UserError, match=r"augment\.mixture\[0\]\.global_size 40 is not a multiple of"):
        check_augment(mixed(image_folder, mixture=[{"global_size": 40, "local_size": 16}]).augment, 16)


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind)
    return buffer.getvalue()


@given(st.integers(1, 3000), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_permute_mixes_and_needs_no_table() -> None:
    shuffled = permute(np.arange(20_000), 20_000, 5)
    assert abs(np.corrcoef(shuffled, np.arange(20_000))[0, 1]) < 0.03
    assert (shuffled != permute(np.arange(20_000), 20_000, 6)).mean() > 0.99
    assert permute(np.array([0, 10**12 - 1]), 10**12, 1).min() >= 0


def test_each_pass_has_every_image_once_in_a_new_order() -> None:
    order = SampleOrder(17, seed=3)
    drawn = order.indices(np.arange(34))
    assert sorted(drawn[:17]) == sorted(drawn[17:]) == list(range(17))
    assert drawn[:17].tolist() != drawn[17:].tolist()
    assert order.indices(np.array([20, 3])).tolist() == [drawn[20], drawn[3]]


def test_weights_set_the_share_of_each_group() -> None:
    order = SampleOrder(100, 0, [np.arange(90), np.arange(90, 100)], [1.0, 3.0])
    drawn = order.indices(np.arange(8000))
    assert abs((drawn >= 90).mean() - 0.75) < 0.02
    assert len(np.unique(drawn)) == 100


def test_processes_share_a_step_without_overlap() -> None:
    parts = [Share(4, processes=3, rank=rank).positions(5) for rank in range(3)]
    assert np.concatenate(parts).tolist() == Share(12).positions(5).tolist()


def assert_equal_batches(one: dict, two: dict) -> None:
    assert one.keys() == two.keys() and one.pop("skipped") == two.pop("skipped") == []
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_batches_do_not_depend_on_workers_or_cache(image_folder: Path) -> None:
    config = small_config(image_folder)
    cached = batches(config, Share(5))
    cached.set_cache(8)
    for other in (loader(cached, range(3), 0, False), loader(batches(config, Share(5)), range(3), 2, False)):
        alone = [batches(config, Share(5))[number] for number in (0, 1, 2)]
        assert [len(batch["global_crops"]) for batch in alone] == [10] * 3
        for expected, got in zip(alone, other, strict=True):
            assert_equal_batches(expected, got)


def test_batches_of_processes_join_to_the_batch_of_one(image_folder: Path) -> None:
    config = small_config(image_folder)
    whole = batches(config, Share(6))[2]["global_crops"].unflatten(0, (2, 6))
    parts = [batches(config, Share(3, 2, rank))[2]["global_crops"].unflatten(0, (2, 3)) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_normalise_is_the_processors_formula() -> None:
    crops = torch.arange(0, 256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (crops.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(normalise(crops, mean, std).double(), expected, atol=1e-6)


# --- sources ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parquet_folder(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    (folder / "data").mkdir()
    rows(image_folder).to_parquet(folder / "data" / "train-00000.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: full\n  data_files:\n  - {split: train, path: data/*.parquet}\n---\n"
    )
    return folder


def test_folder_and_dataset_give_the_same_images(image_folder: Path, parquet_folder: Path, tmp_path: Path) -> None:
    rows(image_folder).save_to_disk(tmp_path / "disk")
    opened = [open_images(DataConfig(path=str(path))) for path in (image_folder, parquet_folder, tmp_path / "disk")]
    assert [len(images) for images in opened] == [24] * 3
    decoded = [[read_image(*images.fetch(index)[:2]) for index in (0, 7)] for images in opened]
    for other in decoded[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(decoded[0], other, strict=True))
    assert opened[1].fetch(0)[2] == "US" and opened[1].fetch(1)[2] == "CT"


def test_filters_and_weights_by_column(parquet_folder: Path) -> None:
    images = open_images(DataConfig(path=str(parquet_folder), modality=["US"], source=["b"]))
    assert len(images) == 3 and all(images.fetch(index)[2] == "US" for index in range(3))
    config = small_config(parquet_folder, weight_by="modality", weights={"CT": 0.0})
    images = open_images(config.data)
    drawn = sample_order(images, config).indices(np.arange(50))
    assert {images.fetch(int(index))[2] for index in drawn} == {"US"}


def test_a_stream_shows_every_image_once_a_pass(streamed_folder: Path) -> None:
    config = small_config(streamed_folder, streaming=True, stream_lanes=4)
    images = open_images(config.data)
    assert isinstance(images, StreamedImages) and len(images) == 24 and len(images.groups) == 9
    many = StreamedImages([RowGroup("x", number, 9 + number % 3) for number in range(100)], "image", False)
    for lanes in (1, 4, 50):
        order = StreamOrder(np.diff(many.starts), seed=0, batch=16, lanes=lanes)
        assert len(order.lanes) == min(lanes, 6)
        counts = np.bincount(order.indices(np.arange(len(many) * 10)), minlength=len(many))
        assert counts.min() >= 9 and counts.max() <= 11
        batch = order.indices(np.arange(64, 128))
        assert len(set(np.searchsorted(many.starts, batch, side="right"))) >= 4 * min(lanes, 6) - 4
        one_by_one = [int(order.indices(np.array([position]))[0]) for position in range(40)]
        assert order.indices(np.arange(40)).tolist() == one_by_one
    single = StreamOrder(np.diff(images.starts), seed=0, batch=6, lanes=1)
    passes = single.indices(np.arange(48)).reshape(2, 24)
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(24)) and passes[0].tolist() != passes[1].tolist()


def test_a_stream_reads_the_same_images_as_a_table(streamed_folder: Path) -> None:
    table = open_images(small_config(streamed_folder).data)
    stream = open_images(small_config(streamed_folder, streaming=True).data)
    assert isinstance(stream, StreamedImages)
    stream.set_cache(0)
    for index in (0, 23, 9, 1, 8):
        assert table.fetch(index)[0] == stream.fetch(index)[0]
        assert table.fetch(index)[2] == stream.fetch(index)[2]
    kept = open_images(small_config(streamed_folder, streaming=True, modality=["US"], source=["b"]).data)
    assert len(kept) == 3 and all(kept.fetch(index)[2] == "US" for index in range(3))


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_class_labels_and_numbers_are_read_by_name(
    image_folder: Path, tmp_path: Path, streaming: bool
) -> None:
    table = rows(image_folder).remove_columns("source").rename_column("index", "source")
    missing = [None, *table["modality"][1:]]
    table = table.remove_columns("modality").add_column("modality", missing)
    table.cast_column("modality", datasets.ClassLabel(names=["CT", "US"])).to_parquet(tmp_path / "train.parquet")
    images = open_images(DataConfig(path=str(tmp_path), streaming=streaming))
    assert [images.fetch(index)[2] for index in (0, 1, 4)] == [None, "CT", "US"]
    kept = open_images(DataConfig(path=str(tmp_path), streaming=streaming, modality=["US"], source=["4", "8"]))
    assert len(kept) == 2 and kept.fetch(0)[0] == images.fetch(4)[0]
    with pytest.raises(UserError, match="no image has source '99'"):
        open_images(DataConfig(path=str(tmp_path), streaming=streaming, source=["99"]))


def test_a_damaged_part_of_a_stream_is_skipped_and_counted(streamed_folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    content = bytearray((streamed_folder / "train-0.parquet").read_bytes())
    start = parquet.ParquetFile(streamed_folder / "train-0.parquet").metadata.row_group(1).column(0).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    (tmp_path / "train-0.parquet").write_bytes(content)
    dataset = batches(small_config(tmp_path, streaming=True), Share(4))
    skipped: list = []
    dataset.read(3, skipped)
    assert skipped[0][:2] == (3, 6) and "train-0.parquet row group 1: " in skipped[0][2]
    assert "\n" not in skipped[0][2]


def test_a_damaged_image_is_replaced_by_one_beyond_the_damaged_part() -> None:
    assert _substitutes(5, 10**6)[:12] == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 25]
    assert _substitutes(0, 10**6)[-1] == 5120
    assert _substitutes(2, 4) == [2, 3, 0, 1]


def test_stream_batches_do_not_depend_on_workers(streamed_folder: Path) -> None:
    config = small_config(streamed_folder, streaming=True)
    alone = [batches(config, Share(5))[number] for number in range(4)]
    for expected, got in zip(alone, loader(batches(config, Share(5)), range(4), 2, False), strict=True):
        assert_equal_batches(expected, got)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"column": "picture"}, "no data.column 'picture'"),
        ({"column": "source"}, r"none of 20 images tried can be read \(is data.column 'source' the right one"),
        ({"split": "test"}, "no split 'test'; there are: train"),
        ({"modality": ["PET"]}, "no image has modality 'PET'; there are: "),
        ({"modality": ["CT", "PET"]}, "no image has modality 'PET'; there are: "),
        ({"weight_by": "modality", "weights": {"CTX": 1}}, "no image has modality 'CTX'; did you mean CT"),
        ({"weight_by": "modality", "weights": {"CT": 0, "US": 0}}, "not all zero"),
    ],
)
def test_wrong_stream_settings_are_one_line(streamed_folder: Path, data: dict, words: str) -> None:
    config = small_config(streamed_folder, streaming=True, **data)
    with pytest.raises(UserError, match=words):
        batches(config, Share(2))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"column": "picture"}, "no column 'picture'; set data.column to one of its image columns: image"),
        ({"column": "source"}, r"is data.column 'source' the right one\?\); .* column 'source' names the file a"),
        ({"column": "index"}, "column 'index' holds int64, not images"),
        ({"modality": ["CTX"]}, "no image has modality 'CTX'; did you mean CT"),
        ({"config": "us"}, "cannot open the data"),
        ({"split": "validation"}, "cannot open the data"),
        ({"modality": ["US"], "source": ["c"]}, "no image has source 'c'"),
    ],
)
def test_wrong_data_settings_are_one_line(parquet_folder: Path, data: dict, words: str) -> None:
    config = small_config(parquet_folder, **data)
    with pytest.raises(UserError, match=words) as caught:
        open_images(config.data).fetch(0)
        batches(config, Share(2))[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [{"column": "foo"}, {"config": "us"}, {"split": "nope"}, {"streaming": True}])
def test_a_plain_folder_has_no_columns_configs_or_splits(image_folder: Path, words: dict) -> None:
    with pytest.raises(UserError, match=f"plain folder of images; data.{next(iter(words))} is for datasets"):
        open_images(DataConfig(path=str(image_folder), **words))


def test_no_images_one_image_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(encode(np.zeros((8, 8), np.uint8)))
    expected = {
        "empty": "no images under",
        "one": "holds 1 image",
        "one/a.png": "holds 1 image",
        "absent/x/y": "does not exist, and is not a Hub id",
    }
    for name, words in expected.items():
        with pytest.raises(UserError, match=words):
            open_images(DataConfig(path=str(tmp_path / name)))
    with pytest.raises(UserError, match="add --data"):
        open_images(DataConfig())
    with pytest.raises(UserError, match="without a column 'modality'"):
        open_images(DataConfig(path=str(tmp_path / "one"), modality=["CT"]))


# --- decoding --------------------------------------------------------------------------------------------------

GREY = (np.add.outer(np.arange(40), np.arange(60)) * 2).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)


def test_fast_and_general_decoding_agree() -> None:
    assert np.array_equal(read_image(encode(GREY), "x"), GREY)
    assert np.array_equal(read_image(encode(COLOUR), "x"), COLOUR)
    assert read_image(encode(np.repeat(GREY[..., None], 3, 2)), "x").ndim == 2
    jpeg = read_image(encode(COLOUR, "JPEG"), "x").astype(int)
    assert np.abs(jpeg - np.asarray(Image.open(io.BytesIO(encode(COLOUR, "JPEG"))))).max() <= 2
    with_alpha = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    assert np.array_equal(read_image(encode(with_alpha), "x"), COLOUR)


def test_sixteen_bits_keep_their_range() -> None:
    deep = np.linspace(0, 60_000, 40 * 60).reshape(40, 60).astype(np.uint16)
    assert len(np.unique(read_image(encode(deep), "x"))) > 200


def test_large_images_are_reduced() -> None:
    assert read_image(encode(np.zeros((100, 400), np.uint8)), "x", max_side=200).shape == (50, 200)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_files_are_refused(kind: str) -> None:
    data = encode(COLOUR, kind)
    for broken in (data[: len(data) // 2], b"", b"not an image", data[:30]):
        with pytest.raises(UserError):
            read_image(broken, "broken")


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    data = bytearray(encode(GREY))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(UserError):
        read_image(bytes(data), "bomb")


def test_a_damaged_image_is_skipped_and_counted(image_folder: Path, tmp_path: Path) -> None:
    for path in image_folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "003.png").write_bytes((image_folder / "003.png").read_bytes()[:200])
    dataset = batches(small_config(tmp_path), Share(24))
    first, again = dataset[0], dataset[0]
    ((index, other, reason),) = first["skipped"]
    assert (index, other) == (3, 4) and "003.png: " in reason
    (through_worker,) = next(loader(dataset, range(1), 1, False))["skipped"]
    assert tuple(through_worker) == (index, other, reason)
    assert torch.equal(first["global_crops"], again["global_crops"])


def test_data_without_a_readable_image_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"none of 4 images tried can be read; the first failed because: .*0\.png"):
        open_images(small_config(tmp_path).data)
    monkeypatch.setattr(images_module, "_check_readable", lambda *_: None)  # as where the first image is whole
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"^4 images beginning with number \d cannot be read") as caught:
            next(loader(batches(small_config(tmp_path), Share(2)), range(1), workers, False))
        assert "\n" not in str(caught.value)
