"""The dataset card: README.md with the YAML that `load_dataset` reads, and facts for readers."""

from pathlib import Path
from typing import Any

import yaml
from pyarrow.parquet import read_metadata

from biovfm_hf.cards.leakage import guard_line, match_line, relation_text
from biovfm_hf.cards.markdown import link, plain
from biovfm_hf.cards.provenance import Provenance, write_provenance
from biovfm_hf.results.published import rows
from biovfm_hf.writing.files import write_text

from ..catalog.source import own_anatomies
from ..plan.plan import WORK, Plan, slug
from ..schema import COLUMN_TYPES
from .figures import modality_by_anatomy, sample_sheets, sizes_of_datasets
from .finish import SAMPLE
from .manifest import NOT_TOLD

SCALING_SOURCES = ("pmc-oa", "radimagenet")  # the paper's 2.45M subset for model scaling
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def write_card(plan: Plan, summary: dict[str, Any], files: dict[str, int]) -> None:
    """Write README.md, `figures/`, `.gitignore` and the mark of private sources into the dataset folder.

    `files`: rows of each file of the dataset, by its name.
    """
    figures = plan.out / "figures"
    sheets = sample_sheets(plan, figures, files)
    if summary["kept"]:
        modality_by_anatomy(summary["modality_anatomy"], figures / "modality-anatomy.png")
        sizes_of_datasets({_title(plan): summary["kept"]} | published_sizes(), figures / "sizes.png")
    header = yaml.safe_dump(_header(plan, summary, files), sort_keys=False, allow_unicode=True, width=100)
    parts = [
        f"---\n{header}---\n",
        _introduction(plan, summary),
        _contents(summary, sheets),
        _sizes(plan, summary),
        _sources(plan, summary),
        _making(plan, summary),
        _leakage(plan, summary),
        _terms(plan),
    ]
    write_text(plan.out / "README.md", "\n".join(parts))
    private = tuple(source for source in summary["sources"] if not plan.sources[source]["published"])
    write_provenance(plan.out, Provenance(private_sources=private))
    write_text(plan.out / ".gitignore", f"{WORK}/\n")  # keeps the builder's private folder out of git and the Hub


def configs(plan: Plan) -> dict[str, list[str]]:
    """Config name -> globs of its files, only if they exist: a config without files breaks every other."""
    present = [shard for shard in plan.shards if (plan.out / shard.name).is_file()]
    patterns_of: dict[str, list[str]] = {"full": ["data/*/*.parquet"]} if present else {}
    for name in sorted({slug(shard.modality) for shard in present}):
        patterns_of[name] = [f"data/{name}/*.parquet"]
    if "ultrasound" in patterns_of:
        patterns_of["us"] = patterns_of["ultrasound"]
    if all(any(shard.source == source for shard in present) for source in SCALING_SOURCES):
        patterns_of["2.45m"] = [f"data/*/{source}-*.parquet" for source in SCALING_SOURCES]
    if (plan.out / SAMPLE).is_dir():
        patterns_of["0.2m"] = [f"{SAMPLE}/*.parquet"]
    elif present and plan.options.subset in ("full", "0.2m"):
        patterns_of["0.2m"] = patterns_of["full"]  # the sample would be the whole dataset
    return patterns_of


def _header(plan: Plan, summary: dict[str, Any], files: dict[str, int]) -> dict[str, Any]:
    patterns = configs(plan)
    return {
        "pretty_name": _title(plan),
        "license": "other",
        "license_name": "see-sources",
        "task_categories": ["image-feature-extraction"],
        "tags": ["biology", "medical", "medical-imaging", "self-supervised-learning", "biovfm"],
        "size_categories": [next((word for bound, word in _SIZES if summary["kept"] < bound), "10M<n<100M")],
        "configs": [
            {
                "config_name": name,
                **({"default": True} if name == "full" else {}),
                "data_files": [{"split": "train", "path": globs[0] if len(globs) == 1 else globs}],
            }
            for name, globs in patterns.items()
        ],
        "dataset_info": [_info(plan, files, name, globs) for name, globs in patterns.items()],
    }


def _info(plan: Plan, rows_of: dict[str, int], name: str, globs: list[str]) -> dict[str, Any]:
    """Columns, rows and bytes of a config.

    `datasets` names its cache by the card alone, so two folders of one name with equal cards would share it, and a
    rebuilt dataset would load with its old rows. The sizes keep them apart.
    """
    files = [file for pattern in globs for file in sorted(plan.out.glob(pattern))]
    size = sum(file.stat().st_size for file in files)
    rows = sum(rows_of.get(file.relative_to(plan.out).as_posix()) or read_metadata(file).num_rows for file in files)
    split = {"name": "train", "num_bytes": size, "num_examples": rows}
    return {
        "config_name": name,
        "features": [{"name": column, "dtype": dtype} for column, dtype in COLUMN_TYPES.items()],
        "splits": [split],
        "download_size": size,
        "dataset_size": size,
    }


def _title(plan: Plan) -> str:
    return "Biomedical images" if plan.options.subset == "full" else f"Biomedical images, subset {plan.options.subset}"


def _introduction(plan: Plan, summary: dict[str, Any]) -> str:
    outside = [source for source, facts in plan.sources.items() if not facts["in_paper"]]
    note = f" Not among the paper's 61 sources: {plain(', '.join(outside), 2000)}." if outside else ""
    number = len(summary["sources"])
    return f"""# {_title(plan)}

{summary["kept"]:,} images of {plan.options.size} pixels from {number} source{"" if number == 1 else "s"}, built by
[BioVFM-HF](https://arxiv.org/abs/2505.09329) after the recipe of BioVFM-21M: training parts only, volumes sliced along
anatomical axes, screened for padding, duplicates and benchmark images.{note}

```python
from datasets import load_dataset

dataset = load_dataset("THIS_FOLDER_OR_REPO", "full", split="train")
```
"""


def _contents(summary: dict[str, Any], sheets: dict[str, Path]) -> str:
    lines = ["## What it holds", ""]
    if summary["kept"]:
        lines += ["![images by modality and anatomy](figures/modality-anatomy.png)", ""]
    lines += ["| modality | images | anatomies |", "|---|---|---|"]
    for modality, cells in sorted(summary["modality_anatomy"].items()):
        anatomies = ", ".join(
            f"{plain(name)} {count:,}" for name, count in sorted(cells.items(), key=lambda c: (-c[1], c[0]))
        )
        lines.append(f"| {plain(modality)} | {sum(cells.values()):,} | {anatomies} |")
    named = {name for cells in summary["modality_anatomy"].values() for name in cells}
    if own := own_anatomies(named - {NOT_TOLD}):
        lines += ["", f"Anatomies in words of their sources, outside the 30 regions: {plain(', '.join(own), 1000)}."]
    for modality, path in sheets.items():
        lines += ["", f"![samples of {plain(modality)}](figures/{path.name})"]
    return "\n".join(lines) + "\n"


def published_sizes() -> dict[str, int]:
    """Images of other datasets, as their own publications state."""
    return {row["dataset"]: round(1e6 * float(row["images_millions"])) for row in rows("dataset_sizes")}


def _sizes(plan: Plan, summary: dict[str, Any]) -> str:
    """The dataset beside others, as in Figure 1 of the BioVFM-21M paper."""
    lines = ["## Size beside other datasets", ""]
    lines += ["![images of datasets](figures/sizes.png)", ""] if summary["kept"] else []
    lines += ["| dataset | images | source |", "|---|---|---|"]
    sources = {row["dataset"]: row["source"] for row in rows("dataset_sizes")} | {_title(plan): "this folder"}
    counts = {_title(plan): summary["kept"]} | published_sizes()
    for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        lines.append(f"| {plain(name)} | {count:,} | {plain(sources[name])} |")
    return "\n".join(lines) + "\n"


def _sources(plan: Plan, summary: dict[str, Any]) -> str:
    lines = ["## Sources", "", "| source | considered | kept | licence or terms | access |", "|---|---|---|---|---|"]
    for source, outcomes in sorted(summary["sources"].items()):
        facts = plan.sources[source]
        cells = (
            link(facts["name"], facts["homepage"]),
            f"{sum(outcomes.values()):,}",
            f"{outcomes.get('kept', 0):,}",
            plain(facts["licence"] or "not established"),
            plain(facts["access"] or "not established"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    citations = [
        f"- {plain(facts['name'])}: {plain(facts['citation'], 2000)}"
        for _, facts in sorted(plan.sources.items())
        if facts["citation"]
    ]
    if citations:
        lines += ["", "### Citations", "", *citations]
    return "\n".join(lines) + "\n"


def _making(plan: Plan, summary: dict[str, Any]) -> str:
    options = plan.options
    outcomes = "\n".join(f"| {plain(reason)} | {count:,} |" for reason, count in summary["outcomes"].items())
    return f"""## How it was made

Volumes are turned to patient orientation and sliced along {", ".join(options.views)}; axial pictures show anterior up
and the patient's right on the left, coronal ones superior up and the patient's right on the left, sagittal ones
superior up and anterior on the left. Slices get square pixels. CT is windowed in Hounsfield units where the source's
record says so, other volumes are mapped from their 0.5th to 99.5th percentile, 8-bit images are taken as they are.
The {options.fit} side is resized to {options.size} pixels{_padded(options.fit)}.
Images are stored as {"PNG" if options.image_format == "png" else f"JPEG of quality {options.quality}"}.

`subject` is a keyed hash of the source's own identifier; no value of a file's header is stored. `sha256` is of the
stored pixels (shape as three little-endian 32-bit numbers, then values), `phash` a 64-bit perceptual hash of the
picture without padding. `manifest.parquet` lists every picture considered and why it was kept or not:

| outcome | pictures |
|---|---|
{outcomes}
| **considered** | **{summary["considered"]:,}** |

Random seed {options.seed}.
"""


def _leakage(plan: Plan, summary: dict[str, Any]) -> str:
    guard = guard_line(plan.options.leakage, summary["benchmark_images"])
    lines = ["## Leakage", "", guard, ""]
    if summary["overlaps"]:
        lines += ["| source | benchmark | what its record says | left out |", "|---|---|---|---|"]
    for overlap in summary["overlaps"]:
        reason = f"leakage: {overlap['relation'].replace('_', ' ')} {overlap['benchmark']}"
        relation = relation_text(overlap["relation"], overlap["note"], overlap["verified"])
        cells = (
            plain(overlap["source"]),
            plain(overlap["benchmark"]),
            plain(relation, 1000),
            f"{summary['sources'].get(overlap['source'], {}).get(reason, 0):,}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    for matched, count in sorted(summary["benchmark_matches"].items()):
        lines += ["", plain(match_line(matched, count), 1000)]
    return "\n".join(lines) + "\n"


def _padded(fit: str) -> str:
    return "; black padding centres it in a square" if fit == "longest" else ""


def _terms(plan: Plan) -> str:
    return """## Terms

Each image keeps the licence and terms of its source, listed above; who uses this dataset has to meet all of them.
Images of sources that need registration or an agreement must not be passed on to people who have not signed it.
Biomedical images only represent the patients, scanners and sites of their sources; nothing here is for diagnosis.
"""
