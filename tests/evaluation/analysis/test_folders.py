"""The folders of `evaluation/analysis` depend on each other in one direction only."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import evaluation.analysis

FOLDER = Path(evaluation.analysis.__file__).parent


def test_folders_import_each_other_in_one_direction():
    graph = {
        folder.name: {name for file in folder.glob("*.py") for name in re.findall(r"from \.\.(\w+)", file.read_text())}
        for folder in FOLDER.iterdir()
        if (folder / "__init__.py").is_file()
    }
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("layers") < order.index("scaling") < order.index("study") < order.index("composition")
