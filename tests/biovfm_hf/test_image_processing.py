"""BioVFMImageProcessor: what goes in, where it lands in `pixel_values`, and how it is saved and loaded."""

import os
import subprocess
import sys
import textwrap
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

import biovfm_hf
from biovfm_hf.errors import UserError
from biovfm_hf.fitting import fit
from biovfm_hf.image_processing_biovfm import BioVFMImageProcessor
from tests.preloaded import with_torch

RNG = np.random.default_rng(0)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
BICUBIC = Image.Resampling.BICUBIC
few = settings(max_examples=40, deadline=None)


@pytest.fixture
def processor():
    return BioVFMImageProcessor()


@pytest.fixture
def as_levels():
    """A processor whose `pixel_values` are the 0 to 255 levels themselves."""
    return BioVFMImageProcessor(do_rescale=False, do_normalize=False, do_resize=False)


def levels(processor, image, **kwargs):
    return processor(image, return_tensors="np", **kwargs).pixel_values[0]


def smooth(height, width, low=0, high=65535, dtype=np.uint16):
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (low + (high - low) * (rows + columns) / 2).astype(dtype)


class TestValues:
    def test_rescaled_and_normalised(self, processor):
        colour = RNG.integers(0, 256, (224, 224, 3), np.uint8)
        values = levels(processor, colour)
        assert values.shape == (3, 224, 224) and values.dtype == np.float32
        assert np.abs(values - ((colour / 255 - MEAN) / STD).transpose(2, 0, 1)).max() < 1e-5

    def test_grey_becomes_three_equal_channels(self, as_levels):
        values = levels(as_levels, smooth(20, 30, 0, 255, np.uint8))
        assert (
            values.shape == (3, 20, 30)
            and np.array_equal(values[0], values[1])
            and np.array_equal(values[0], values[2])
        )

    def test_16_bit_is_never_clipped(self, as_levels):
        grey = smooth(300, 300)
        for image in (grey, Image.fromarray(grey), torch.from_numpy(grey.astype(np.int32))):
            shown = levels(as_levels, image)[0]
            assert len(np.unique(shown)) == 256 and (shown == 255).mean() < 0.01
            assert np.abs(levels(as_levels, image, window=[0, 65535])[0] - grey / 257).max() <= 0.5

    def test_all_forms_of_one_picture_agree(self, processor, tmp_path):
        colour = RNG.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(colour).save(tmp_path / "a.png")
        forms = [
            Image.fromarray(colour), colour.transpose(2, 0, 1), torch.from_numpy(colour), str(tmp_path / "a.png"),
            torch.from_numpy(colour).permute(2, 0, 1), tmp_path / "a.png", (tmp_path / "a.png").read_bytes(),
            (colour / 255).astype(np.float32), colour[None], Image.fromarray(colour).convert("RGBA"),
        ]  # fmt: skip
        expected = levels(processor, colour)
        for form in forms:
            assert np.array_equal(levels(processor, form), expected)

    @few
    @given(
        st_numpy.arrays(
            st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64, bool]),
            st.one_of(
                st.tuples(st.integers(1, 12), st.integers(1, 12)),
                st.tuples(st.integers(5, 12), st.integers(5, 12), st.sampled_from([1, 3])),
                st.tuples(st.sampled_from([1, 3]), st.integers(5, 12), st.integers(5, 12)),
            ),
        ),
        st.sampled_from(["pad", "crop"]),
    )
    def test_any_array_gives_finite_values_of_one_shape(self, array, mode):
        values = BioVFMImageProcessor(size=16, resize_mode=mode)(array, return_tensors="pt").pixel_values
        assert values.shape == (1, 3, 16, 16) and torch.isfinite(values).all()
        assert values.min() > -2.2 and values.max() < 2.7

    def test_window_and_percentiles(self, as_levels):
        ct = np.array([[-1000, -160, 40, 240, 3000]], np.int16)
        assert levels(as_levels, ct, window=[-160, 240])[0].tolist() == [[0, 0, 128, 255, 255]]
        assert levels(as_levels, ct, percentiles=[0, 100])[0].tolist() == [[0, 54, 66, 79, 255]]

    def test_channel_layout_can_be_stated(self, as_levels):
        array = RNG.integers(0, 256, (3, 6, 3), np.uint8)
        assert levels(as_levels, array).shape == (3, 3, 6)
        assert levels(as_levels, array, input_data_format="channels_first").shape == (3, 6, 3)

    def test_nothing_is_written_into_the_input(self, processor):
        array = smooth(300, 200)
        copy = array.copy()
        processor(array)
        assert np.array_equal(array, copy)


def colour(height=40, width=60, high=256):
    return RNG.integers(0, high, (height, width, 3), np.uint8)


class TestNumbers:
    """The same numbers give the same tensor, whatever their container."""

    @pytest.mark.parametrize("shape", [(40, 60, 3), (40, 60), (3, 40, 60)])
    @pytest.mark.parametrize("high", [52, 256], ids=["dark", "whole range"])
    def test_every_dtype(self, processor, shape, high):
        picture = RNG.integers(0, high, shape, np.uint8)
        expected = levels(processor, picture)
        dtypes = [np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float16, np.float32, np.float64, ">f4"]
        for dtype in dtypes:
            assert np.array_equal(levels(processor, picture.astype(dtype)), expected), dtype
        for dtype in (torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64):
            assert np.array_equal(levels(processor, torch.from_numpy(picture).to(dtype)), expected), dtype

    def test_a_dark_picture_is_stretched_by_percentiles_on_request(self, as_levels):
        dark = smooth(40, 50, 0, 50, np.float32)
        assert levels(as_levels, dark).max() == 50
        assert levels(as_levels, dark, intensity="percentile").max() == 255
        assert levels(as_levels, dark, window=[0, 25]).max() == 255

    @pytest.mark.parametrize("size", [48, 32])
    @pytest.mark.parametrize("mode", ["pad", "crop"])
    def test_floats_that_are_scaled_already(self, size, mode):
        """transformers: "set do_rescale=False for images with pixel values between 0 and 1"."""
        processor = BioVFMImageProcessor(size=size, resize_mode=mode)
        picture = colour(48, 40)
        unit = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        assert np.abs(levels(processor, unit, do_rescale=False) - levels(processor, picture)).max() < 1e-6
        plain = {"do_rescale": False, "do_normalize": False, "do_resize": False}
        finer = torch.rand(3, 20, 30)
        assert np.array_equal(levels(processor, finer, **plain), finer.numpy())
        resized = levels(processor, finer, do_rescale=False, do_normalize=False)
        assert resized.min() >= 0 and resized.max() <= 1 and abs(resized.mean() - levels(
            processor, finer, do_normalize=False).mean()) < 1e-3  # fmt: skip

    def test_unit_floats_without_resizing_are_what_uint8_gives(self, processor):
        for picture in (colour(224, 224), colour(224, 224, high=2)):  # the second is next to black
            for unit in ((picture / 255).astype(np.float32), torch.from_numpy(picture) / 255):
                values = levels(processor, unit, do_rescale=False)
                assert np.abs(values - levels(processor, picture)).max() < 1e-6

    def test_floats_beyond_0_and_1_are_left_too(self, as_levels):
        """Resizing overshoots, and users who normalise themselves pass numbers of either sign."""
        for low, high in ((-0.03, 1.02), (-2.0, 2.6), (0.0, 255.0)):
            image = smooth(20, 30, low, high, np.float32)
            assert np.array_equal(levels(as_levels, image)[0], image)
            resized = levels(as_levels, image, do_resize=True, size={"height": 10, "width": 15})
            assert low <= resized.min() and resized.max() <= high and abs(resized.mean() - image.mean()) < 0.01 * high
        assert levels(as_levels, np.array([[np.nan, 0.5], [np.inf, -np.inf]]))[0].tolist() == [[0, 0.5], [1, 0]]

    @pytest.mark.parametrize("mode", ["I", "F", "I;16"])
    def test_numbers_in_a_pil_image(self, processor, mode):
        dark = RNG.integers(0, 40, (20, 30), np.uint8)
        dtype = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
        assert Image.fromarray(dark.astype(dtype)).mode == mode
        assert np.array_equal(levels(processor, Image.fromarray(dark.astype(dtype))), levels(processor, dark))

    def test_black_and_white(self, as_levels):
        mask = RNG.integers(0, 2, (20, 30)).astype(bool)
        for form in (mask, torch.from_numpy(mask), Image.fromarray(mask)):
            assert np.array_equal(levels(as_levels, form)[0], mask), form
            assert np.array_equal(levels(as_levels, form, do_rescale=True)[0], mask.astype(np.float32))


class TestSources:
    """One image, however it is passed; a message names what is missing."""

    def test_files_dicts_and_bytes(self, processor, tmp_path):
        picture = colour()
        path = tmp_path / "a.png"
        Image.fromarray(picture).save(path)
        content, expected = path.read_bytes(), levels(processor, picture)
        for source in ({"bytes": content, "path": None}, {"bytes": content, "path": "a.png"},
                       {"bytes": None, "path": str(path)}, bytearray(content), memoryview(content)):  # fmt: skip
            assert np.array_equal(levels(processor, source), expected)
        memory = BytesIO(content)
        with path.open("rb") as file:
            for opened in (memory, file):
                assert np.array_equal(levels(processor, opened), expected)
                assert not opened.closed and opened.tell() == 0 and opened.read() == content
        memory.seek(0, os.SEEK_END)  # as it stands after `image.save(memory, "PNG")`
        assert np.array_equal(levels(processor, memory), expected) and memory.tell() == len(content)
        reading, writing = os.pipe()  # which cannot be rewound
        with os.fdopen(writing, "wb") as end:
            end.write(content)
        with os.fdopen(reading, "rb") as file:
            assert np.array_equal(levels(processor, file), expected)

    def test_data_urls(self, processor):
        picture, memory = colour(), BytesIO()
        Image.fromarray(picture).save(memory, "PNG")
        url = f"data:image/png;base64,{b64encode(memory.getvalue()).decode()}"
        assert np.array_equal(levels(processor, url), levels(processor, picture))
        for damaged in ("data:image/png;base64,@@", "data:text/plain,hello", "data:"):
            with pytest.raises(UserError, match="data URL"):
                processor(damaged)

    def test_files_without_an_image_are_reported(self, processor, tmp_path):
        text = tmp_path / "a.txt"
        text.write_text("a name")
        with text.open() as file, pytest.raises(UserError, match=r"a.txt: gives str, not bytes; open it in binary"):
            processor(file)
        with pytest.raises(UserError, match=r"a.txt: cannot be read .*closed file"):
            processor(file)
        with pytest.raises(UserError, match="a dict of 'pixels': give 'bytes', or 'path'"):
            processor({"pixels": b""})
        for tensor in (torch.empty(3, 8, 8, device="meta"), torch.eye(8).to_sparse()):
            with pytest.raises(UserError, match="has no numbers to read"):
                processor(tensor)

    def test_undecoded_rows_of_a_dataset(self, processor):
        import datasets

        picture = colour()
        rows = datasets.Dataset.from_dict({"image": [Image.fromarray(picture)] * 2}, datasets.Features(
            {"image": datasets.Image(decode=False)}))  # fmt: skip
        values = processor(rows[:]["image"], return_tensors="np").pixel_values
        assert np.array_equal(values, np.stack([levels(processor, picture)] * 2))

    @pytest.mark.parametrize("tensors", ["np", "pt", None])
    @pytest.mark.parametrize("nothing", [[], [[]], np.zeros((0, 8, 8, 3), np.uint8)])
    def test_no_images(self, processor, nothing, tensors):
        with pytest.raises(UserError, match="no images"):
            processor(nothing, return_tensors=tensors)

    def test_devices(self, processor):
        assert processor(colour(), device="cpu", return_tensors="pt").pixel_values.device.type == "cpu"
        missing = [name for name in ("cuda", "mps") if not getattr(torch, name).is_available()]
        for device in (*missing, "nowhere"):
            with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
                processor(colour(), device=device, return_tensors="pt")


def class_map(height, width):
    """Four classes, one a quarter; the first is 0."""
    rows, columns = np.mgrid[:height, :width]
    return (2 * (rows >= height // 2) + (columns >= width // 2)).astype(np.uint8)


class TestSegmentation:
    def test_maps_go_where_their_images_go(self, tmp_path):
        processor = BioVFMImageProcessor(size=32)
        labels = class_map(64, 32)
        batch = processor(colour(64, 32), labels, return_tensors="pt")
        assert batch.labels.dtype == torch.int64 and batch.labels.shape == (1, 32, 32)
        expected = np.full((32, 32), 255)
        expected[:, 8:24] = class_map(32, 16)
        assert np.array_equal(batch.labels[0], expected)
        cropped = processor(colour(64, 32), segmentation_maps=labels, resize_mode="crop").labels
        assert np.array_equal(cropped[0], labels[16:48])

    def test_forms_of_a_map(self, tmp_path):
        processor = BioVFMImageProcessor(size=32)
        labels = class_map(32, 32)
        palette = Image.fromarray(labels)
        palette.putpalette([value for shade in range(256) for value in (shade, 255 - shade, 7)])
        palette.save(tmp_path / "palette.png")
        Image.fromarray(labels).save(tmp_path / "grey.png")
        Image.fromarray(labels).convert("RGB").save(tmp_path / "rgb.png")
        files = [tmp_path / f"{name}.png" for name in ("palette", "grey", "rgb")]
        forms = [*files, files[0].read_bytes(), BytesIO(files[1].read_bytes()), palette, Image.fromarray(labels),
                 torch.from_numpy(labels).long(), labels.astype(np.float32), labels[None]]  # fmt: skip
        for form in forms:
            assert np.array_equal(processor(colour(32, 32), form).labels[0], labels), form
        forms = [labels[..., None], np.stack([labels] * 3, -1), [labels[..., None]]]
        for form in forms:  # with an axis of channels
            assert np.array_equal(processor(colour(32, 32), form).labels[0], labels)
        two = np.stack([labels, 3 - labels])
        for form in (two, two[:, None], two[..., None], list(two), [[two[0]], [two[1]]], torch.from_numpy(two)):
            assert np.array_equal(processor([colour(32, 32)] * 2, form).labels, two)

    def test_reduced_labels(self):
        reduced = {0: 255, 1: 0, 2: 1, 3: 2}
        processor = BioVFMImageProcessor(size=32, do_reduce_labels=True)
        found = processor(colour(64, 32), class_map(64, 32)).labels[0]
        assert (found[:, :8] == 255).all()
        right = np.vectorize(reduced.get)(class_map(32, 16))
        assert np.array_equal(found[:, 8:24], right)

    def test_maps_that_do_not_fit(self):
        processor = BioVFMImageProcessor(size=32)
        with pytest.raises(UserError, match="1 segmentation maps for 2 images"):
            processor([colour()] * 2, [class_map(40, 60)])
        with pytest.raises(UserError, match="is \\(9, 9\\) for an image of \\(40, 60\\)"):
            processor(colour(), class_map(9, 9))
        for wrong in (colour(), np.full((40, 60), 0.5)):
            with pytest.raises(UserError, match="not a map of class numbers"):
                processor(colour(), [wrong])

    @pytest.mark.parametrize("shape", [(64, 32), (30, 80), (48, 48)])
    @pytest.mark.parametrize("mode", ["pad", "crop"])
    def test_scores_come_back_onto_the_image(self, shape, mode):
        processor = BioVFMImageProcessor(size=64, resize_mode=mode)
        labels = torch.from_numpy(processor(colour(*shape), class_map(*shape)).labels)
        logits = torch.nn.functional.one_hot(labels.clamp(max=4), 5).permute(0, 3, 1, 2).float()
        outputs = transformers.modeling_outputs.SemanticSegmenterOutput(logits=logits)
        (found,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[shape])
        assert found.shape == shape and found.dtype == torch.int64
        seen = np.ones(shape, bool)
        if mode == "crop":
            rows, columns = ((side - min(shape)) // 2 for side in shape)
            seen[:] = False
            seen[rows : shape[0] - rows, columns : shape[1] - columns] = True
            assert (found.numpy()[~seen] == 0).all()
        assert (found.numpy() == class_map(*shape))[seen].mean() > 0.95
        (whole,) = processor.post_process_semantic_segmentation(outputs)
        assert torch.equal(whole, logits[0].argmax(0))
        with pytest.raises(ValueError, match="2 target_sizes for 1 images"):
            processor.post_process_semantic_segmentation(outputs, [shape, shape])

    def test_pipeline(self):
        config = biovfm_hf.BioVFMConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8, num_labels=3
        )
        model = biovfm_hf.BioVFMForSemanticSegmentation(config)
        torch.nn.init.zeros_(model.decoder.weight)
        model.decoder.bias.data = torch.tensor([0.0, 1.0, 0.0])
        run = transformers.pipeline("image-segmentation", model=model, image_processor=BioVFMImageProcessor(size=32))
        (found,) = run(Image.fromarray(np.zeros((60, 80), np.uint8)))
        assert (
            found["label"] == "LABEL_1" and found["mask"].size == (80, 60) and np.asarray(found["mask"]).min() == 255
        )


class TestGeometry:
    def test_pad_centres_the_whole_image_on_black(self):
        white = np.full((100, 50), 255, np.uint8)
        padded = fit(white, (224, 224), "pad", BICUBIC)
        assert padded.shape == (224, 224)
        assert (padded[:, 56:168] == 255).all() and padded[:, :56].max() == 0 and padded[:, 168:].max() == 0

    def test_padding_is_black_after_normalisation(self, processor):
        values = levels(processor, np.full((100, 50), 255, np.uint8))
        assert np.allclose(values[:, 0, 0], -MEAN / STD, atol=1e-6)

    def test_crop_takes_the_middle(self):
        image = np.zeros((100, 300), np.uint8)
        image[:, 100:200] = 255
        assert fit(image, (50, 50), "crop", BICUBIC)[:, 2:-2].min() > 250

    @few
    @given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 64), st.integers(1, 64), st.booleans())
    def test_every_shape_fits(self, height, width, out_height, out_width, colour):
        image = np.full((height, width, 3) if colour else (height, width), 200, np.uint8)
        canvas = (out_height, out_width)
        for mode in ("pad", "crop"):
            assert fit(image, canvas, mode, BICUBIC).shape == (*canvas, *image.shape[2:])
        assert (fit(image, canvas, "crop", BICUBIC) == 200).all()

    def test_aspect_ratio_is_kept(self, processor):
        rows, columns = np.mgrid[0:400, 0:200]
        disc = (((rows - 200) ** 2 + (columns - 100) ** 2 < 60**2) * 255).astype(np.uint8)
        for mode in ("pad", "crop"):
            shown = levels(processor, disc, resize_mode=mode)[0] > 0
            assert abs(int(shown.any(0).sum()) - int(shown.any(1).sum())) <= 1

    @pytest.mark.parametrize("mode", ["pad", "crop"])
    def test_thick_slices_are_stretched_to_square_pixels(self, processor, tmp_path, mode):
        nibabel = pytest.importorskip("nibabel")
        x, _, z = np.mgrid[0:120, 0:3, 0:24] * np.array([1.0, 1.0, 5.0]).reshape(3, 1, 1, 1)
        ball = (((x - 60) ** 2 + (z - 60) ** 2 < 40**2) * 255).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(ball, np.diag([1.0, 1.0, 5.0, 1.0])), tmp_path / "ball.nii.gz")
        chosen = {"slice_index": 1, "axis": "coronal"}
        shown = levels(processor, tmp_path / "ball.nii.gz", resize_mode=mode, **chosen)[0] > 0
        assert abs(int(shown.any(0).sum()) - int(shown.any(1).sum())) <= 8
        assert processor.view(tmp_path / "ball.nii.gz", **chosen).size == (120, 120)

    def test_resizing_is_antialiased_bicubic(self, as_levels):
        colour = RNG.integers(0, 256, (448, 448, 3), np.uint8)
        tensor = torch.from_numpy(colour).permute(2, 0, 1)[None]
        theirs = torch.nn.functional.interpolate(tensor, size=(224, 224), mode="bicubic", antialias=True)[0]
        ours = as_levels(colour, do_resize=True, return_tensors="pt").pixel_values[0]
        assert (ours - theirs).abs().max() <= 2

    def test_agrees_with_transformers_own_processors(self, processor):
        colour = RNG.integers(0, 256, (448, 448, 3), np.uint8)
        size = {"height": 224, "width": 224}
        options = {"size": size, "resample": 3, "image_mean": MEAN.tolist(), "image_std": STD.tolist()}
        names = ["ViTImageProcessorPil"] + ["ViTImageProcessor"] * transformers.utils.is_torchvision_available()
        for name, tolerance in zip(names, (1e-3, 2), strict=False):
            theirs = getattr(transformers, name)(**options)(Image.fromarray(colour), return_tensors="pt").pixel_values
            difference = (processor(colour, return_tensors="pt").pixel_values - theirs).abs()
            assert (difference * torch.tensor(STD).view(3, 1, 1) * 255).max() <= tolerance

    def test_sizes(self, processor):
        image = smooth(30, 50)
        assert levels(processor, image, size=98).shape == (3, 98, 98)
        assert levels(processor, image, size={"height": 32, "width": 64}).shape == (3, 32, 64)
        assert levels(processor, image, do_resize=False).shape == (3, 30, 50)


class TestInputs:
    def test_batches(self, processor):
        images = [smooth(30, 50), Image.new("RGB", (9, 5)), torch.rand(3, 8, 8)]
        together = processor(images, return_tensors="pt").pixel_values
        alone = torch.cat([processor(image, return_tensors="pt").pixel_values for image in images])
        assert torch.equal(together, alone)
        assert processor(np.zeros((4, 8, 8, 3), np.uint8)).pixel_values.shape[0] == 4
        assert processor(torch.zeros(5, 1, 8, 8)).pixel_values.shape[0] == 5

    def test_unequal_images_without_resizing_stay_a_list(self, processor):
        values = processor([smooth(4, 5), smooth(6, 7)], do_resize=False).pixel_values
        assert [v.shape for v in values] == [(3, 4, 5), (3, 6, 7)]

    def test_dicom_and_a_slice_of_a_volume(self, processor, tmp_path):
        pydicom, nibabel = pytest.importorskip("pydicom"), pytest.importorskip("nibabel")
        path = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
        if path is not None:
            assert levels(processor, path).shape == (3, 224, 224)
        volume = RNG.integers(-1000, 1000, (8, 9, 10)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "ct.nii.gz")
        with pytest.raises(UserError, match="8 x 9 x 10"):
            processor(tmp_path / "ct.nii.gz")
        chosen = {"slice_index": 4, "axis": "coronal", "window": [-160, 240]}
        direct = levels(processor, volume[::-1, 4, ::-1].T, window=[-160, 240])
        assert np.array_equal(levels(processor, tmp_path / "ct.nii.gz", **chosen), direct)

    def test_view_is_the_8_bit_picture(self, processor, tmp_path):
        grey = smooth(30, 50)
        Image.fromarray(grey).save(tmp_path / "a.png")
        view = processor.view(tmp_path / "a.png")
        assert view.mode == "RGB" and view.size == (50, 30)
        assert np.array_equal(levels(processor, view), levels(processor, grey))
        assert processor.view(grey, window=(0, 1000)).getpixel((49, 29)) == (255, 255, 255)

    @pytest.mark.parametrize("bad", ["absent.png", 3, np.zeros((40, 50, 60), np.int16), [[1, 2], [3, 4]]])
    def test_bad_input_is_refused_in_one_line(self, processor, bad):
        with pytest.raises(UserError) as caught:
            processor(bad)
        assert "\n" not in str(caught.value)

    def test_truncated_image(self, processor, tmp_path):
        Image.fromarray(RNG.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "whole.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
        with pytest.raises(UserError, match=r"cut\.png"):
            processor(str(tmp_path / "cut.png"))

    @pytest.mark.parametrize(
        "option", [{"do_center_crop": True}, {"crop_size": 200}, {"do_pad": True}, {"do_convert_rgb": False},
                   {"resize_mode": "stretch"}, {"intensity": "bright"}, {"size": {"shortest_edge": 224}},
                   {"percentiles": (99, 1)}, {"window": (9, 1)}],
    )  # fmt: skip
    def test_options_it_does_not_have_are_refused(self, processor, option):
        with pytest.raises((ValueError, UserError, StrictDataclassFieldValidationError)):
            processor(smooth(5, 5), **option)
        with pytest.raises((ValueError, UserError)):
            BioVFMImageProcessor(**option)(smooth(5, 5))


OPTIONS = {"size": 112, "resize_mode": "crop", "intensity": "percentile", "percentiles": (1.0, 99.0)}


class TestSaving:
    def test_round_trip(self, tmp_path):
        processor = BioVFMImageProcessor(**OPTIONS)
        processor.save_pretrained(tmp_path)
        image = smooth(70, 90)
        for loaded in (
            BioVFMImageProcessor.from_pretrained(tmp_path), transformers.AutoImageProcessor.from_pretrained(tmp_path)
        ):  # fmt: skip
            assert type(loaded) is BioVFMImageProcessor and loaded.to_dict() == processor.to_dict()
            assert np.array_equal(levels(loaded, image), levels(processor, image))
        again = BioVFMImageProcessor.from_pretrained(tmp_path, size=56, window=[0, 9])
        assert levels(again, image).shape == (3, 56, 56) and list(again.window) == [0, 9]

    def test_remote_code_runs_without_the_package(self, tmp_path):
        """A process that never imports biovfm_hf, and whose torchvision and readers are hidden, loads the folder."""
        BioVFMImageProcessor(**OPTIONS).save_pretrained(tmp_path / "saved")
        image = smooth(70, 90)
        Image.fromarray(image).save(tmp_path / "a.png")
        program = textwrap.dedent(
            """
            import sys
            for name in ("torchvision", "pydicom", "nibabel", "tifffile", "isal", "biovfm_hf"):
                sys.modules[name] = None  # as if it were not installed
            import numpy, transformers
            folder, image, out = sys.argv[1:]
            processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
            numpy.save(out, processor(image, return_tensors="pt").pixel_values.numpy())
            assert type(processor).__module__.startswith("transformers_modules"), type(processor)
            """
        )
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
        arguments = [str(tmp_path / "saved"), str(tmp_path / "a.png"), str(tmp_path / "out.npy")]
        subprocess.run([with_torch(), "-c", program, *arguments], check=True, env=environment, cwd=tmp_path)
        expected = levels(BioVFMImageProcessor(**OPTIONS), image)
        assert np.array_equal(np.load(tmp_path / "out.npy")[0], expected)

    def test_the_files_that_travel_import_core_dependencies_only(self):
        from transformers.dynamic_module_utils import get_imports, get_relative_import_files

        start = Path(biovfm_hf.__file__).parent / "image_processing_biovfm.py"
        allowed = {"numpy", "PIL", "torch", "transformers"} | set(sys.stdlib_module_names)
        for file in [str(start), *get_relative_import_files(str(start))]:
            assert set(get_imports(file)) <= allowed, file

    @pytest.mark.parametrize("task", ["image-feature-extraction", "image-classification"])
    def test_pipelines(self, tmp_path, task):
        config = biovfm_hf.BioVFMConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_labels=3
        )
        classify = task == "image-classification"
        model = (biovfm_hf.BioVFMForImageClassification if classify else biovfm_hf.BioVFMModel)(config).eval()
        processor = BioVFMImageProcessor(size=32)
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        grey = smooth(40, 50)
        processor.view(grey).save(tmp_path / "a.png")
        run = transformers.pipeline(task, model=str(tmp_path / "model"))
        assert type(run.image_processor) is BioVFMImageProcessor
        with torch.no_grad():
            output = model(**processor(grey, return_tensors="pt"))
        for image in (str(tmp_path / "a.png"), processor.view(grey)):
            found = run(image)
            if classify:
                expected = output.logits.softmax(-1)[0]
                scores = {entry["label"]: entry["score"] for entry in found}
                assert all(abs(scores[f"LABEL_{n}"] - float(expected[n])) < 1e-5 for n in range(3))
            else:
                assert np.allclose(found, output.last_hidden_state.numpy(), atol=1e-5)
