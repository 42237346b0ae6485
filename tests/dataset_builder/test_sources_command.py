"""`biovfm sources`: what it prints, its exit status, and downloads against a server that breaks off."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from biovfm_hf.errors import UserError
from biovfm_hf.front_door import COMMANDS
from dataset_builder.catalog import downloading
from dataset_builder.catalog.load import load_catalog
from dataset_builder.catalog.records import load_source
from dataset_builder.plan.status import sources_status
from dataset_builder.sources_command import download, list_sources, main, show_source

CONTENT = bytes(range(256)) * 400


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT with Range support; `plan` holds how many bytes each request may send before it breaks off."""

    plan: list[int]
    requests: list[dict]
    tag = '"v1"'
    status = 200
    kind = "application/zip"
    ranges = True

    def do_GET(self):
        cls = type(self)
        cls.requests.append(dict(self.headers))
        start = 0
        wanted = self.headers.get("Range")
        if cls.ranges and wanted and self.headers.get("If-Range") == cls.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(cls.status)
        self.send_header("Content-Type", cls.kind)
        if cls.tag:
            self.send_header("ETag", cls.tag)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        allowed = cls.plan.pop(0) if cls.plan else len(CONTENT)
        self.wfile.write(CONTENT[start : start + allowed])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"plan": [], "requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        handler.url = f"http://127.0.0.1:{running.server_port}/a.zip"
        yield handler
        running.shutdown()


@pytest.fixture
def source(tmp_path, server):
    """A record whose one file the server has, with changes."""

    def write(**changes):
        entry = {"url": server.url, "name": "sub/a.zip", "sha256": hashlib.sha256(CONTENT).hexdigest(), **changes}
        record = {"id": "mine", "name": "Mine", "modality": "CT", "anatomies": ["lung"], "items": ["*.png"]}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**record, "train": "all", "files": [entry]}))
        return path

    return write


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(downloading, "CHUNK", 10_000)


def fetch(path, raw):
    return downloading.download_source(load_source(path), raw, pause=0.01)


def test_a_broken_transfer_is_continued_where_it_stopped(source, server, tmp_path):
    server.plan.extend([30_000, 20_000])
    (file,) = fetch(source(), tmp_path / "raw")
    assert file == tmp_path / "raw/mine/sub/a.zip" and file.read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [None, "bytes=30000-", "bytes=50000-"]
    assert [path.name for path in file.parent.iterdir()] == ["a.zip"]


def test_a_later_run_continues_what_an_earlier_one_left(source, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server.plan.append(40_000)
    with pytest.raises(UserError, match="the same command continues"):
        fetch(source(), tmp_path / "raw")
    assert not (tmp_path / "raw/mine/sub/a.zip").exists()
    (file,) = fetch(source(), tmp_path / "raw")
    assert file.read_bytes() == CONTENT and server.requests[-1]["Range"] == "bytes=40000-"


def test_a_file_that_changed_on_the_server_is_begun_anew(source, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server.plan.append(40_000)
    with pytest.raises(UserError):
        fetch(source(), tmp_path / "raw")
    server.tag = '"v2"'
    (file,) = fetch(source(), tmp_path / "raw")
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("without", ["tag", "ranges"])
def test_servers_that_cannot_resume_send_it_all_again(source, server, tmp_path, without):
    setattr(server, without, None)
    server.plan.append(40_000)
    (file,) = fetch(source(), tmp_path / "raw")
    assert file.read_bytes() == CONTENT and len(server.requests) == 2


def test_a_wrong_checksum_leaves_nothing_behind(source, server, tmp_path):
    with pytest.raises(UserError, match="sha256 checksum is"):
        fetch(source(sha256="0" * 64), tmp_path / "raw")
    assert list((tmp_path / "raw/mine/sub").iterdir()) == []
    with pytest.raises(UserError, match="bytes arrived instead of 7"):
        fetch(source(size=7), tmp_path / "raw")
    (file,) = fetch(source(sha256=None, md5=hashlib.md5(CONTENT).hexdigest()), tmp_path / "raw")
    assert file.read_bytes() == CONTENT


def test_complete_files_are_not_fetched_again(source, server, tmp_path):
    fetch(source(), tmp_path / "raw")
    count = len(server.requests)
    fetch(source(), tmp_path / "raw")
    assert len(server.requests) == count
    (tmp_path / "raw/mine/sub/a.zip").write_bytes(b"damaged")
    (file,) = fetch(source(), tmp_path / "raw")
    assert file.read_bytes() == CONTENT


def test_refusals_are_not_repeated_and_web_pages_are_no_files(source, server, tmp_path):
    server.status = 404
    with pytest.raises(UserError, match="the server answered 404"):
        fetch(source(), tmp_path / "raw")
    assert len(server.requests) == 1
    server.status, server.kind = 200, "text/html; charset=utf-8"
    with pytest.raises(UserError, match="a web page instead of the file"):
        fetch(source(), tmp_path / "raw")


def test_server_errors_are_repeated(source, server, tmp_path):
    server.status = 503
    with pytest.raises(UserError, match="the server answered 503"):
        fetch(source(), tmp_path / "raw")
    assert len(server.requests) == downloading.ATTEMPTS


def test_a_disk_without_room_is_reported_before_the_transfer(source, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="make room"):
        fetch(source(), tmp_path / "raw")


# The command


def test_download_shows_the_terms_and_waits_for_their_acceptance(source, server, tmp_path, capsys):
    raw = str(tmp_path / "raw")
    with pytest.raises(UserError, match="--accept-terms"):
        main(["download", str(source()), "--raw", raw])
    assert "licence" in capsys.readouterr().out and not server.requests
    assert main(["download", str(source()), "--raw", raw, "--accept-terms"]) == 0
    assert (tmp_path / "raw/mine/sub/a.zip").read_bytes() == CONTENT


def test_download_without_direct_links_gives_the_steps(tmp_path, capsys):
    with pytest.raises(UserError, match="no open direct link"):
        main(["download", "drive", "--raw", str(tmp_path)])
    assert "grand-challenge" in capsys.readouterr().out


def test_list_names_every_source_once(tmp_path, capsys):
    (tmp_path / "rossa").mkdir()
    (tmp_path / "rossa" / "x").write_bytes(b"x")
    assert main(["list", "--raw", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    ids = [source.id for source in load_catalog()]
    assert [line.split()[0] for line in lines[2 : 2 + len(ids)]] == ids
    assert lines[-1].startswith("61 sources of the paper, 21,472,715 images; 1 of them on disk in ")
    assert main(["list", "--raw", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows if row["on_disk"]] == ["rossa"]


def test_list_does_not_count_another_source_among_those_of_the_paper(tmp_path, capsys):
    other = next(source for source in load_catalog() if not source.in_paper)
    (tmp_path / other.folder).mkdir()
    (tmp_path / other.folder / "x").write_bytes(b"x")
    main(["list", "--raw", str(tmp_path)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"0 of them on disk in {tmp_path}, and 1 outside the paper")


def test_the_line_of_the_help_text_names_the_actions(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    actions = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    summary = COMMANDS["sources"].summary
    assert len(actions) == 4 and set(actions) <= set(re.findall(r"\w+", summary))


def test_show_states_what_is_not_established(capsys):
    for source in load_catalog():
        assert main(["show", source.id]) == 0
        text = capsys.readouterr().out
        assert source.name in text and "How to obtain it" in text and " None\n" not in text
        assert max(map(len, text.splitlines())) < 200
    main(["show", "vindr-multiphase"])
    text = capsys.readouterr().out
    assert text.count("not established") >= 4 and "skips this source" in text


def test_show_json_carries_every_field(capsys):
    main(["show", "isic-archive", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["overlaps"][0]["benchmark"] == "DermaMNIST" and shown["how_to_obtain"] and shown["evidence"]


def test_status_counts_and_judges(tmp_path, capsys):
    for number in range(21, 41):
        path = tmp_path / f"drive/DRIVE/training/images/{number}_training.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "hrf").mkdir()
    (tmp_path / "hrf" / "all.zip").write_bytes(b"broken")
    (tmp_path / "vicavr").mkdir()
    (tmp_path / "padchest").mkdir()
    (tmp_path / "padchest" / "1.png").write_bytes(b"x")
    (tmp_path / "vicavr" / "1.jpg").write_bytes(b"x")
    assert main(["status", "--raw", str(tmp_path), "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [source.id for source in load_catalog()]
    assert rows["drive"] == {
        "id": "drive",
        "state": "found",
        "selected": 20,
        "expected": 20,
        "excluded": {},
        "lists_missing": [],
    }
    assert rows["aod"]["lists_missing"] == [] and rows["padchest"]["lists_missing"][0].startswith("**/PADCHEST")
    assert rows["hrf"]["state"] == "partly" and "broken archive" in next(iter(rows["hrf"]["excluded"]))
    assert rows["vicavr"]["state"] == "skipped" and rows["fives"]["state"] == "missing"
    assert main(["status", "--raw", str(tmp_path), "--sources", "drive,hrf"]) == 0
    assert "1 found, 1 partly" in capsys.readouterr().out


def test_status_names_missing_exclusion_lists_and_folders_without_an_image(tmp_path, capsys):
    for name in ("isic-archive/ISIC_0000001.jpg", "hrf/readme.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    assert main(["status", "--raw", str(tmp_path), "--sources", "isic-archive,hrf", "--json"]) == 0
    skin, eyes = json.loads(capsys.readouterr().out)
    assert skin["state"] == "partly" and skin["selected"] == 0
    assert skin["lists_missing"] == ["exclude/*.csv", "**/metadata.csv"]
    assert eyes["state"] == "missing" and sum(eyes["excluded"].values()) == 1


def test_mistakes_end_with_the_right_status(tmp_path):
    for words in ([], ["lists"], ["status"], ["download", "hrf"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    with pytest.raises(UserError, match="not a folder"):
        main(["status", "--raw", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="did you mean"):
        main(["show", "chestxray14"])


def test_python_gives_what_the_command_prints(source, server, tmp_path, capsys):
    raw = tmp_path / "raw"
    with pytest.raises(UserError, match="--accept-terms"):
        download(source(), raw)
    assert [file.read_bytes() for file in download(source(), raw, accept_terms=True)] == [CONTENT]
    assert show_source(source())["name"] == "Mine" and show_source("rossa")["how_to_obtain"]
    assert [row["id"] for row in list_sources(raw)] == [record.id for record in load_catalog()]
    (row,) = sources_status(raw, [source()])
    main(["status", "--raw", str(raw), "--sources", str(source()), "--json"])
    assert json.loads(capsys.readouterr().out) == [row]


def test_show_of_a_record_of_ones_own_counts_what_it_selects(source, tmp_path, capsys):
    path, raw = source(), tmp_path / "raw"
    assert main(["show", str(path), "--raw", str(raw)]) == 0
    assert "nothing is there; name the folder that holds mine/" in capsys.readouterr().out
    (raw / "mine").mkdir(parents=True)
    for name in ("a.png", "b.png", "notes.txt"):
        (raw / "mine" / name).write_bytes(b"x")
    assert main(["show", str(path), "--raw", str(raw)]) == 0
    shown = capsys.readouterr().out
    assert "2 files are selected for training, 1 are left out" in shown
    assert "sample: mine/a.png: CT, lung, split train, subject not stated" in shown
    assert "How to obtain it" not in shown and "61 sources" not in shown and "citation" not in shown


def test_show_of_a_record_of_ones_own_lists_its_rules_each_kind_and_who_is_missing(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    record = {"id": "mine", "name": "Mine", "modality": ["CT", "MR"], "train": "all", "subject": {"path": r"(P\d)/"}}
    path.write_text(yaml.safe_dump({**record, "items": ["**/*.nii.gz", "**/*.dcm"]}))
    for name in ("P1/t1.nii.gz", "P2/t1.nii.gz", "P2/1.dcm", "P2/2.dcm", "lost/t1.nii.gz"):
        file = tmp_path / "raw" / "mine" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    assert main(["show", str(path), "--raw", str(tmp_path / "raw")]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "training part        all" in lines and r"subject              by the path: (P\d)/" in lines
    assert "sample: mine/P1/t1.nii.gz: not established, not established, split train, subject P1" in lines
    assert "2 subjects" in lines
    assert "no subject: 1 files, such as mine/lost/t1.nii.gz; each counts as its own" in lines
    assert any(line.startswith("2 DICOM files are pictures of their own; with kind: dicom_series") for line in lines)
