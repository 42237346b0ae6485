"""The demo page: drop an image, see its PCA map, its nearest neighbours and what two probes say of it.

This file stands alone, so that `biovfm demo --export` can copy it into a Gradio Space as app.py; beside it lie
space.json ({"model": name}) and index.npz. It needs gradio, numpy, pillow, torch and transformers, and whatever the
model's own image processor needs for DICOM and NIfTI.
"""

import io
import json
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

TEMPERATURE = 0.07  # of the votes, as in DINO's nearest-neighbour probe
HELD_OUT = 0.2  # of the subjects, to measure the linear probe on
MAP_SIDE = 336
STYLE = ".caption-label { white-space: normal !important; max-width: 100% !important; }"  # labels whole, not cut
NOTICE = (
    "For research. Not a medical device: nothing here may guide the care of a patient. "
    "Images are processed by the machine that runs this page, which forgets them after an hour."
)


@dataclass(frozen=True)
class Index:
    """Embedded images to search: features (N, D) of unit length; N labels, JPEG thumbnails and subjects."""

    features: np.ndarray
    labels: list[str]
    thumbnails: list[bytes]
    subjects: list[str]

    def save(self, file: Path) -> None:
        """Write as .npz without pickles: features as float16, thumbnails end to end with their offsets."""
        offsets = np.cumsum([0, *map(len, self.thumbnails)])
        joined = np.frombuffer(b"".join(self.thumbnails), dtype=np.uint8)
        with file.open("wb") as stream:
            np.savez(
                stream,
                features=self.features.astype(np.float16),
                labels=np.array(self.labels, dtype=str),
                subjects=np.array(self.subjects, dtype=str),
                thumbnails=joined,
                offsets=offsets,
            )

    @classmethod
    def load(cls, file: Path) -> "Index":
        """Read what `save` wrote; pickles are not read."""
        with np.load(file, allow_pickle=False) as held:
            offsets, joined = held["offsets"], held["thumbnails"].tobytes()
            thumbnails = [joined[start:stop] for start, stop in pairwise(offsets)]
            labels, subjects = ([str(word) for word in held[name]] for name in ("labels", "subjects"))
            return cls(held["features"].astype(np.float32), labels, thumbnails, subjects)


@dataclass(frozen=True)
class Probe:
    """A linear classifier of C classes on features (D,): mean and scale (D,), weights (D, C), bias (C,)."""

    classes: list[str]
    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (..., C) of features (..., D)."""
        logits = (features - self.mean) / self.scale @ self.weight + self.bias
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


def fit_probe(features: np.ndarray, labels: list[str], penalty: float = 1.0) -> Probe:
    """Logistic regression on standardised features (N, D), with the L2 penalty that scikit-learn calls C = 1."""
    import torch

    classes = sorted(set(labels))
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    rows = torch.from_numpy((features - mean) / scale).double()
    truth = torch.tensor([classes.index(label) for label in labels])
    weight = torch.zeros(rows.shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        error = torch.nn.functional.cross_entropy(rows @ weight + bias, truth, reduction="sum")
        error = error + penalty / 2 * weight.square().sum()
        error.backward()
        return error

    optimiser.step(loss)
    return Probe(classes, mean, scale, weight.detach().numpy(), bias.detach().numpy())


def held_out_accuracy(index: Index, seed: int = 0) -> tuple[float, int] | None:
    """(balanced accuracy, images) of a probe fitted without a fifth of the subjects, on these; None below two classes.

    What the page says of its probe, which is fitted to all indexed images.
    """
    subjects = np.array(index.subjects)
    names = np.random.default_rng(seed).permutation(np.unique(subjects))
    test = np.isin(subjects, names[: max(1, round(HELD_OUT * len(names)))])
    labels = np.array(index.labels)
    if len(set(labels[test])) < 2 or not set(labels[test]) <= set(labels[~test]):
        return None
    probe = fit_probe(index.features[~test], list(labels[~test]))
    said = np.array(probe.classes)[probe(index.features[test]).argmax(axis=1)]
    recalls = [(said[labels[test] == label] == label).mean() for label in set(labels[test])]
    return float(np.mean(recalls)), int(test.sum())


class Encoder:
    """A model folder or Hub repository with its image processor.

    `own_code`: run the code that the repository carries. Only a Space does, for the model that it was made for.
    """

    def __init__(self, name: str, own_code: bool = False) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.name = name
        self.processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=own_code)
        self.model = AutoModel.from_pretrained(name, trust_remote_code=own_code).eval()

    def __call__(self, image: Any, **settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encode one image: a path, bytes or PIL image.

        Returns:
            what the model is shown (S, S, 3) uint8; class token (D,) of unit length; patch tokens (h, w, D).
        """
        import torch

        pixels = self.processor(image, return_tensors="pt", **settings).pixel_values
        with torch.inference_mode():
            tokens = self.model(pixels).last_hidden_state[0].float().numpy()
        side = pixels.shape[-1] // int(self.model.config.patch_size)
        patches = tokens[len(tokens) - side * side :].reshape(side, side, -1)
        mean, std = (
            np.array(values)[:, None, None] for values in (self.processor.image_mean, self.processor.image_std)
        )
        shown = np.clip((pixels[0].numpy() * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        return shown, unit(tokens[0]), patches


def unit(vector: np.ndarray) -> np.ndarray:
    """`vector` (..., D) scaled to length 1 along its last axis."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


def pca_map(patches: np.ndarray) -> np.ndarray:
    """(h, w, D) patch tokens -> (h, w, 3) uint8: their first three principal components as red, green and blue.

    Each component runs from its 2nd percentile (0) to its 98th (255); its sign is such that its largest loading is
    positive, so that the same tokens always give the same colours.
    """
    height, width, depth = patches.shape
    rows = patches.reshape(-1, depth).astype(np.float64)
    rows = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows, full_matrices=False)
    axes = axes[:3] * np.sign(axes[:3][np.arange(len(axes[:3])), np.abs(axes[:3]).argmax(axis=1)])[:, None]
    values = np.zeros((len(rows), 3))
    values[:, : len(axes)] = rows @ axes.T
    low, high = np.percentile(values, [2, 98], axis=0)
    scaled = (values - low) / np.maximum(high - low, 1e-12)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8).reshape(height, width, 3)


def nearest(index: Index, vector: np.ndarray, count: int = 8) -> list[tuple[int, float]]:
    """(row, cosine similarity) of the `count` entries of the index nearest to a unit vector (D,)."""
    similarity = index.features @ vector
    order = np.argsort(-similarity, kind="stable")[:count]
    return [(int(row), float(similarity[row])) for row in order]


def votes(index: Index, found: list[tuple[int, float]]) -> dict[str, float]:
    """{label: share of the votes}, each neighbour voting with weight exp(similarity / 0.07), largest first."""
    weights: dict[str, float] = {}
    best = max((similarity for _, similarity in found), default=0.0)
    for row, similarity in found:
        label = index.labels[row]
        weights[label] = weights.get(label, 0.0) + float(np.exp((similarity - best) / TEMPERATURE))
    total = sum(weights.values())
    return {label: weight / total for label, weight in sorted(weights.items(), key=lambda item: -item[1])}


def analyse(
    encoder: Encoder, index: Index | None, probe: Probe | None, path: str, position: str, axis: str
) -> tuple[Any, ...]:
    """What the page shows for a file: the model's view, PCA map, neighbours with captions, votes, probe's scores.

    Raises:
        Exception: whatever the image processor says of a file that it cannot read.
    """
    from PIL import Image

    settings: dict[str, Any] = {"axis": axis}
    if position.strip():
        if not position.strip().isdecimal():
            raise ValueError(
                f"slice {position.strip()!r}: give a whole number from 0, or leave it empty for the middle"
            )
        settings["slice_index"] = int(position)
    shown, vector, patches = _encoded(encoder, path, settings)
    side = (MAP_SIDE, MAP_SIDE)
    view = Image.fromarray(shown).resize(side, Image.Resampling.BICUBIC)
    colours = Image.fromarray(pca_map(patches)).resize(side, Image.Resampling.NEAREST)
    if index is None:
        return view, colours, [], None, None
    found = nearest(index, vector)
    gallery = [
        (Image.open(io.BytesIO(index.thumbnails[row])), f"{similarity:.2f} {index.labels[row]}")
        for row, similarity in found
    ]
    scores = dict(zip(probe.classes, probe(vector).tolist(), strict=True)) if probe else None
    return view, colours, gallery, votes(index, nearest(index, vector, 20)), scores


def _encoded(encoder: Encoder, path: str, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encode a file; of a volume without a chosen slice, the middle one, which the processor's refusal names."""
    try:
        return encoder(path, **settings)
    except Exception as error:
        middle = re.search(r"slice_index=(\d+)", str(error))
        if middle is None or "slice_index" in settings:
            raise
        return encoder(path, **settings, slice_index=int(middle[1]))


def build_page(encoder: Encoder, index: Index | None) -> Any:
    """The Gradio page. It loads nothing from other sites."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")  # no pictures of patients in the browser's storage
    import gradio

    probe = fit_probe(index.features, index.labels) if index is not None and len(set(index.labels)) > 1 else None

    def run(path: str | None, position: str, axis: str) -> tuple[Any, ...]:
        if path is None:
            raise gradio.Error("Choose an image first.", print_exception=False)
        try:
            return analyse(encoder, index, probe, path, position, axis)
        except Exception as error:
            reason = " ".join(str(error).split()).replace(f"{Path(path).parent}{os.sep}", "")
            raise gradio.Error(reason[:300], print_exception=False) from error

    with gradio.Blocks(title="BioVFM demo", analytics_enabled=False, delete_cache=(600, 3000)) as page:
        gradio.Markdown(f"# What a biomedical vision model sees\n\nModel: {plain(encoder.name)}. {NOTICE}")
        with gradio.Row():
            with gradio.Column(scale=1):
                file = gradio.File(label="Image: PNG, JPEG, TIFF, DICOM or NIfTI", type="filepath")
                position = gradio.Textbox(label="Slice of a volume or frame, from 0", placeholder="the middle one")
                axis = gradio.Radio(["axial", "coronal", "sagittal"], value="axial", label="Axis of a volume")
                button = gradio.Button("Analyse", variant="primary")
            with gradio.Column(scale=2):
                with gradio.Row():
                    view = gradio.Image(
                        label="What the model is shown", interactive=False, buttons=["fullscreen", "download"]
                    )
                    colours = gradio.Image(
                        label="Patch tokens, three components", interactive=False, buttons=["fullscreen", "download"]
                    )
                with gradio.Row():
                    shares = gradio.Label(
                        label="Votes of the 20 nearest images", num_top_classes=5, visible=index is not None
                    )
                    scores = gradio.Label(label="Linear probe", num_top_classes=5, visible=probe is not None)
                if index is not None:
                    gradio.Markdown(probe_note(index))
                gallery = gradio.Gallery(
                    label="Nearest images, with cosine similarity",
                    columns=4,
                    height="auto",
                    buttons=["fullscreen"],
                    visible=index is not None,
                )
        shown = [view, colours, gallery, shares, scores]
        button.click(run, [file, position, axis], shown, api_name="analyse")
        file.upload(run, [file, position, axis], shown, api_name=None)
    return page


def probe_note(index: Index) -> str:
    """What is known of the two probes' worth."""
    text = f"Both learn from {len(index.labels):,} indexed images of {len(set(index.subjects)):,} subjects. "
    held_out = held_out_accuracy(index)
    if held_out is None:
        return text + "Too few to measure how well."
    accuracy, images = held_out
    return text + f"Linear probe on {images:,} images of subjects held out: balanced accuracy {accuracy:.2f}."


def plain(name: str) -> str:
    """A model's name without anything that Markdown or HTML would act on."""
    parts = Path(name).parts
    shown = parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1]
    return "".join(letter if letter.isalnum() or letter in "-_. " else " " for letter in shown)


def launch(page: Any, host: str, port: int) -> None:
    """Serve the page until it is interrupted; system fonts, uploads of at most 256 MB, no public link."""
    import gradio

    fonts = ["system-ui", "sans-serif"]
    theme = gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800"
    )
    words = {"theme": theme, "css": STYLE, "max_file_size": "256mb"}
    page.launch(server_name=host, server_port=port, share=False, quiet=True, **words)


def main() -> None:
    """Run as a Space: read space.json and index.npz beside this file."""
    here = Path(__file__).parent
    name = json.loads((here / "space.json").read_text(encoding="utf-8"))["model"]
    index = here / "index.npz"
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    launch(build_page(Encoder(name, own_code=True), Index.load(index) if index.is_file() else None), "0.0.0.0", port)


if __name__ == "__main__":
    main()
