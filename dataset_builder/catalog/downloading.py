"""Downloads the open files of a source: transfers resume, and known checksums are verified."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError, require
from biovfm_hf.hub.retries import ATTEMPTS, is_passing_status, retried
from biovfm_hf.progress import progress_bar

from .source import Download, Source

CHUNK = 1 << 16  # a transfer that breaks off loses at most this much
TIMEOUT = (15, 60)  # seconds to connect, and between two reads


def download_source(source: Source, raw_dir: Path, pause: float = 1.0) -> list[Path]:
    """Fetch the files of `source` into its folder below `raw_dir`; existing files are checked and kept.

    `pause` is the wait in seconds before the first retry of a broken transfer; it doubles each time.

    Raises:
        UserError: the source has no direct links, a server does not give the file, or a checksum is wrong.
    """
    if not source.files:
        raise UserError(f"{source.id} has no open direct link; how to obtain it: biovfm sources show {source.id}")
    return [_fetch(entry, raw_dir / source.folder / entry.name, pause) for entry in source.files]


def _fetch(entry: Download, target: Path, pause: float) -> Path:
    if target.is_file() and _wrong(entry, target) is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    requests = require("requests", "data")
    try:
        retried(lambda: _transfer(requests, entry, part), _worth_repeating, pause, ATTEMPTS)
    except requests.RequestException as error:
        raise UserError(
            f"{entry.url}: {_reason(error)}; the part that arrived is kept, and the same command continues it"
        ) from None
    wrong = _wrong(entry, part)
    if wrong:
        part.unlink()
        _mark(part).unlink(missing_ok=True)
        raise UserError(f"{entry.url}: {wrong}; the file was removed, run the command again or fetch it by hand")
    part.replace(target)
    _mark(part).unlink(missing_ok=True)
    return target


def _transfer(requests: Any, entry: Download, part: Path) -> None:
    """Bring `part` to its full length, continuing it if the server still has the same file."""
    done = part.stat().st_size if part.is_file() else 0
    version = _version(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "biovfm-hf"}
    if done and version:
        headers |= {"Range": f"bytes={done}-", "If-Range": version}
    with requests.get(entry.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # the part is as long as the server's file or longer: begin again
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the file has changed on the server")
        response.raise_for_status()
        if "text/html" in response.headers.get("Content-Type", "") and not entry.name.endswith((".html", ".htm")):
            raise UserError(
                f"{entry.url}: the server sent a web page instead of the file; fetch it by hand from there"
            )
        resumed = response.status_code == 206 and _starts_at(response) == done
        if response.status_code == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the server resumed at another place")
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else None
        _check_room(part, (total or done) - done, entry)
        _mark(part).write_text(json.dumps({"version": _tag(response)}), encoding="utf-8")
        _receive(response, part, done, total)
    if total is not None and part.stat().st_size < total:
        raise requests.ConnectionError("the transfer broke off")


def _receive(response: Any, part: Path, done: int, total: int | None) -> None:
    bar = progress_bar(total=total, initial=done, unit="B", unit_scale=True, desc=part.name.removesuffix(".part"))
    with bar, part.open("ab" if done else "wb") as written:
        for chunk in response.iter_content(CHUNK):
            written.write(chunk)
            bar.update(len(chunk))


def _worth_repeating(error: Exception) -> bool:
    if not isinstance(error, require("requests", "data").RequestException):
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or is_passing_status(status)


def _reason(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"the server answered {status}" if status else f"the transfer failed ({type(error).__name__})"


def _mark(part: Path) -> Path:
    """The file beside a part that names the version of the server's file."""
    return part.with_name(part.name + ".json")


def _version(part: Path) -> str | None:
    try:
        version = json.loads(_mark(part).read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError, AttributeError):
        return None
    return version if isinstance(version, str) else None


def _tag(response: Any) -> str | None:
    """A strong ETag, else the time of the last change; None if the server sends neither (then nothing resumes)."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _starts_at(response: Any) -> int | None:
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.split("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


def _check_room(part: Path, needed: int, entry: Download) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise UserError(
            f"{entry.name} needs {needed / 2**30:.1f} GiB and {part.parent} has {free / 2**30:.1f} GiB free; make room"
        )


def _wrong(entry: Download, file: Path) -> str | None:
    """What is wrong with a complete file, None if its size and checksum match the record (or are unknown)."""
    size = file.stat().st_size
    if entry.size is not None and size != entry.size:
        return f"{size} bytes arrived instead of {entry.size}"
    for name, expected in (("sha256", entry.sha256), ("md5", entry.md5)):
        if expected:
            with file.open("rb") as opened:
                actual = hashlib.file_digest(opened, name).hexdigest()
            return None if actual == expected.lower() else f"the {name} checksum is {actual}, not {expected}"
    return None
