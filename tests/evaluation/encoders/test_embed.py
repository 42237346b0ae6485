"""The feature cache: its key, resuming, and refusals."""

import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from biovfm_hf.errors import UserError
from evaluation.encoders import embed
from evaluation.encoders.embed import (
    Augmentation,
    cache_key,
    embed_batch,
    embed_features,
    embed_summaries,
    embed_tokens,
)
from evaluation.encoders.load import load_encoder
from evaluation.encoders.pooling import case_features
from evaluation.encoders.tokens import FEATURES
from evaluation.tasks import open_task


@pytest.fixture
def images(class_folder):
    return open_task(str(class_folder), class_folder).splits["train"].images


@pytest.fixture
def encoder(tiny_model):
    return load_encoder(str(tiny_model))


class Counted:
    """Images that count how often they are decoded."""

    def __init__(self, images):
        self.images, self.read = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read += 1
        return self.images[index]

    def fingerprint(self):
        return self.images.fingerprint()


def test_features_are_those_of_the_model_in_order(encoder, images, tmp_path):
    stored = embed_summaries(encoder, images, tmp_path, batch_size=5)
    direct = encoder.encode(encoder.preprocess([images[i] for i in range(len(images))])).summary()
    for name, values in direct.items():
        np.testing.assert_allclose(stored[name], values.numpy(), atol=1e-5)


WIDTHS = {"both": 64, "class": 32, "mean": 32, "mean_raw": 32, "pooled": 32, "last4": 160, "card": 64}


@pytest.mark.parametrize("which", FEATURES)
def test_every_kind_of_feature_is_cached_and_the_same_without_cache(encoder, images, tmp_path, which):
    stored = embed_features(encoder, images, tmp_path, which, batch_size=7)
    assert stored.shape == (len(images), WIDTHS[which])
    np.testing.assert_allclose(stored[:5], embed_batch(encoder, [images[i] for i in range(5)], which), atol=1e-5)
    counted = Counted(images)
    assert np.array_equal(stored, embed_features(encoder, counted, tmp_path, which)) and counted.read == 0


def test_on_a_cpu_several_encode_at_once_and_hold_one_batch_together(encoder, images, tmp_path, monkeypatch):
    direct = encoder.encode(encoder.preprocess([images[i] for i in range(len(images))])).summary()
    meeting, sizes = threading.Barrier(4, timeout=60), []
    monkeypatch.setattr(
        encoder, "preprocess", lambda batch, own=encoder.preprocess: sizes.append(len(batch)) or own(batch)
    )
    # after the blocks: if all lanes had hooks on one module, every lane would have called them all by now
    encoder.module.norm.register_forward_pre_hook(lambda *_: print(meeting.wait()))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        stored = embed_summaries(encoder, images, tmp_path, batch_size=8)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    assert sizes == [2] * 12
    for name, values in direct.items():
        np.testing.assert_allclose(stored[name], values.numpy(), atol=1e-5)


def test_what_has_not_begun_is_dropped_when_nobody_wants_it_any_more():
    begun, allowed = [], threading.Semaphore(1)

    def work(item):
        begun.append(item)
        allowed.acquire(timeout=60)
        return item

    found = embed.prefetch(work, list(range(8)), ahead=8, threads=1)
    assert next(found) == 0
    while len(begun) < 2:  # its thread may begin item 1 later than this one goes on
        time.sleep(0.001)
    threading.Timer(0.2, allowed.release).start()  # lets item 1, which has started, finish
    found.close()
    assert begun == [0, 1]


def test_a_twin_shares_the_weights(encoder):
    twin = encoder.twin()
    assert twin.module is not encoder.module
    tensors = [[*part.parameters(), *part.buffers()] for part in (twin.module, encoder.module)]
    assert all(a is b for a, b in zip(*tensors, strict=True)) and tensors[0]


def test_second_time_nothing_is_decoded(encoder, images, tmp_path):
    counted = Counted(images)
    first = embed_summaries(encoder, counted, tmp_path)
    assert counted.read == len(images)
    again = embed_summaries(encoder, counted, tmp_path)
    assert counted.read == len(images) and np.array_equal(first["mean"], again["mean"])


def test_a_killed_run_continues_with_the_missing_shards(encoder, images, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "SHARD_IMAGES", 10)
    whole = embed_summaries(encoder, images, tmp_path)
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert [len(load_file(shard)["mean"]) for shard in shards] == [10, 10, 4]
    shards[1].unlink()
    counted = Counted(images)
    again = embed_summaries(encoder, counted, tmp_path)
    assert counted.read == 10 and np.allclose(whole["class"], again["class"], atol=1e-6)


def test_key_follows_weights_preprocessing_and_content(encoder, second_model, tiny_model, images, class_folder):
    other_images = open_task(str(class_folder), class_folder).splits["val"].images
    keys = {
        cache_key(encoder, images, "x"),
        cache_key(encoder, images, "y"),
        cache_key(encoder, other_images, "x"),
        cache_key(load_encoder(str(second_model)), images, "x"),
        cache_key(load_encoder(str(tiny_model), preprocess="half"), images, "x"),
        cache_key(load_encoder(str(tiny_model), precision="bf16"), images, "x"),
    }
    assert len(keys) == 6
    assert cache_key(load_encoder(f"other={tiny_model}"), images, "x") == cache_key(encoder, images, "x")


def test_in_bfloat16_features_keep_two_digits(encoder, tiny_model, images, tmp_path):
    other = load_encoder(str(tiny_model), precision="bf16")
    for module in (encoder.module, other.module):  # untrained blocks add almost nothing, in any precision
        torch.manual_seed(0)
        for weights in module.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.1)
    exact, found = (embed_summaries(one, images, tmp_path) for one in (encoder, other))
    for name, values in found.items():
        off = np.abs(values - exact[name]).max() / np.abs(exact[name]).max()
        assert values.dtype == np.float32 and 1e-5 < off < 0.05, name


def test_values_that_are_not_finite_are_refused(encoder, images, tmp_path):
    with torch.no_grad():
        encoder.module.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        embed_summaries(encoder, images, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_augmented_views_differ_and_are_repeatable(make_image):
    image = make_image(1, 0, 224)
    view = Augmentation(0, 3)
    assert view(image, 5).shape == image.shape
    assert np.array_equal(view(image, 5), Augmentation(0, 3)(image, 5))
    assert not np.array_equal(view(image, 5), view(image, 6))
    assert not np.array_equal(view(image, 5), Augmentation(1, 3)(image, 5))


def test_token_store_reads_any_rows_in_order(encoder, images, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "TOKEN_SHARD_BYTES", 7 * 2 * 16 * 32 * 3)
    store = embed_tokens(encoder, images, tmp_path, 32, blocks=3)
    assert len(store.shards) == 4
    rows = np.array([20, 0, 13, 6, 7])
    found = store.read(rows)
    assert [tuple(block.shape) for block in found] == [(5, 4, 4, 32)] * 3
    pixels = torch.cat([encoder.preprocess([images[int(row)]]) for row in rows])
    direct = encoder.encode(pixels, 3).blocks
    for block, wanted in zip(found, direct, strict=True):
        assert torch.allclose(block, wanted, atol=2e-2, rtol=2e-3)


def test_features_of_a_case_are_the_mean_of_its_images():
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    found = case_features(features, np.array([0, 0, 1, 1, 1, 2]))
    assert found.tolist() == [[1, 2], [6, 7], [10, 11]]
    assert case_features(features, None) is features


def test_batches_for_a_gpu_are_loaded_into_pinned_memory(images, encoder, tmp_path, monkeypatch):
    """There is no GPU: the device is only named, and `summarise` goes round it."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(len(tensor)) or tensor)
    monkeypatch.setattr(
        embed, "summarise", lambda encoder, pixels: {name: pixels.flatten(1) for name in embed.SUMMARIES}
    )
    embed_summaries(encoder, images, tmp_path / "cpu", batch_size=5)
    assert not pinned
    encoder.device = "cuda"
    embed_summaries(encoder, images, tmp_path / "cuda", batch_size=5)
    assert sorted(pinned) == [len(images) % 5] + [5] * (len(images) // 5)


def test_only_a_last_batch_is_filled_up_for_a_compiled_encoder(images, encoder, tmp_path, monkeypatch):
    loaded, given = [], []

    def preprocess(batch, own=encoder.preprocess):
        pixels = own(batch)
        loaded.append(pixels)
        return pixels

    monkeypatch.setattr(encoder, "preprocess", preprocess)
    monkeypatch.setattr(encoder, "compiled", [(encoder.module, "forward", encoder.module.forward)])
    monkeypatch.setattr(
        embed, "summarise", lambda encoder, pixels: given.append(pixels) or dict.fromkeys(embed.SUMMARIES, pixels)
    )
    embed_summaries(encoder, images, tmp_path, batch_size=5)
    assert all(len(batch) == 5 for batch in given)
    assert [any(batch is one for one in loaded) for batch in given] == [True] * (len(images) // 5) + [False]


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("which", ["both", "last4"])
def test_compiled_features_agree_and_a_smaller_last_batch_compiles_nothing_anew(tiny_model, images, tmp_path, which):
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    encoder = load_encoder(str(tiny_model), compiled=True)
    found = embed_features(encoder, images, tmp_path / "compiled", which, batch_size=5)
    assert len(images) % 5 and counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    plain = embed_features(load_encoder(str(tiny_model)), images, tmp_path / "plain", which, batch_size=5)
    np.testing.assert_allclose(found, plain, atol=1e-5)
    assert not any("forward" in part.__dict__ for part in encoder.module.modules())  # copies are not compiled


@pytest.mark.parametrize("backend", ["traced_only", pytest.param("tmp_path", marks=pytest.mark.slow, id="inductor")])
def test_compiled_tokens_agree(tiny_model, images, tmp_path, monkeypatch, request, backend):
    request.getfixturevalue(backend)
    # only a few kernels: each process that compiles them would have to import torch first
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    stores = [
        embed_tokens(load_encoder(str(tiny_model), compiled=flag), images, tmp_path / str(flag), 32, 2, 5)
        for flag in (True, False)
    ]
    compiled, plain = (store.read(np.arange(len(images))) for store in stores)
    assert all(torch.allclose(a, b, atol=2e-2) and len(a) == 24 for a, b in zip(compiled, plain, strict=True))


@pytest.mark.usefixtures("traced_only")
def test_a_model_without_blocks_is_compiled_whole(images, tmp_path):
    timm = pytest.importorskip("timm")
    settings = dict(channels=(8, 16, 24, 32))
    timm.models.save_for_hf(timm.create_model("resnet18", num_classes=0, **settings), tmp_path, model_args=settings)
    plain, compiled = (load_encoder(f"timm:{tmp_path}", compiled=flag) for flag in (False, True))
    assert [name for _, name, _ in compiled.compiled] == ["forward_features"]
    batch = [images[0], images[1]]
    np.testing.assert_allclose(embed_batch(compiled, batch, "mean"), embed_batch(plain, batch, "mean"), atol=1e-4)


def test_damaged_shards_are_named(encoder, images, tmp_path):
    embed_summaries(encoder, images, tmp_path, batch_size=8)
    store = embed_tokens(encoder, images, tmp_path, 32, batch_size=8)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="is damaged"):
        embed_summaries(encoder, images, tmp_path, batch_size=8)
    with pytest.raises(UserError, match="is damaged"):
        store.read(np.arange(2))
