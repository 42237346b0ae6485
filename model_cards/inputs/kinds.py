"""Recognises the kind of a folder or file: results, dataset, training run, model or scaling study."""

from dataclasses import dataclass, field
from pathlib import Path

from biovfm_hf.errors import UserError


@dataclass
class Inputs:
    """The inputs of `biovfm report` by kind; every list keeps the order of the command line."""

    datasets: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    scalings: list[Path] = field(default_factory=list)

    def add(self, path: Path) -> bool:
        """File `path` under its kind; False if it is none of them. A path given twice counts once."""
        kind = kind_of(path)
        if kind is None:
            return False
        known: list[Path] = getattr(self, kind)
        if path.resolve() not in [other.resolve() for other in known]:
            known.append(path)
        return True


def kind_of(path: Path) -> str | None:
    """The field of `Inputs` that `path` belongs to, judged by the files that mark each kind, or None."""
    if path.is_file():
        return "results" if path.suffix == ".json" else None
    if (path / "metrics.jsonl").is_file():
        return "runs"
    if (path / "manifest.parquet").is_file() or any((path / "data").glob("**/*.parquet")):
        return "datasets"
    if (path / "results.json").is_file():
        return "results"
    if (path / "summary.json").is_file() and (path / "slopes.csv").is_file():
        return "scalings"
    if (path / "config.json").is_file() and any(path.glob("*.safetensors*")):
        return "models"
    return None


def find_inputs(paths: list[Path]) -> Inputs:
    """Sort `paths` by kind. A folder of no kind is searched two levels deep, which finds everything of a quickstart.

    A training run includes the model in its `model/`.

    Raises:
        UserError: a path does not exist, or has nothing of a known kind.
    """
    inputs = Inputs()
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check the path")
        if inputs.add(path):
            continue
        if not _add_below(inputs, path, levels=2):
            raise UserError(
                f"{path}: neither results (results.json), dataset (manifest.parquet), training run (metrics.jsonl), "
                "scaling study (summary.json, slopes.csv) nor model (config.json); give the folder that holds one"
            )
    for run in inputs.runs:
        if kind_of(run / "model") == "models":
            inputs.add(run / "model")
    return inputs


def _add_below(inputs: Inputs, folder: Path, levels: int) -> bool:
    """Add the content of `folder`, and of its folders of no kind; False if nothing was found."""
    children = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    added = [inputs.add(child) or (levels > 1 and _add_below(inputs, child, levels - 1)) for child in children]
    return any(added)
