"""Designs of mixtures, and `biovfm scaling mixture` from end to end on a known response."""

import csv
import json

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.analysis.composition.designs import dirichlet, lattice
from evaluation.analysis.composition.runs import read_runs
from evaluation.analysis.scaling_command import main


def test_designs_are_mixtures():
    assert len(lattice(5, 2)) == 15 + 1
    assert len(lattice(3, 3)) == 10
    for shares in (lattice(4, 3), dirichlet(np.array([100.0, 50, 10]), 20)):
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        assert shares.min() >= 0 and len(np.unique(shares, axis=0)) == len(shares)
    with pytest.raises(UserError, match="lower the degree"):
        lattice(30, 8)


def test_the_best_mixture_is_found_from_designed_runs(tmp_path, capsys):
    design = tmp_path / "mixtures.csv"
    assert main(["mixture", "design", "--groups", "ct,mri,us", "--degree", "6", "--out", str(design)]) == 0
    rows = list(csv.DictReader(design.open()))
    best = {"ct": 0.5, "mri": 0.3, "us": 0.2}
    with design.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*best, "score", "held_out"])
        for number, row in enumerate(rows):
            shares = [float(row[name]) for name in best]
            gap = sum((share - best[name]) ** 2 for share, name in zip(shares, best, strict=True))
            writer.writerow([*shares, 0.9 - gap / 4, int(number % 5 == 0)])
    out = tmp_path / "mixture.json"
    assert main(["mixture", str(design), "--out", str(out), "--resamples", "20"]) == 0
    report = json.loads(out.read_text())
    assert report["chosen"] == "scheffe" and report["responses"]["scheffe"]["spearman"] > 0.99
    for name, share in best.items():
        assert report["shares"][name]["value"] == pytest.approx(share, abs=0.05)
    assert report["score"]["low"] <= report["score"]["value"] + 1e-9
    assert "by scheffe" in capsys.readouterr().out


def test_runs_are_read_as_they_are_written_elsewhere_and_checked(tmp_path):
    file, head = tmp_path / "runs.csv", "ct,mri,score,held_out\n"
    rows = [f"{share / 8},{1 - share / 8},0.8,{share > 4}\n" for share in range(9)]
    file.write_text(head + "".join(rows))
    assert read_runs(file).held_out.tolist() == [False] * 5 + [True] * 4
    for wrong in ("0.5,0.9,1,0", "nan,0.5,1,0", "0.5,0.5,nan,0"):
        file.write_text(f"{head}{wrong}\n")
        with pytest.raises(UserError, match="line 2: shares must be"):
            read_runs(file)
    file.write_text(f"{head}0.5,0.5,1,perhaps\n")
    with pytest.raises(UserError, match="perhaps"):
        read_runs(file)
