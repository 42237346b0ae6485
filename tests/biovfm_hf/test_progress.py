"""Progress in a log file."""

from biovfm_hf import progress


def test_without_a_terminal_progress_is_whole_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with progress.progress_bar(total=5, unit="rows", desc="building", miniters=1) as bar:
        bar.update(2)
        bar.refresh()
        bar.refresh()  # tqdm does, of a bar that stands still
        bar.set_postfix_str("kept 2", refresh=False)
        bar.update(3)
    list(progress.progress_bar(iterable=range(3), desc="quiet", disable=True))
    shown = capsys.readouterr().err
    first, second, last = shown.splitlines()
    assert "\r" not in shown and shown.endswith("\n") and "quiet" not in shown
    assert first.startswith("building: 0 of 5 rows, ") and second.startswith("building: 2 of 5 rows, ")
    assert last.startswith("building: 5 of 5 rows, ") and last.endswith(", kept 2")


def test_a_short_command_writes_no_progress(capsys):
    assert list(progress.progress_bar(iterable=range(3), desc="short")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
