"""Corrupted images, and the order of random draws: those of medmnistc 0.1.0."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from evaluation.tasks.corruptions.benchmark import CORRUPTIONS, benchmarks
from evaluation.tasks.corruptions.draws import RandomSources
from evaluation.tasks.corruptions.objects import ink_masks
from evaluation.tasks.corruptions.stream import Stream

NEARLY = {"gaussian_blur"}  # single-precision sums, whose order differs between builds of torch


class Rolled:
    """Three images: an input, shifted by 0, 37 and 74 columns."""

    def __init__(self, image):
        self.image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.roll(self.image, 37 * index, axis=1)

    def fingerprint(self):
        return "rolled"


def as_published(image, grey):
    return np.asarray(Image.fromarray(image).convert("L")) if grey else image


def test_reference_parameters(reference_dir):
    stored = json.loads((reference_dir / "medmnistc_parameters.json").read_text())
    assert set(benchmarks()) == set(stored["order"])
    for name, order in stored["order"].items():
        each = benchmarks()[name]
        assert list(each.strengths) == order
        assert each.grey is not stored["rgb"][name]
        assert each.clean == stored["alexnet"][name]["clean_score"]
        assert each.alexnet == stored["alexnet"][name]["raw_scores"]
        for corruption, strengths in each.strengths.items():
            published = stored["parameters"][name][corruption][:5]
            if corruption == "stain_deposit":
                assert [most for most, _ in strengths] == published
            elif corruption == "zoom_blur":
                counts = [len(np.arange(1, *zooms)) for zooms in strengths]
                assert counts == [entry["arange"][3] for entry in published]
            else:
                assert list(strengths) == published, (name, corruption)
    kinds = {each: kind for kind, members in stored["folds"].items() for each in members}
    assert {each: entry.kind for each, entry in CORRUPTIONS.items()} == kinds


def test_reference_inks(reference_dir):
    with np.load(reference_dir / "medmnistc_inks.npz") as stored:
        for size in (24, 32):
            np.testing.assert_array_equal(ink_masks(size), stored[f"size_{size}"])


def test_reference_images(reference_dir):
    paths = [path for path in sorted(reference_dir.glob("medmnistc_*.json")) if _full(path).is_file()]
    assert paths, f"no corrupted images in {reference_dir}"
    for path in paths:
        with np.load(_full(path)) as whole, np.load(path.with_name(f"{path.stem}_crops.npz")) as crops:
            _check_rows(json.loads(path.read_text())["rows"], whole, {name: np.squeeze(crops[name]) for name in crops})


def _full(path):
    return path.with_name(f"{path.stem}_full.npz")


def _check_rows(rows, whole, crops):
    grey = np.repeat(whole["input_grey"][..., None], 3, axis=2)
    made = {}
    for number, row in enumerate(rows):
        benchmark = benchmarks()[row["dataset"]]
        strength = benchmark.strengths[row["corruption"]][row["severity"] - 1]
        key = (benchmark.grey, row["corruption"], str(strength))
        if key not in made:  # sets share most strengths
            corruption, image = CORRUPTIONS[row["corruption"]], grey if benchmark.grey else whole["input_rgb"]
            drawn = corruption.draw(RandomSources(0), image, strength) if corruption.draw else None
            made[key] = as_published(corruption(image, strength, drawn), benchmark.grey)
        where = f"{row['dataset']} {row['corruption']} {row['severity']}"
        if row["corruption"] in NEARLY:
            gap = np.abs(made[key][96:120, 96:120].astype(int) - crops[f"c{number:03d}"])
            assert gap.max() <= 1 and gap.mean() < 1e-2, where
            assert made[key].mean() == pytest.approx(np.mean(row["mean"]), abs=1e-2), where
        else:
            np.testing.assert_array_equal(made[key][96:120, 96:120], crops[f"c{number:03d}"], err_msg=where)
            assert hashlib.sha256(np.ascontiguousarray(made[key]).tobytes()).hexdigest() == row["sha256"], where
    for name in (each for each in whole.files if each.startswith("full3_")):
        _, dataset, corruption = name.split("_", 2)
        strength = benchmarks()[dataset].strengths[corruption][2]
        gap = made[benchmarks()[dataset].grey, corruption, str(strength)].astype(int) - whole[name]
        assert np.abs(gap).max() <= (corruption in NEARLY), name


def test_reference_order_of_draws(reference_dir):
    paths = sorted(reference_dir.glob("medmnistc_*_stream.json"))
    assert paths, f"no runs of medmnistc in {reference_dir}"
    for path in paths:
        with np.load(path.with_name(path.name.replace("_stream.json", "_full.npz"))) as whole:
            inputs = {name: whole[f"input_{name}"] for name in ("rgb", "grey")}
        for dataset, passes in json.loads(path.read_text())["sets"].items():
            benchmark = benchmarks()[dataset]
            stream = Stream(Rolled(inputs["grey" if benchmark.grey else "rgb"]), benchmark, 0)
            images = {}
            for name, severity in benchmark.passes:
                one = stream.corrupted(name, severity)
                images.setdefault(name, []).extend(one[index] for index in range(len(one)))
            for name, expected in passes.items():
                made = np.stack([as_published(image, benchmark.grey) for image in images[name]])
                assert list(made.shape) == expected["shape"]
                means = made.reshape(len(made), -1).mean(axis=1)
                np.testing.assert_allclose(means, expected["means"], atol=1e-2 if name in NEARLY else 1e-5)
                if name not in NEARLY:
                    assert hashlib.sha256(made.tobytes()).hexdigest() == expected["sha256"], (dataset, name)
