"""The kinds of figures that `biovfm probe` draws, and which of them show images of private tasks."""

import re
from pathlib import Path

import pytest

import evaluation.pictures
from model_cards.inputs.figures import FIGURES, PrivateFigures, figure_files


def test_every_kind_that_is_drawn_has_an_entry():
    sources = [file.read_text() for file in Path(evaluation.pictures.__path__[0]).glob("*.py")]
    drawn = {kind for text in sources for kind in re.findall(r'figure_path\(out, "([^"]+)"', text)}
    assert drawn == set(FIGURES)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        *(("roc_wards_linear", ()), ("corrupted_wards_knn", ()), ("pca_m_wards", ("wards",))),
        *(("boxes_m_wards_detect", ("wards",)), ("boxes_m_bccd_detect", ()), ("boxes_m", ("wards", "rooms"))),
        ("heat_m_wards", ("wards",)),  # of a kind that is not known
    ],
)
def test_a_figure_with_test_images_names_its_private_task(name, tasks):
    assert PrivateFigures(("wards", "rooms")).tasks_shown(Path(f"{name}.png")) == tasks
    assert PrivateFigures(()).tasks_shown(Path(f"{name}.png")) == ()


def test_figures_come_in_the_order_of_their_kinds_and_others_last(tmp_path):
    names = [*reversed(FIGURES), "heat"]
    for name in names:
        (tmp_path / f"{name}_a.png").touch()
    assert [file.stem.removesuffix("_a") for file in figure_files(tmp_path)] == [*FIGURES, "heat"]
