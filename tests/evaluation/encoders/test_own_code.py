"""Models with code of their own: refused without a revision, run at the given one, preprocessed one by one."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

import biovfm_hf
from biovfm_hf.errors import UserError
from evaluation.commands.probe import main
from evaluation.encoders.load import load_encoder
from evaluation.encoders.own_code import code_digest
from tests.own_model import OWN_MODEL

PROCESSOR = '''
import numpy as np
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature


class SliceProcessor(BaseImageProcessor):
    """One grey slice at a time, of zero mean and unit deviation."""

    def __init__(self, crop_size=32, **keywords):
        super().__init__(**keywords)
        self.crop_size = crop_size

    def __call__(self, images, return_tensors="pt"):
        if images.ndim != 2:
            raise ValueError("an axis of channels would be one of slices")
        grey = torch.from_numpy(images.astype(np.float32))[None, None]
        grey = torch.nn.functional.interpolate(grey, size=(self.crop_size, self.crop_size), mode="area")[0]
        return BatchFeature({"pixel_values": [(grey - grey.mean()) / grey.std()]}, tensor_type=return_tensors)
'''
IMAGES = [np.random.default_rng(n).integers(0, 255, (40 + n, 50, 3), dtype=np.uint8) for n in range(3)]


@pytest.fixture(autouse=True)
def modules_of_this_test(monkeypatch, tmp_path):
    """The folder to which transformers copies foreign code, so that the home folder stays unchanged."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked in a batch"))


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A DINOv2 of one channel whose image processor is its own code, as Curia's is."""
    folder = tmp_path_factory.mktemp("slices")
    transformers.AutoModel  # noqa: B018  (loads the Auto classes before a model's own module)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    torch.manual_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes, num_channels=1)).save_pretrained(folder)
    (folder / "slice_processor.py").write_text(PROCESSOR)
    settings = {"auto_map": {"AutoImageProcessor": "slice_processor.SliceProcessor"}, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_own_code_is_refused_in_one_line_that_names_the_flag(slices):
    digest = code_digest(slices)
    for given in (None, "0" * 16, "main"):
        with pytest.raises(UserError, match=f"of its own.*--trust-remote-code {digest}$") as refusal:
            load_encoder(str(slices), trust_remote_code=given)
        assert "\n" not in str(refusal.value)


def test_a_processor_of_its_own_is_given_one_grey_slice_at_a_time(slices):
    encoder = load_encoder(str(slices), trust_remote_code=code_digest(slices))
    pixels = encoder.preprocess(IMAGES)
    assert pixels.shape == (3, 1, 32, 32) and encoder.size == 32
    torch.testing.assert_close(pixels.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    module = transformers.Dinov2Model.from_pretrained(slices).eval()
    with torch.no_grad():
        expected = module(pixels).last_hidden_state
    encoded = encoder.encode(pixels)
    torch.testing.assert_close(encoded.normed, expected, atol=1e-5, rtol=0)
    assert encoded.prefix == 1 and encoded.grid == (4, 4)
    assert code_digest(slices) in encoder.revision and code_digest(slices) in encoder.notes[0]
    of_three = encoder.encode(pixels.expand(-1, 3, -1, -1))  # as segmentation passes them
    torch.testing.assert_close(of_three.normed, encoded.normed, atol=1e-5, rtol=0)


def test_changed_code_needs_to_be_read_again(slices, tmp_path):
    folder = shutil.copytree(slices, tmp_path / "changed")
    before = code_digest(folder)
    (folder / "slice_processor.py").write_text(PROCESSOR + "\nprint('more')\n")
    with pytest.raises(UserError, match="is not the revision of its own code"):
        load_encoder(str(folder), trust_remote_code=before)


def test_a_model_with_its_own_code(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    auto_map = {"AutoConfig": "own_model.OwnConfig", "AutoModel": "own_model.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own-patches", "auto_map": auto_map}))
    (folder / "own_model.py").write_text(OWN_MODEL)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    weight, bias = torch.randn(8, 3, 8, 8), torch.randn(8)
    torch.save({"embed.weight": weight, "embed.bias": bias}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="--trust-remote-code"):
        load_encoder(str(folder))
    encoder = load_encoder(str(folder), trust_remote_code=code_digest(folder))
    pixels = encoder.preprocess(IMAGES[:1])
    expected = torch.nn.functional.conv2d(pixels, weight, bias, 8)[0].flatten(1).mT
    torch.testing.assert_close(encoder.encode(pixels).tokens[0], expected, atol=1e-5, rtol=0)


def test_code_of_another_repository_is_never_run(slices, tmp_path):
    folder = shutil.copytree(slices, tmp_path / "elsewhere")
    settings = {"auto_map": {"AutoImageProcessor": "somebody/else--slice_processor.SliceProcessor"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="the code of another repository"):
        load_encoder(str(folder), trust_remote_code=code_digest(folder))


def test_a_repository_is_opened_at_the_commit_and_at_nothing_else(monkeypatch):
    asked = []

    def refuse(where, **keywords):
        asked.append(keywords)
        raise ValueError("Please pass the argument `trust_remote_code=True` to allow custom code to be run.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr("evaluation.encoders.own_code._refuse_foreign_code", lambda *_: None)
    with pytest.raises(UserError, match=r"owner/name/commits/main, then give --trust-remote-code COMMIT"):
        load_encoder("owner/name", trust_remote_code="main")
    assert asked == [{"trust_remote_code": False}]
    with pytest.raises(UserError):
        load_encoder("owner/name", trust_remote_code="a" * 40)
    assert asked[2] == {"trust_remote_code": True, "revision": "a" * 40, "code_revision": "a" * 40}


def test_commands_take_the_revision_and_records_state_it(slices, class_folder, tmp_path):
    words = ["--model", str(slices), "--tasks", str(class_folder), "--method", "knn", "--features", "card"]
    with pytest.raises(UserError, match="--trust-remote-code"):
        main([*words, "--out", str(tmp_path / "out"), "--no-figures", "--resamples", "5"])
    digest = code_digest(slices)
    trusting = ["--trust-remote-code", digest]
    main([*words, "--out", str(tmp_path / "out"), "--no-figures", "--resamples", "5", *trusting])
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["notes"][:2] == [f"runs the model's own code, revision {digest}", "features card: both"]
    assert record["settings"]["features"] == "card" and record["revision"].endswith(f"+{digest}")
    vectors = biovfm_hf.embed(
        model=str(slices), images=str(class_folder / "test"), out=tmp_path / "f.parquet", features="card",
        trust_remote_code=digest,
    )  # fmt: skip
    assert vectors.vectors.shape == (15, 64) and vectors.made_with["features"] == "both"
