"""Checks that the scores in a card still agree with the results file beside it."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import parse_yaml, read_text
from biovfm_hf.results.record import Record

from ..inputs.results import load_results
from .earlier import END
from .model_index import eval_results, leaderboard_yaml
from .render import render_results


def check_numbers(text: str, model_dir: Path) -> None:
    """Refuse machine-readable scores (model-index, .eval_results) that are not in the results file beside our card.

    Raises:
        UserError: a score was edited, or the results file is gone.
    """
    if END not in text:
        return
    records, file = _results(model_dir)
    known: dict[tuple[Any, Any], list[str]] = {}
    for entry in eval_results(records):
        known.setdefault((entry.dataset_type, entry.metric_value), []).append(str(entry.metric_name))
    for entry in ModelCard(text).data.get("eval_results") or []:
        start = str(entry.metric_name).removesuffix(")")  # earlier cards name neither settings nor seed
        if not any(name.startswith(start) for name in known.get((entry.dataset_type, entry.metric_value), [])):
            claim = f"{entry.metric_name} {entry.metric_value} on {entry.dataset_type}"
            raise UserError(f"{model_dir / 'README.md'}: states {claim}, {_remedy(file, model_dir)}")
    board = model_dir / ".eval_results" / "biovfm.yaml"
    ours = _board_scores(leaderboard_yaml(records, "any/benchmark"), board)
    for task, value in _board_scores(read_text(board), board) if board.is_file() else []:
        if (task, value) not in ours:
            raise UserError(f"{board}: states {value} on {task}, {_remedy(file, model_dir)}")


def changed_tables(text: str, model_dir: Path) -> bool:
    """Whether the tables under our card's Results differ from those that the results file gives now.

    They differ if somebody edited them, and may differ if another version of `biovfm card` wrote them.
    """
    records, _ = _results(model_dir)
    written, end, _ = text.partition(END)
    if not end or not records:
        return False
    name = str(ModelCard(text).data.get("model_name"))
    return _table_lines(written) != _table_lines(render_results(records, name))


def _results(model_dir: Path) -> tuple[list[Record], Path]:
    file = model_dir / "results" / "biovfm.json"
    return load_results(file) if file.is_file() else [], file


def _remedy(file: Path, model_dir: Path) -> str:
    return f"which is not in {file}; write the card again with: biovfm card {model_dir} --results DIR"


def _board_scores(text: str, board: Path) -> list[tuple[Any, Any]]:
    remedy = "write it again with: biovfm card --benchmark"
    try:
        return [(entry["dataset"]["task_id"], entry["value"]) for entry in parse_yaml(text, str(board), remedy) or []]
    except (TypeError, KeyError) as error:
        raise UserError(f"{board}: not a list of results; {remedy}") from error


def _table_lines(text: str) -> list[str]:
    section = text.partition("## Results\n")[2].partition("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith("|")]
