"""The demo page: shows an uploaded image's PCA map, its nearest neighbours and the predictions of two probes.

`biovfm demo --export` copies this file into a Gradio Space as app.py, together with reading.py, the package
`biovfm_hf`, space.json ({"model": name}) and index.npz. No code from a model's repository is ever run.
"""

import atexit
import importlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

TEMPERATURE = 0.07  # temperature of the votes, as in DINO's nearest-neighbour probe
HELD_OUT = 0.2  # share of the subjects that the linear probe is measured on
MAP_SIDE = 336
MAP_SHARE = 0.6  # opacity of the colours over the picture
MIN_SUBJECTS = 10  # fewer cannot say what is unfamiliar
FAMILIAR = 5  # percent of held-out images that count as unfamiliar
EXAMPLES = 4
MAX_UPLOAD = "64mb"
STYLE = """#message { font-weight: 600; }
.caption-label { white-space: normal !important; max-width: 100% !important; }
@media (max-width: 600px) { .grid-container { grid-template-columns: repeat(2, 1fr) !important; } }"""
PICTURES = {"view": "What the model is shown", "colours": "Its patch tokens as colours"}
# gradio gives its pictures and groups no names that a screen reader could read
NAMES = (
    f"() => {{ const PICTURES = {json.dumps(PICTURES)};"
    + """
  const name = () => {
    for (const image of document.querySelectorAll("#view img, #colours img"))
      image.alt = PICTURES[image.closest("#view, #colours").id];
    for (const group of document.querySelectorAll("fieldset:not([aria-label])"))
      group.setAttribute("aria-label", (group.querySelector("span") || group).innerText.trim());
    for (const button of document.querySelectorAll("button:not([aria-label])"))
      if (!button.innerText.trim()) button.setAttribute("aria-label", button.title || "Remove or replace the file");
  };
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
  name();
}"""
)
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
        with np.load(file, allow_pickle=False) as arrays:
            offsets, joined = arrays["offsets"], arrays["thumbnails"].tobytes()
            thumbnails = [joined[start:stop] for start, stop in pairwise(offsets)]
            labels, subjects = ([str(word) for word in arrays[name]] for name in ("labels", "subjects"))
            return cls(arrays["features"].astype(np.float32), labels, thumbnails, subjects)


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
    """(balanced accuracy, images) on a held-out fifth of the subjects; None with fewer than two classes.

    The page states this for its probe, which is fitted to all indexed images.
    """
    subjects = np.array(index.subjects)
    names = np.random.default_rng(seed).permutation(np.unique(subjects))
    test = np.isin(subjects, names[: max(1, round(HELD_OUT * len(names)))])
    labels = np.array(index.labels)
    if len(set(labels[test])) < 2 or not set(labels[test]) <= set(labels[~test]):
        return None
    probe = fit_probe(index.features[~test], list(labels[~test]))
    answers = np.array(probe.classes)[probe(index.features[test]).argmax(axis=1)]
    recalls = [(answers[labels[test] == label] == label).mean() for label in set(labels[test])]
    return float(np.mean(recalls)), int(test.sum())


class Encoder:
    """A model folder or Hub repository with its image processor; code in a repository is never run.

    `read` turns a file into an 8-bit RGB picture, given how to map intensities and which slice to take; without it
    the processor reads files itself.
    """

    def __init__(self, name: str, read: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.read = read
        self.processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        self.model = AutoModel.from_pretrained(name, trust_remote_code=False).eval()

    def __call__(self, image: Any, **settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encode one image: a path, bytes or PIL image.

        Returns:
            the model's input (S, S, 3) uint8; class token (D,) of unit length; patch tokens (h, w, D).
        """
        if self.read is not None:
            how = {name: getattr(self.processor, name) for name in ("intensity", "percentiles", "window")}
            image, settings = self.read(image, how, settings), {"intensity": "auto", "window": None}
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


def votes(index: Index, neighbours: list[tuple[int, float]]) -> dict[str, float]:
    """{label: share of the votes}, each neighbour voting with weight exp(similarity / 0.07), largest first."""
    weights: dict[str, float] = {}
    best = max((similarity for _, similarity in neighbours), default=0.0)
    for row, similarity in neighbours:
        label = index.labels[row]
        weights[label] = weights.get(label, 0.0) + float(np.exp((similarity - best) / TEMPERATURE))
    total = sum(weights.values())
    return {label: weight / total for label, weight in sorted(weights.items(), key=lambda item: -item[1])}


@dataclass(frozen=True)
class Familiarity:
    """The similarity that an image needs for the indexed images' labels to apply to it.

    `least` is the cosine similarity to the nearest image of another subject that 95 % of the indexed images reach.
    """

    least: float

    @classmethod
    def of(cls, index: Index) -> "Familiarity | None":
        """Measure it with each subject held out in turn; None with fewer than MIN_SUBJECTS."""
        subjects = np.array(index.subjects)
        if len(set(index.subjects)) < MIN_SUBJECTS:
            return None
        similarity = index.features @ index.features.T
        similarity[subjects[:, None] == subjects[None, :]] = -1.0
        return cls(float(np.percentile(similarity.max(axis=1), FAMILIAR)))

    def doubt(self, neighbours: list[tuple[int, float]]) -> str:
        """A sentence if the nearest images are less similar than that, else ""."""
        similarity = neighbours[0][1]
        if similarity >= self.least:
            return ""
        digits = 2  # as many as it takes to see which is larger
        while digits < 6 and f"{similarity:.{digits}f}" == f"{self.least:.{digits}f}":
            digits += 1
        return (
            f"Unlike the indexed images: the nearest has similarity {similarity:.{digits}f}, and {100 - FAMILIAR}% of "
            f"the images of held-out subjects have {self.least:.{digits}f} or more. So no label is given."
        )


@dataclass(frozen=True)
class Analysis:
    """The page's content for a file, in the order of its parts."""

    message: str = ""
    view: Any = None
    colours: Any = None
    gallery: Any = None
    shares: Any = None
    scores: Any = None

    @property
    def parts(self) -> tuple[Any, ...]:
        """One for each component of the page; None empties it."""
        return self.message, self.view, self.colours, self.gallery, self.shares, self.scores


@dataclass(frozen=True)
class Analyser:
    """A model with an index to compare with; calling it gives the page's content for a file.

    Without a measure of familiarity it gives no labels, since it would give them to images of any kind.
    """

    encoder: Encoder
    index: Index | None = None
    probe: Probe | None = None
    familiarity: Familiarity | None = None

    @classmethod
    def of(cls, encoder: Encoder, index: Index | None) -> "Analyser":
        """An analyser with a probe and a measure of familiarity, if the index is large enough."""
        familiarity = Familiarity.of(index) if index is not None else None
        if index is None or familiarity is None:
            return cls(encoder, index)
        probe = fit_probe(index.features, index.labels) if len(set(index.labels)) > 1 else None
        return cls(encoder, index, probe, familiarity)

    def __call__(self, path: str, position: str = "", axis: str = "axial") -> Analysis:
        """The model's view, the colours of its patch tokens over it, neighbours, votes and the probe's scores.

        Args:
            path: of an image file.
            position: number of the slice or frame in words, "" for the middle one.
            axis: of a volume.

        Raises:
            Exception: any error from reading the file.
        """
        shown, vector, patches = self._encoded(path, _place(position, axis))
        side = (MAP_SIDE, MAP_SIDE)
        view = Image.fromarray(shown).resize(side, Image.Resampling.BICUBIC)
        colours = Image.fromarray(pca_map(patches)).resize(side, Image.Resampling.BICUBIC)
        colours = Image.blend(view, colours, MAP_SHARE)
        if self.index is None:
            return Analysis("", view, colours)
        neighbours = nearest(self.index, vector)
        gallery = [
            (Image.open(io.BytesIO(self.index.thumbnails[row])), f"{similarity:.3f} {self.index.labels[row]}")
            for row, similarity in neighbours
        ]
        doubt = self.familiarity.doubt(neighbours) if self.familiarity else ""
        if doubt or self.familiarity is None:
            return Analysis(doubt, view, colours, gallery)
        scores = dict(zip(self.probe.classes, self.probe(vector).tolist(), strict=True)) if self.probe else None
        return Analysis("", view, colours, gallery, votes(self.index, nearest(self.index, vector, 20)), scores)

    def _encoded(self, path: str, place: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encode a file; if it has several pictures and none is chosen, the middle one."""
        try:
            return self.encoder(path, **place)
        except Exception as error:
            count = getattr(error, "count", None)
            if not isinstance(count, int) or "slice_index" in place:
                raise
            return self.encoder(path, **place, slice_index=count // 2)


def _place(position: str, axis: str) -> dict[str, Any]:
    place: dict[str, Any] = {"axis": axis}
    if position.strip():
        if not position.strip().isdecimal():
            raise ValueError(
                f"slice {position.strip()!r}: give a whole number from 0, or leave it empty for the middle"
            )
        place["slice_index"] = int(position)
    return place


def upload_folder() -> Path:
    """A new folder for visitors' uploads that only this user can open; removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="biovfm-demo-"))  # mode 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def example_files(index: Index | None, folder: Path) -> list[str]:
    """Up to four indexed images, of different labels first, written as files to try the page with."""
    if index is None:
        return []
    first = list(dict.fromkeys(index.labels))
    rows = [index.labels.index(label) for label in first]
    rows += [row for row in range(len(index.labels)) if row not in rows]
    files = []
    for number, row in enumerate(rows[:EXAMPLES], start=1):
        file = folder / f"{number} {plain(index.labels[row])}.jpg"
        file.write_bytes(index.thumbnails[row])
        files.append(str(file))
    return files


def build_page(encoder: Encoder, index: Index | None) -> Any:
    """The Gradio page. It loads nothing from other sites, and keeps uploads in a folder of its own."""
    folder = upload_folder()
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    (folder / "uploads").mkdir(mode=0o700)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")  # no pictures of patients in the browser's storage
    import gradio  # which reads the variables above when it is imported

    analyser = Analyser.of(encoder, index)

    def run(path: str | None, position: str, axis: str) -> tuple[Any, ...]:
        if path is None:
            return Analysis("Choose an image first.").parts
        try:
            return analyser(path, position, axis).parts
        except Exception as error:  # an old result would be taken for this file's
            reason = " ".join(str(error).split()).replace(f"{Path(path).parent}{os.sep}", "")
            return Analysis(f"Not read: {reason[:300]}").parts

    def run_new(path: str | None, axis: str) -> tuple[Any, ...]:
        """Analyse a new file: the slice that was chosen of the last one means nothing in it."""
        return "", *run(path, "", axis)

    indexed, labelled, probed = index is not None, analyser.familiarity is not None, analyser.probe is not None
    with gradio.Blocks(title="BioVFM demo", analytics_enabled=False, delete_cache=(600, 3000)) as page:
        gradio.Markdown(f"# What a biomedical vision model sees\n\nModel: {plain(encoder.name)}. {NOTICE}")
        with gradio.Row():
            with gradio.Column(scale=1):
                file = gradio.File(label="Image: PNG, JPEG, TIFF, DICOM or NIfTI", type="filepath")
                another = gradio.UploadButton("Another image", type="filepath")
                position = gradio.Textbox(label="Slice of a volume or frame, from 0", placeholder="the middle one")
                axis = gradio.Radio(["axial", "coronal", "sagittal"], value="axial", label="Axis of a volume")
                button = gradio.Button("Analyse", variant="primary")
                files = example_files(index, folder)
                examples = gradio.Examples([[name] for name in files], [file]) if files else None
            with gradio.Column(scale=2):
                message = gradio.Markdown(elem_id="message")
                with gradio.Row():
                    view, colours = (
                        gradio.Image(label=label, interactive=False, buttons=["fullscreen", "download"], elem_id=name)
                        for name, label in PICTURES.items()
                    )
                with gradio.Row():
                    shares = gradio.Label(label="Votes of the 20 nearest images", num_top_classes=5, visible=labelled)
                    scores = gradio.Label(label="Linear probe", num_top_classes=5, visible=probed)
                if index is not None:
                    gradio.Markdown(probe_note(index) if labelled else unlabelled_note(index))
                gallery = gradio.Gallery(
                    label="Nearest images, with cosine similarity",
                    columns=4,
                    height="auto",
                    buttons=["fullscreen"],
                    visible=indexed,
                )
        shown = [message, view, colours, gallery, shares, scores]
        button.click(run, [file, position, axis], shown, api_name="analyse")
        file.clear(lambda: Analysis().parts, None, shown, api_name=None)
        replaced = another.upload(lambda path: path, another, file, api_name=None).then
        for begin in (file.upload, replaced, *([examples.load_input_event.then] if examples else [])):
            begin(run_new, [file, axis], [position, *shown], api_name=None)
    return page


def probe_note(index: Index) -> str:
    """A note on the two probes' accuracy."""
    text = f"Both learn from {len(index.labels):,} indexed images of {len(set(index.subjects)):,} subjects. "
    held_out = held_out_accuracy(index)
    if held_out is None:
        return text + "They are too few to measure the accuracy."
    accuracy, images = held_out
    return text + f"Linear probe on {images:,} images of held-out subjects: balanced accuracy {accuracy:.2f}."


def unlabelled_note(index: Index) -> str:
    """A note on why the page gives no labels."""
    return (
        f"No labels are given: telling whether an image is like the indexed ones takes {MIN_SUBJECTS} subjects, and "
        f"these are of {len(set(index.subjects))}. So that check is off; see the nearest images instead."
    )


def plain(name: str) -> str:
    """A model's name without Markdown or HTML markup."""
    parts = Path(name).parts
    shown = parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1]
    return "".join(letter if letter.isalnum() or letter in "-_. " else " " for letter in shown)


def launch(page: Any, host: str, port: int) -> None:
    """Serve the page until it is interrupted; system fonts, uploads of at most 64 MB, no public link."""
    import gradio

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder of uploads is removed then too

    fonts = ["system-ui", "sans-serif"]
    theme = gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800"
    )
    texts = gradio.I18n(en={"common.complete": "Done"})  # gradio 6 shows this key, since it has no text for it
    options = {"theme": theme, "css": STYLE, "js": NAMES, "max_file_size": MAX_UPLOAD, "i18n": texts}
    page.launch(server_name=host, server_port=port, share=False, quiet=True, **options)


def main() -> None:
    """Run as a Space: read space.json and index.npz beside this file."""
    importlib.import_module("biovfm_hf")  # so that transformers knows the model's type
    read_image = importlib.import_module("reading").read_image
    here = Path(__file__).parent
    name = json.loads((here / "space.json").read_text(encoding="utf-8"))["model"]
    index = here / "index.npz"
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    encoder = Encoder(name, read_image)
    launch(build_page(encoder, Index.load(index) if index.is_file() else None), "0.0.0.0", port)


if __name__ == "__main__":
    main()
