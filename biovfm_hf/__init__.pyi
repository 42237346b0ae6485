"""BioVFM vision transformers for the Hugging Face stack.

`import biovfm_hf` is enough for `AutoModel`, `AutoImageProcessor`, `AutoBackbone` and the pipelines to know the
`biovfm` model type. It is also cheap: torch and transformers load when a model is first used.

Each command is a function here: `biovfm_hf.build`, `pretrain`, `embed`, `search`, `probe`, `score`, `scaling`, `card`,
`report`, `push`, `convert`. `biovfm_hf.load_encoder` loads any encoder that these commands know.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .modeling_biovfm import BioVFMBackbone as BioVFMBackbone
from .configuration_biovfm import BioVFMConfig as BioVFMConfig
from .modeling_biovfm import BioVFMForImageClassification as BioVFMForImageClassification
from .modeling_biovfm import BioVFMForMaskedAutoencoding as BioVFMForMaskedAutoencoding
from .modeling_biovfm import BioVFMForMaskedImageModeling as BioVFMForMaskedImageModeling
from .modeling_biovfm import BioVFMForSemanticSegmentation as BioVFMForSemanticSegmentation
from .image_processing_biovfm import BioVFMImageProcessor as BioVFMImageProcessor
from .modeling_biovfm import BioVFMModel as BioVFMModel
from .conversion.read import ConvertedEncoder
from .results.record import Record
from evaluation.analysis.layers.analysis import LayerAnalysis
from evaluation.analysis.scaling.analysis import ScalingAnalysis
from evaluation.commands.features import Features
from evaluation.encoders.encoder import Encoder
from evaluation.reproduce.numbers import Outcome
from model_cards.card.command import WrittenCard
from model_cards.hub.command import Pushed
from model_cards.leaderboard.board import Board
from model_cards.report.command import WrittenReport

CLASSES: dict[str, str]

def build(
    *,
    out: str | Path,
    raw: str | Path | None = None,
    sources: Sequence[str | Path] | str | Path | None = None,
    subset: str = 'full',
    leakage: str = 'strict',
    benchmarks: Sequence[str | Path] | str | Path = (),
    views: Sequence[str] | str = ('axial', 'sagittal', 'coronal'),
    size: int = 224,
    fit: str = 'longest',
    image_format: str = 'png',
    quality: int = 95,
    keep_near_duplicates: bool = False,
    seed: int = 0,
    salt_file: str | Path | None = None,
    workers: int | None = None,
    engine: str = 'local',
    scheduler: str | None = None,
    slurm: dict[str, Any] | None = None,
    shard_index: int | None = None,
    num_shards: int | None = None,
    item_seconds: float = 300.0,
    retry_failed: bool = False,
    plan_only: bool = False,
    check: bool = False,
) -> dict[str, Any]:
    r"""Turn raw sources into a screened Parquet dataset that `load_dataset` reads, or continue after a stop.

    Args:
        out: dataset folder to write, or to continue.
        raw: folder with one sub-folder for each source, named as its record says.
        sources: ids of the catalogue or paths of record files (default: all of the paper).
        subset: one of the paper's subsets.
        leakage: strict leaves out what benchmarks contain.
        benchmarks: MedMNIST .npz files, images or folders.
        views: views to slice volumes along.
        size: side of the images in pixels.
        fit: side that becomes the size; longest pads to a square.
        image_format: png is lossless, jpeg half as large.
        quality: of JPEG.
        keep_near_duplicates: drop only pixel-by-pixel duplicates of pictures in other files.
        seed: random seed of the subset 0.2m.
        salt_file: file with a secret of your own for the hashes of private sources, so that another build makes
            the same ones (default: a random secret for each build).
        workers: processes; 0 runs in this one (default: one for each core).
        engine: where the shards run.
        scheduler: address of a running Dask cluster (default: a local one).
        slurm: submitit's parameters, such as slurm_partition=cpu,timeout_min=240.
        shard_index: with --num-shards: do every Nth shard only, for job arrays.
        num_shards: number of jobs.
        item_seconds: most CPU seconds for one file.
        retry_failed: list the raw folder again; run inputs that failed, are new or have changed.
        plan_only: list the raw folder, save the plan and do nothing else.
        check: check the accounting of a finished dataset and do nothing else.

    Returns:
        The summary in `build.json`; the plan's figures with `plan_only` or as a job of an array; the counts of
        outcomes and the faults with `check`.

    Raises:
        UserError: the build cannot be done.

    Examples:
        Pictures of your own, and a record that describes them. With `workers=0` all is done in this process; a program that
        takes more calls `build` below `if __name__ == "__main__":`, as their processes import it.

        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> folder = Path("raw/scans")
        >>> folder.mkdir(parents=True)
        >>> random = np.random.default_rng(0)
        >>> for number in range(24):
        ...     coarse = Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8))
        ...     coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
        >>> lines = ["id: scans", "name: Scans", "modality: Ultrasound", "anatomies: [eye]", "items: ['*.png']", "train: all"]
        >>> _ = Path("scans.yaml").write_text("\n".join([*lines, "access: open"]))  # left out, it would be private

        >>> import biovfm_hf
        >>> summary = biovfm_hf.build(raw="raw", out="dataset", sources="scans.yaml", size=32, workers=0)
        listing the sources below raw
        ...
        24 considered, 24 kept, in dataset
        ...
        next: load_dataset("dataset", "full", split="train")
        >>> summary["kept"]
        24
    """
    ...

def pretrain(
    config: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] | str = (),
    push_to_hub: str | None = None,
    dry_run: bool = False,
) -> Path | str:
    """Pretrain in this process, or continue; the keywords are the fields of `PretrainOptions`.

    Args:
        config: YAML file, or the name of a shipped one, such as `dino_smoke`.
        data: dataset folder, Hub id, or images in a folder.
        out: run folder; called again with the same options it continues there.
        overrides: config keys to change, as `{"steps": 100}` or `["steps=100"]`.
        push_to_hub: repository that receives each export during training.
        dry_run: only return the resolved configuration and estimates.

    Returns:
        The folder of the exported model, which `AutoModel.from_pretrained` loads; for a dry run the text.

    Raises:
        UserError: something the user can correct; nothing was trained, or the message names the last good checkpoint.

    Examples:
        >>> import biovfm_hf
        >>> changes = {"steps": 2, "batch.size": 4, "data.workers": 0}
        >>> biovfm_hf.pretrain("mae_smoke", data="dataset", out="run", overrides=changes).as_posix()
        'run/model'
        >>> from transformers import AutoModel
        >>> AutoModel.from_pretrained("run/model").config.model_type
        'biovfm'
    """
    ...

def load_encoder(
    name: str,
    device: str = 'cpu',
    preprocess: str = 'own',
    compiled: bool = False,
    precision: str | None = None,
    trust_remote_code: str | None = None,
) -> Encoder:
    """Load an encoder with the methods `preprocess(images)` and `encode(pixel_values)`.

    Args:
        name: a model folder, a Hub repository, a short name such as `dinov2-b`, or a name with the prefix of a family
            such as `timm:NAME`, with keywords of timm if needed (`?init_values=1e-5&dynamic_img_size=true`). All
            forms are in `biovfm probe --help`, all short names in `biovfm probe --list-encoders`. `LABEL=` before any
            of these sets the name in results.
        device: a torch device.
        preprocess: `own` (the model's), or the same for every model: resized to the model's size and normalised by
            mean 0.5 and standard deviation 0.5 as by the BioVFM authors (`half`), or by ImageNet's as in the radiology
            study (`imagenet`).
        compiled: run its blocks through `torch.compile`.
        precision: `fp32`, `bf16`, or None for `default_precision(device)`.
        trust_remote_code: the revision of a model's own code that may run: the commit of a repository, or the digest
            of a folder's code. Without it no such code runs.

    Raises:
        UserError: there is no such model or device, a needed package or network is missing, or the model has code of
            its own that is not trusted.

    Examples:
        >>> import biovfm_hf
        >>> encoder = biovfm_hf.load_encoder("run/model")
        >>> encoder.name, encoder.size
        ('run/model', 96)
    """
    ...

def convert(
    source: str,
    *,
    to: str | Path,
    format: str = 'biovfm',
    num_heads: int | None = None,
    decoder_heads: int | None = None,
) -> ConvertedEncoder:
    """Read the weights of `source` and write them to `to`; see `read_encoder` and the writers.

    Args:
        source: weight file, model folder or Hub repo id.
        to: folder to write; must not exist.
        format: what to write.
        num_heads: number of attention heads, if a bare weight file does not state it.
        decoder_heads: number of heads of MAE's decoder, if its file does not state it.

    Returns:
        The encoder that was read. Its `left_out` also names tensors that the format has no place for; its `notes`
        state what was assumed, and where the format computes something else.

    Raises:
        UserError: the folder exists, the source cannot be read whole, or the format cannot hold it.

    Examples:
        >>> import biovfm_hf
        >>> converted = biovfm_hf.convert("run/model", to="theirs", format="vit_mae")
        >>> AutoModel.from_pretrained("theirs").config.model_type
        'vit_mae'
    """
    ...

def embed(
    *,
    model: str,
    images: str,
    out: str | Path,
    features: str = 'both',
    config: str | None = None,
    split: str = 'train',
    frames: str = 'none',
    axes: Sequence[str] | str = ('axial',),
    slices: int = 32,
    pool: str = 'mean',
    series: bool = False,
    paths: str = 'auto',
    strict: bool = False,
    batch_size: int = 64,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    trust_remote_code: str | None = None,
) -> Features:
    """Embed every image of a folder or dataset, and write the features file.

    Unreadable files are left out and listed. A killed run continues from the cache beside `out`; the cache is
    removed when the file is written. With several processes (`accelerate launch`), the first one writes all vectors.

    Args:
        model: a model folder, a Hub repository, or any other name that biovfm probe takes.
        images: folder of images, dataset folder or Hub dataset.
        out: the file to write.
        features: which vector; both: class token and mean patch token, joined; card: the one that the model's
            card recommends.
        config: configuration of a dataset that has several.
        split: split of a dataset.
        frames: frames to embed of a file with several frames or pages: none, all, or a number of evenly spaced
            ones.
        axes: axes along which volumes are sliced: axial, coronal, sagittal (default: axial).
        slices: most slices of a volume along each axis, evenly spread; 0: all.
        pool: pooling of a volume's slices: mean, max (which grows with their number), both side by side, or the
            middle slice; slices: a vector for each slice.
        series: treat a folder of DICOM files as one volume, not as one image per file.
        paths: of a folder: ids are paths (keep), or keyed hashes, with the paths in OUT.paths.csv (withhold), or
            paths unless one repeats a word of its file's DICOM header (auto, default).
        strict: end with exit status 1 if an image was left out.
        batch_size: images per batch.
        device: torch device (default: cuda if available, else cpu).
        precision: bf16 keeps two to three digits of a feature; it was 1.6 to 3.2 times as fast on CPUs with
            bfloat16 instructions (AMX, AVX512-BF16), and is slower on others (default: bf16 on a GPU or CPU that
            has it, else fp32).
        compile: embed through torch.compile; compiling takes seconds for a ViT and longer for a convolutional
            network, so it can pay off where a GPU embeds for many minutes; on a CPU it is slower (measured).
        trust_remote_code: run the code that a model or its image processor brings along, after you read it: the
            commit of the repository (40 hex digits), or a folder's digest, which a message names if this option
            is missing; one for each command.

    Returns:
        The content of the features file.

    Raises:
        UserError: there is no image, no image can be read, or the model cannot be loaded.

    Examples:
        >>> import biovfm_hf
        >>> features = biovfm_hf.embed(model="run/model", images="raw/scans", out="features.parquet")
        >>> len(features.names)
        24
    """
    ...

def curate(
    features: str | Path,
    *,
    keep: int,
    out: str | Path,
    clusters: Sequence[int] | int = (),
    resamplings: int = 10,
    closest: bool = False,
    like: str | Path | None = None,
    neighbours: int = 32,
    dataset: str | None = None,
    config: str | None = None,
    split: str = 'train',
    seed: int = 0,
) -> dict[str, Any]:
    """Choose images, and write `selection.txt` and `curation.json` to `out`.

    Args:
        features: features file of the pool, from biovfm embed.
        keep: how many images to choose.
        out: folder to write.
        clusters: clusters of each level, decreasing (default: one per 75 images, then a twentieth each).
        resamplings: resampling rounds at each level; they spread the centroids evenly.
        closest: take the images nearest to their cluster's centre, instead of random ones.
        like: features file of your own images, by the same model.
        neighbours: at most this many nearest images for each image of --like.
        dataset: the embedded dataset, to report how its groups were thinned.
        config: configuration of this dataset.
        split: split of this dataset.
        seed: random seed.

    Returns:
        The content of curation.json: {"pool", "asked", "kept", "seed", "clusters": how many at each level,
        "cluster_sizes": for each level, None with `like`, "columns": {column: {"entropy_pool", "entropy_kept",
        "counts": {value: [pool, kept]}}}}. Entropies are in nats. With several processes, only the first one writes;
        the others return {}.

    Raises:
        UserError: a features file cannot be read or has a value that is not finite, the pool has too few images or two
            of one id, or the dataset does not match the pool.

    Examples:
        >>> import biovfm_hf
        >>> report = biovfm_hf.curate("features.parquet", keep=12, out="curated", clusters=[4])
        >>> len(Path("curated/selection.txt").read_text().splitlines())
        12
    """
    ...

def search(
    *,
    model: str,
    features: str | Path,
    query: Sequence[str | Path] | str | Path,
    out: str | Path,
    images: str | Path | None = None,
    top: int = 8,
    strict: bool = False,
    device: str | None = None,
    index: bool = False,
    trust_remote_code: str | None = None,
) -> list[dict[str, Any]]:
    """Find the images most similar to each example and write `search.json`; `images` adds a contact sheet.

    Examples that cannot be read are left out; `left_out.csv` lists them with the reason. Vectors that are not finite
    are not found; stderr tells how many there are.

    Args:
        model: model that made the features.
        features: features file from biovfm embed.
        query: an example image or volume; can be repeated.
        out: folder to write.
        images: folder or dataset that was embedded, to draw the contact sheet.
        top: how many images to find for each example.
        strict: end with exit status 1 if an example was left out.
        device: torch device (default: cuda if available, else cpu).
        index: keep a faiss index beside the features; with a million vectors, later searches read a fiftieth of
            them and may miss some images (needs biovfm-hf[search]).
        trust_remote_code: run the code that a model or its image processor brings along, after you read it: the
            commit of the repository (40 hex digits), or a folder's digest, which a message names if this option
            is missing; one for each command.

    Returns:
        The content of search.json: for each example {"query": file name, "found": [{"id", "similarity", "itself"},
        ...]}, most similar first; `itself` says whether the image is the example.

    Raises:
        UserError: no example can be read, the features cannot be read or none is finite, or another model made the
            features.

    Examples:
        >>> import biovfm_hf
        >>> options = dict(model="run/model", features="features.parquet", out="alike", top=3)
        >>> (answer,) = biovfm_hf.search(query="raw/scans/07.png", **options)
        >>> answer["found"][0]["id"]
        '07.png'
    """
    ...

def probe(
    *,
    model: Sequence[str] | str,
    tasks: Sequence[str] | str,
    out: str | Path,
    data: str | Path = Path('.'),
    size: int | None = None,
    download: bool = False,
    method: Sequence[str] | str = ('linear',),
    protocol: str = 'fast',
    seed: Sequence[int] | int = (0,),
    pool: str = 'mean',
    batch_size: int = 64,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    cache: str | Path | None = None,
    resamples: int = 1000,
    stratify: bool = False,
    by: Sequence[str] | str = (),
    corrupt: bool = False,
    corruptions: str | None = None,
    save_masks: str | None = None,
    no_figures: bool = False,
    trust_remote_code: str | None = None,
    image_column: str | None = None,
    label_column: Sequence[str] | str = (),
    subject_column: str | None = None,
    split_column: str | None = None,
    images_root: str | Path | None = None,
    files: str | None = None,
    labels: str | Path | None = None,
    positive: str | None = None,
    target: str = 'classes',
    axes: Sequence[str] | str = ('axial',),
    slices: int = 32,
    skip_unreadable: bool = False,
    image_size: Sequence[int] | int | None = None,
    tune: bool | None = None,
    mirror: bool | None = None,
    epochs: int | None = None,
    rate: float | None = None,
    features: str | None = None,
    shots: Sequence[int] | int | None = None,
    draws: int | None = None,
    lora_preset: str | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: str | None = None,
    neighbours: int | None = None,
    temperature: float | None = None,
    views: int | None = None,
    authors_drop_path: bool | None = None,
    patience: int | None = None,
    decoder: str | None = None,
    window: int | None = None,
    augment: str | None = None,
    surface: str | None = None,
    tolerance: float | None = None,
    empty: str | None = None,
) -> list[Record]:
    r"""Make the missing records in `out`, then comparisons, tables and pictures of all its records.

    If one model fails on one task, the others continue; the failure is raised at the end.

    Args:
        options: an instance of `options_class()`.

    Args:
        model: a short name (--list-encoders), a model folder, a Hub repository, timm:NAME|FOLDER, open_clip:hf-
            hub:REPO, hf-hub:REPO, xrv:NAME, meddinov3:FILE|REPO, medimageinsight:FILE|REPO, ofa:FOLDER|REPO|FILE,
            scratch:unet|transunet (segmentation), transunet:FILE.npz (segmentation); can be repeated.
        tasks: task names, medmnist, medmnist3d, radiology, or paths.
        out: results folder.
        data: folder with the named sets.
        size: MedMNIST size (default: the largest available).
        download: download missing MedMNIST sets to --data.
        method: methods (default: linear); --help lists them below.
        protocol: biovfm: as the authors probe, threshold and resample; fast: logistic regression on standardised
            features, subjects are resampled; radiology: linear, segment and fewshot as the study arXiv 2312.02366
            trains them.
        seed: random seed; several run one after the other and are reported as one result with the seeds' share in
            its uncertainty (default: 0).
        pool: pooling of a volume's slices: mean, max (which grows with their number), both side by side, or the
            middle slice; attention over slices is learned: --method mil.
        batch_size: images per batch.
        device: torch device (default: cuda if available, else cpu).
        precision: bf16 keeps two to three digits of a feature; it was 1.6 to 3.2 times as fast on CPUs with
            bfloat16 instructions (AMX, AVX512-BF16), and is slower on others (default: bf16 on a GPU that has it,
            else fp32).
        compile: embed through torch.compile; compiling takes seconds for a ViT and longer for a convolutional
            network, so it can pay off where a GPU embeds for many minutes; on a CPU it is slower (measured).
        cache: folder for cached features (default: OUT/cache).
        resamples: bootstrap resamples; comparisons on many tasks use more.
        stratify: keep the test split's class counts in every resample, for rare classes; intervals then hold for
            these counts (protocol fast; not for fewshot and segment).
        by: also gaps between groups of test cases, such as sex,age,site: columns of a CSV list, or of a task's
            source.
        corrupt: also errors on corrupted test images: MedMNIST-C's corruptions at five severities (probes of
            frozen features; each corruption and severity embeds the test images once more).
        corruptions: with --corrupt, the set of corruptions for tasks outside MedMNIST-C.
        save_masks: segmentation: write every predicted mask to OUT/masks/ as nifti (volumes only), png, or auto,
            which is NIfTI for volumes and PNG for images; fewshot writes one folder per draw.
        no_figures: draw no pictures, and remove those of earlier scores.
        trust_remote_code: run the code that a model or its image processor brings along, after you read it: the
            commit of the repository (40 hex digits), or a folder's digest, which a message names if this option
            is missing; one for each command.
        image_column: column with the image's path (image, file_name ...).
        label_column: column with the label; several columns of 0 and 1 make a multi-label task.
        subject_column: column with the patient, whose images stay in one split (subject, patient ...).
        split_column: column with train, val or validation, test; without it patients are sampled.
        images_root: folder where image paths begin, besides the list's own; for a list of patients without
            images, the folder with one sub-folder per patient.
        files: for a list of patients without images: which files below their folders, such as '*.nii.gz'
            (default: all).
        labels: a second list: the label of each patient, and the split if it has that column; joined by the
            subject column or, without one, by the patient's folder in the image's path.
        positive: the positive class of a list or folder of two classes (default: the last in order; a plainly
            negative word such as healthy comes first).
        target: ordinal: the labels are ordered grades.
        axes: axes along which volumes are sliced: axial, coronal, sagittal (default: axial).
        slices: most slices of a volume along each axis, evenly spread; 0: all.
        skip_unreadable: decode every image first, and leave out and list unreadable ones and those that are not
            there.
        image_size: segmentation, detection: input size (default: the model's).
        tune: detection: train the encoder's weights too (default: False).
        mirror: detection: also train on mirrored images; for tasks where sides mean nothing (default: False).
        epochs: training epochs of heads, decoders and fine-tuning (default: by method).
        rate: highest learning rate (default: by method).
        features: class token, mean patch token (mean_raw: before the final norm), both, the model's pooled
            vector, or last4: class tokens of the last four blocks and the mean patch token; card: the one that
            the model's card recommends; linear also has auto: the best on validation (default: class for knn,
            auto for linear under protocol radiology, else both).
        shots: few-shot: training subjects per class, for segmentation in total (default: 16).
        draws: few-shot: number of draws (default: 20).
        lora_preset: lora: own is rank 16 on every linear layer of the attention; radiology is the radiology
            study's, rank 32 on queries, keys and values with their biases (8 million weights on ViT-g).
        lora_rank: lora: rank, instead of the preset's.
        lora_alpha: lora: alpha, instead of the preset's; updates are scaled by alpha / rank.
        lora_targets: lora: linear layers of the blocks to update.
        neighbours: kNN: number of neighbours (default: chosen on validation).
        temperature: kNN: temperature of the votes (default: 0.07).
        views: protocol biovfm: augmented views of the training images, used in turn over the epochs; 100 repeats
            the authors' online augmentation, 0 is no augmentation (default: 0).
        authors_drop_path: protocol biovfm: keep stochastic depth on in encoders of DINOv2's form while the head
            is trained, as the authors' code does; the encoder then runs again in every epoch (default: False).
        patience: epochs without a lower validation loss before attention stops training (default: 20).
        decoder: segmentation: decoder.
        window: segmentation: cut images into overlapping windows of this side in image pixels, and resize each
            window to the input size (default: whole images are resized).
        augment: segmentation: augmentation of training images and masks in every epoch: study (the radiology
            study's flips and rotations), medical (nnU-Net's set without mirroring) (default: none; study under
            protocol radiology).
        surface: segmentation: convention of surface distances (default: deepmind).
        tolerance: segmentation: tolerance of surface Dice in mm, or in pixels without spacing (default: 2).
        empty: segmentation: surface distances of a structure if one of its masks is empty: ignore leaves it out
            of the means (default), worst takes surface Dice 0 and the image's diagonal.

    Returns:
        Every record of the results folder.

    Raises:
        UserError: a task or a model cannot be opened, or some records failed.

    Examples:
        A task of your own is a CSV file. Here the label is whether the corner of the picture is bright.

        >>> splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
        >>> lines = ["image,label,split"]
        >>> for path, split in zip(sorted(folder.iterdir()), splits):
        ...     lines.append(f"{path.resolve()},{int(np.array(Image.open(path))[0, 0] > 127)},{split}")
        >>> _ = Path("corners.csv").write_text("\n".join(lines))

        >>> import biovfm_hf
        >>> options = dict(model="run/model", tasks="corners.csv", out="results", resamples=100, no_figures=True)
        >>> (record,) = biovfm_hf.probe(method="knn", **options)
        done  run/model  corners  knn  auc ...
        >>> interval = record.intervals["auc"]
        >>> interval.low <= interval.value <= interval.high
        True
        >>> record.n_test
        6
    """
    ...

def score(
    file: str | Path,
    *,
    task: str,
    protocol: str = 'biovfm',
    json: str | Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
    by_subject: bool = False,
    stratify: bool = False,
    extra: bool = False,
    trust: bool = False,
    coverage: float = 0.9,
) -> dict[str, Any]:
    """Score the file, and write the results to `json` if it is given.

    Args:
        file: file with labels and scores, or with boxes.
        task: kind of task as MedMNIST names it, or detection.
        protocol: how to choose thresholds and resample, see above.
        json: write thresholds, metrics and notes to this file.
        resamples: number of bootstrap resamples.
        seed: random seed of the resamples in protocol fast and detection.
        by_subject: resample whole subjects (test_subjects); protocol fast.
        stratify: keep the test split's class counts; protocol fast.
        extra: also compute sensitivity, specificity, AP, Brier score and ECE.
        trust: also compute selective risk, conformal sets calibrated on validation with the coverage they reach,
            and gaps between the groups of test_groups.
        coverage: target coverage of conformal sets; needs --trust.

    Returns:
        {"task", "protocol", "resamples", "seed", "n_test", "thresholds": [...], "metrics": {name: {"value", "mean",
        "low", "high"}}, "notes"}. `value` is the point estimate, `mean` the mean over resamples. With `trust` there is
        also "trust": {"selective", "conformal", "groups"}, which are lists of rows. For detection, `n_test` counts
        images and "classes" is {class name: {"AP", "AP50"}}, with None for classes without a box.

    Raises:
        UserError: the file, its arrays or the options do not fit the task.

    Examples:
        >>> labels = np.arange(200) % 2
        >>> scores = np.clip(labels + random.normal(0, 0.7, 200), 0, 1)
        >>> np.savez("scores.npz", val_labels=labels, val_scores=scores, test_labels=labels, test_scores=scores)
        >>> import biovfm_hf
        >>> metrics = biovfm_hf.score("scores.npz", task="binary-class", resamples=200)["metrics"]
        >>> metrics["auc"]["low"] < metrics["auc"]["value"] < metrics["auc"]["high"]
        True
    """
    ...

def analyse(
    models: Sequence[str] | str,
    *,
    out: str | Path,
    task: str | None = None,
    images: str | None = None,
    data: str | Path = Path('.'),
    max_images: int = 2000,
    attention_images: int = 64,
    resamples: int = 200,
    batch_size: int = 16,
    seed: int = 0,
    device: str | None = None,
    trust_remote_code: str | None = None,
) -> LayerAnalysis:
    """Measure the layers of all models, and write `layers.json`, `layers.csv` and `layers.png` to `out`.

    Args:
        models: models as for biovfm probe; NAME=MODEL chooses the label.
        out: folder for the tables and the page.
        task: task whose test images are measured, and on which layers are probed.
        images: images to measure, instead of a task.
        data: folder with the named tasks.
        max_images: largest number of images to measure, drawn at random.
        attention_images: number of these images on which attention is measured.
        resamples: of intervals.
        batch_size: images per batch.
        seed: random seed.
        device: torch device (default: cuda if available, else cpu).
        trust_remote_code: run the code that a model or its image processor brings along, after you read it: the
            commit of the repository (40 hex digits), or a folder's digest, which a message names if this option
            is missing; one for each command.

    Raises:
        UserError: a model is not a transformer of equal blocks, two models share a name, or there are fewer than four
            images.

    Examples:
        >>> import biovfm_hf
        >>> analysis = biovfm_hf.analyse("run/model", images="raw/scans", out="layers", resamples=20)
        >>> Path("layers/layers.png").is_file()
        True
    """
    ...

def scaling(
    points: str | Path,
    *,
    out: str | Path,
    properties: str | Path | None = None,
    axis: str = 'given',
    published: bool = False,
    seed: int = 0,
) -> ScalingAnalysis:
    r"""Fit score = e^b size^a for every family and task, correlate the slopes, and write tables and figures.

    Args:
        points: scores, or slopes that are already fitted.
        out: folder for tables and figures.
        properties: task properties to correlate with slopes.
        axis: what x is: the file's numbers (given), encoder parameters, the published axis (encoder + MAE
            decoder), or pretraining compute.
        published: draw the BioVFM paper's results beside yours where axis and tasks agree.
        seed: random seed of the bootstrap and the permutations.

    Returns:
        The analysis that the files in `out` show.

    Raises:
        UserError: a file cannot be used, or the points allow no fit.

    Examples:
        >>> rows = [f"{family},{size},x,{80 * size**slope}" for family, slope in [("A", 0.02), ("B", 0.01)]
        ...         for size in (5, 20, 80, 300)]
        >>> _ = Path("points.csv").write_text("\n".join(["family,params_millions,task,auc", *rows]))
        >>> import biovfm_hf
        >>> analysis = biovfm_hf.scaling("points.csv", out="scaling")
        >>> Path("scaling/slopes.csv").is_file()
        True
    """
    ...

def reproduce(
    items: Sequence[str] | str,
    *,
    data: str | Path = Path('.'),
    out: str | Path | None = None,
    model: Sequence[str] | str = (),
    dataset: str | Path | None = None,
    setting: Sequence[str] | str = (),
    dry_run: bool = False,
    gpu: str = 'A100',
    seed: Sequence[int] | int = (0,),
    size: int | None = None,
    download: bool = False,
    resamples: int = 1000,
    batch_size: int = 64,
    device: str | None = None,
    precision: str | None = None,
    cache: str | Path | None = None,
    trust_remote_code: str | None = None,
) -> list[Outcome]:
    """Report the items' needs, make what is possible, and report the rest with reasons.

    Args:
        items: names of tables and figures (radiology-table3), a paper's (biovfm, radiology), or all.
        data: folder with the papers' sets, in the layout of their sources.
        out: folder for all records, with a folder for each item.
        model: weights for a model of the recipes, such as BioVFM=runs/huge/model; replaces the weights it would
            load; can be repeated.
        dataset: dataset folder of biovfm build, for the figure that describes the dataset.
        setting: another value for a setting of the methods, such as epochs=10; the table states it.
        dry_run: print what the items need, and stop.
        gpu: GPU for which the hours are estimated.
        seed: random seeds; several are averaged (default: 0).
        size: size of MedMNIST's images (default: the paper's).
        download: download missing MedMNIST sets to --data.
        resamples: bootstrap resamples; tests of many differences use more.
        batch_size: images per batch.
        device: torch device (default: cuda if available, else cpu).
        precision: bf16 keeps two to three digits of a feature; it was 1.6 to 3.2 times as fast on CPUs with
            bfloat16 instructions (AMX, AVX512-BF16), and is slower on others (default: bf16 on a GPU that has it,
            else fp32).
        cache: folder for cached features (default: OUT/cache).
        trust_remote_code: run the code that a model or its image processor brings along, after you read it: the
            commit of the repository (40 hex digits), or a folder's digest, which a message names if this option
            is missing; one for each command.

    Returns:
        The outcome of each item; an empty list for a dry run.

    Raises:
        UserError: no method has a given setting, or nothing of any item is available.

    Examples:
        The radiology study's table of the encoders that it used needs neither data nor weights.

        >>> import biovfm_hf
        >>> (outcome,) = biovfm_hf.reproduce("radiology-table2", out="papers")
        models:
        ...
        radiology-table2: 13 of 13 made; papers/radiology-table2
        >>> Path("papers/radiology-table2/table.md").is_file()
        True
    """
    ...

def report(
    inputs: Sequence[str | Path] | str | Path,
    *,
    out: str | Path,
    title: str = 'BioVFM-HF report',
    seed: int = 0,
    private_images: bool = False,
) -> WrittenReport:
    """Write one HTML page of everything in `inputs`.

    Args:
        inputs: folder or results file, of any kind above.
        out: the HTML file to write.
        title: heading of the page.
        seed: random seed of the sample images.
        private_images: show images of private sources and tasks too (default: leave them out).

    Raises:
        UserError: an input is missing, damaged or of no known kind, or the page would be larger than 10 MB.

    Examples:
        >>> import biovfm_hf
        >>> written = biovfm_hf.report(["dataset", "run"], out="report.html")
        >>> Path("report.html").is_file()
        True
    """
    ...

def leaderboard(
    results: Sequence[str] | str,
    *,
    out: str | Path,
    export: str = 'page',
    dataset: Sequence[str] | str = (),
    title: str = 'Biomedical vision leaderboard',
) -> list[Board]:
    """Write the page, its tables and, for a Space, the README, to `out`.

    Args:
        results: results files or folders, model folders, Hub repositories.
        out: folder for the page.
        export: page: only the page; space: also a static Space.
        dataset: the dataset that a model was pretrained on, a folder or a Hub id, to flag overlaps that its
            build.json tells; again for each model.
        title: heading of the page.

    Returns:
        The boards: one for each method, settings and metric.

    Raises:
        UserError: an input is none of those known, damaged, or has no score, or `dataset` names an unknown model.

    Examples:
        >>> import biovfm_hf
        >>> boards = biovfm_hf.leaderboard("results", out="board", export="space")
        >>> Path("board/index.html").is_file()
        True
    """
    ...

def card(
    model_dir: str | Path,
    *,
    results: str | Path | None = None,
    run: str | Path | None = None,
    dataset: str | Path | None = None,
    repo_id: str | None = None,
    dataset_id: Sequence[str] | str = (),
    known_as: str | None = None,
    teacher: str | None = None,
    benchmark: str | None = None,
    license: str | None = None,
    base_model: Sequence[str] | str = (),
    private_images: bool = False,
    watts: float | None = None,
    grid: float | None = None,
) -> WrittenCard:
    """Write the model folder's README.md, and its results in machine-readable form beside it.

    Args:
        model_dir: folder with config.json and model.safetensors.
        results: folder with results.json (biovfm probe --out).
        run: folder of the training run (config.yaml, metrics.jsonl).
        dataset: dataset folder it was trained on.
        repo_id: the model's name on the Hub, for title and usage lines.
        dataset_id: training dataset on the Hub; can be repeated.
        known_as: the model's name in the results, if not its folder.
        teacher: teacher of a distilled model, as biovfm probe --model took it: adds what was lost against it in
            these results, and the speed of both on this CPU.
        benchmark: also write .eval_results for this leaderboard on the Hub.
        license: licence id (default: the old card's, else that of base model and data, if they agree).
        base_model: the name on the Hub of a model it was made from, if that was a folder; NAME as the card has
            it, by default the first; can be repeated.
        private_images: show test images of private tasks too (default: leave them out).
        watts: mean power draw of all devices in watts, for the energy estimate.
        grid: grams of CO2e per kWh, for the emissions estimate.

    Raises:
        UserError: a folder is not of the kind that its option needs, or the results are of another model.

    Examples:
        >>> import biovfm_hf
        >>> written = biovfm_hf.card("run/model", run="run", dataset="dataset")
        >>> Path("run/model/README.md").read_text().startswith("---")
        True
    """
    ...

def push(
    folder: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    private_sources_ok: bool = False,
    gated: str | None = None,
    revision: str = 'main',
    tag: str | None = None,
    collection: str | None = None,
    extra: str | None = None,
) -> Pushed:
    """Make the repository equal to the folder, then compare every file's hash.

    Args:
        folder: model, dataset or demo folder with its README.md.
        repo_id: OWNER/NAME on the Hub; created if it does not exist.
        public: let everybody see the repository (default: private).
        private_sources_ok: also send content from private sources, without confirmation.
        gated: readers must ask; access is granted at once, or by you.
        revision: branch to send to.
        tag: tag the result, for instance v1.
        collection: add it to this collection of the owner (title or slug).
        extra: keep or delete files that only the repository has (default: stop).

    Raises:
        UserError: there is no token, the folder or its card is not valid, it has content from private sources and
            `private_sources_ok` is not set, the repository has other files, or the Hub refuses.

    Examples:
        >>> import biovfm_hf
        >>> pushed = biovfm_hf.push("run/model", "owner/my-model")
        >>> pushed.private
        True
    """
    ...
