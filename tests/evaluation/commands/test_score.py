"""`biovfm score` on good, odd and hostile files."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biovfm_hf.errors import UserError
from evaluation.commands.score import main
from evaluation.tasks import npz


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    scores = rng.random(120) * 0.6 + 0.4 * labels
    subjects = np.array([f"s{i // 3}" for i in range(80)])
    return {"test_labels": labels[:80], "test_scores": scores[:80], "val_labels": labels[80:],
            "val_scores": scores[80:], "test_subjects": subjects}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def save(**held):
        np.savez(tmp_path / "scores.npz", **held)
        return str(tmp_path / "scores.npz")

    return save


def run(path, *words, task="binary-class"):
    return main([path, "--task", task, "--resamples", "50", *words])


def test_json_has_all_that_the_screen_shows(write, arrays, tmp_path, capsys):
    out = tmp_path / "deep" / "scores.json"
    assert run(write(**arrays), "--json", str(out), "--extra") == 0
    found = json.loads(out.read_text())
    assert len(found["thresholds"]) == 1
    assert set(found["metrics"]["auc"]) == {"value", "mean", "low", "high"}
    shown = capsys.readouterr().out
    for name, entry in found["metrics"].items():
        assert name in shown
        assert f"{entry['value']:.4f}" in shown


def test_fast_protocol_by_subject_is_wider_or_equal_and_repeats(write, arrays, tmp_path, capsys):
    path = write(**arrays)
    texts = []
    for _ in range(2):
        assert run(path, "--protocol", "fast", "--by-subject", "--seed", "3", "--json", str(tmp_path / "o.json")) == 0
        texts.append((tmp_path / "o.json").read_text())
    assert texts[0] == texts[1]
    assert run(path, "--protocol", "fast", "--stratify") == 0


def test_undefined_metrics_are_null_with_a_reason(write, arrays, tmp_path, capsys):
    arrays["test_labels"] = np.zeros(80, int)
    assert run(write(**arrays), "--json", str(tmp_path / "o.json")) == 0
    found = json.loads((tmp_path / "o.json").read_text())["metrics"]["auc"]
    assert found["value"] is None
    assert "every sample is of class 0" in found["reason"]
    assert "undefined: every sample is of class 0" in capsys.readouterr().out


def test_a_multiclass_file_needs_no_validation_and_names_missing_classes(write, capsys):
    assert run(write(test_labels=np.array([0, 0, 2]), test_scores=np.eye(3)), task="multi-class") == 0
    assert "note: test: no sample of class 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(test_scores=np.full(80, np.nan)), "not finite"),
        (dict(test_labels=np.zeros(79)), "79 rows"),
        (dict(val_scores=np.zeros((40, 3))), "3 columns"),
        (dict(val_labels=np.zeros(40)), "one class only"),
        (dict(test_labels=np.array([{}] * 80, dtype=object)), "Python objects"),
        (dict(val_labels=None), "lacks val_labels"),
    ],
)
def test_unfit_files_are_refused_in_one_line_with_their_name(write, arrays, change, words):
    arrays = {k: v for k, v in (arrays | change).items() if v is not None}
    with pytest.raises(UserError, match=words) as caught:
        run(write(**arrays))
    assert "scores.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_do_not_fit_are_refused(write, arrays):
    path = write(**arrays)
    with pytest.raises(UserError, match="use protocol fast"):
        run(path, "--by-subject")
    with pytest.raises(SystemExit) as left:
        run(path, task="regression")
    assert left.value.code == 2


def test_damaged_files_are_refused(tmp_path, write, arrays):
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match="no such file"):
        run(str(path))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"not a \.npz file"):
        run(str(path))
    whole = write(**arrays)
    data = bytearray((tmp_path / "scores.npz").read_bytes())
    data[200] ^= 0xFF
    (tmp_path / "scores.npz").write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        run(whole)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_gives_arrays_or_one_line(tmp_path, arrays, data):
    path = tmp_path / "fuzzed.npz"
    np.savez(path, **arrays)
    held = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(held) - 1), min_size=1, max_size=8)):
        held[place] = data.draw(st.integers(0, 255))
    path.write_bytes(held[: data.draw(st.integers(0, len(held)))] if data.draw(st.booleans()) else held)
    try:
        for name in npz.array_names(path):
            assert npz.read(path, name).nbytes <= npz.MAX_BYTES
            list(npz.rows(path, name, 7))
    except UserError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}", "more than"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (3,)}", "Python objects"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", "bytes are missing"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': 'x'}", "no shape"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (3,)}", "no size"),
        ("[" * 5000, "not describe"),
    ],
)
def test_hostile_headers_take_no_memory(tmp_path, header, words):
    text = header.encode()
    body = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("test_labels.npy", body)
    with pytest.raises(UserError, match=words):
        npz.read(tmp_path / "x.npz", "test_labels")


def test_rows_stream_in_blocks_and_fortran_order_reads(tmp_path):
    data = np.arange(60).reshape(10, 3, 2)
    np.savez_compressed(tmp_path / "x.npz", c=data, f=np.asfortranarray(data))
    blocks = list(npz.rows(tmp_path / "x.npz", "c", 4))
    assert [len(b) for b in blocks] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), data)
    np.testing.assert_array_equal(npz.read(tmp_path / "x.npz", "f"), data)
    with pytest.raises(UserError, match="row by row"):
        next(npz.rows(tmp_path / "x.npz", "f", 4))


def trust_file(write, task):
    rng = np.random.default_rng(3)
    scores = rng.dirichlet(np.ones(3), 400) if task == "multi-class" else rng.random((400, 2))
    labels = scores.argmax(axis=1) if task == "multi-class" else (scores + rng.normal(0, 0.3, (400, 2)) > 0.5) * 1
    sex = np.where(rng.random(200) < 0.5, "F", "M")
    return write(
        test_labels=labels[:200], test_scores=scores[:200], val_labels=labels[200:], val_scores=scores[200:],
        test_groups=rng.integers(0, 3, 200), test_groups_sex=sex,
    )  # fmt: skip


@pytest.mark.parametrize(("task", "columns"), [("multi-class", 1), ("multi-label, binary-class", 2)])
def test_trust_reports_risk_sets_and_gaps(write, tmp_path, capsys, task, columns):
    out = tmp_path / "trust.json"
    assert run(trust_file(write, task), "--trust", "--coverage", "0.8", "--json", str(out), task=task) == 0
    trust = json.loads(out.read_text())["trust"]
    assert len(trust["selective"]) == columns
    assert {row["method"] for row in trust["conformal"]} == {"lac", "aps", "raps", "class_conditional"}
    assert set(trust["conformal"][0]["groups"]) == {"groups", "sex"}
    assert {row["by"] for row in trust["groups"]} == {"groups", "sex"}
    shown = capsys.readouterr().out
    assert f"{trust['selective'][0]['aurc']:.4f}" in shown
    assert "by sex, label 0: AUC worst" in shown


def test_trust_without_probabilities_or_validation_says_so(write, capsys):
    labels = np.tile([0, 1, 2], 20)
    path = write(
        test_labels=labels, test_scores=np.eye(3)[labels] * 9, val_labels=labels, val_scores=np.eye(3)[labels]
    )
    assert run(path, "--trust", task="multi-class") == 0
    assert "no conformal sets: scores are not probabilities" in capsys.readouterr().out
    assert run(write(test_labels=labels, test_scores=np.eye(3)[labels]), "--trust", task="multi-class") == 0
    assert "no conformal sets: the file has no val_labels" in capsys.readouterr().out
