"""Lists the files of a folder and of a Hub repository with their hashes, and compares them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from biovfm_hf.errors import UserError

MAX_FILE_BYTES = 50 * 10**9
MAX_FILES = 100_000
MAX_FILES_PER_FOLDER = 10_000
CHUNK = 2**20
SERVER_FILES = {".gitattributes"}
SHOWN_HIDDEN = {".eval_results"}
NOT_UPLOADED = {"__pycache__", "checkpoints", "exports"}


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository: its size, and the SHA-256 (LFS) or git blob SHA-1 of its content."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str


def local_files(folder: Path) -> dict[str, Path]:
    """The files of `folder` that belong in a repository: {path in the repository: file}, sorted.

    Hidden files and folders (temporaries too), Python caches, checkpoints and exports are left out; `.eval_results`
    is included.

    Raises:
        UserError: no files, more or larger ones than the Hub accepts, or a link to a folder or out of this one.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the model or dataset folder to push")
    files = {file.relative_to(folder).as_posix(): file for file in _walk(folder, folder.resolve())}
    if not files:
        raise UserError(f"{folder}: has no file to push; give the model or dataset folder")
    if len(files) > MAX_FILES:
        raise UserError(
            f"{folder}: {len(files):,} files, the Hub accepts {MAX_FILES:,} per repository; use larger shards"
        )
    folders: dict[Path, int] = {}
    for name, file in files.items():
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            parts = "smaller shards" if name.endswith(".parquet") else "it in parts (save_pretrained shards weights)"
            most = f"the Hub accepts {MAX_FILE_BYTES // 10**9} GB per file"
            raise UserError(f"{file}: {size / 1e9:.1f} GB, {most}; write {parts}")
        folders[file.parent] = folders.get(file.parent, 0) + 1
        if folders[file.parent] > MAX_FILES_PER_FOLDER:
            raise UserError(
                f"{file.parent}: more than {MAX_FILES_PER_FOLDER:,} files in one folder; use larger shards"
            )
    return dict(sorted(files.items()))


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if _stays(entry.name):
            continue
        if entry.is_symlink():
            _check_link(entry, root)
        if entry.is_dir():
            yield from _walk(entry, root)
        elif entry.is_file():
            yield entry


def _stays(name: str) -> bool:
    """Whether a file or folder of this name is not uploaded."""
    return name in NOT_UPLOADED or (name.startswith(".") and name not in SHOWN_HIDDEN)


def _check_link(link: Path, root: Path) -> None:
    """Refuse a link unless it leads to an uploaded file: others leave the folder or form loops."""
    try:
        target = link.resolve(strict=True)
        inside = target.relative_to(root).parts
    except (OSError, RuntimeError, ValueError):
        inside = ()
    if not inside or not target.is_file() or any(map(_stays, inside)):
        raise UserError(
            f"{link}: is a link to a folder, or out of {root.name}; only files in the folder are sent: put the "
            "file itself there, or remove the link"
        )


def remote_files(api: Any, repo_id: str, repo_type: str, revision: str) -> dict[str, RemoteFile]:
    """The files of a repository at `revision`; empty if there are none."""
    files = {}
    try:
        for entry in api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type):
            if isinstance(entry, RepoFile):
                sha256 = entry.lfs.sha256 if entry.lfs else None
                files[entry.path] = RemoteFile(entry.path, entry.size, sha256, entry.blob_id)
    except (RevisionNotFoundError, EntryNotFoundError):
        return {}
    return files


def same_content(file: Path, remote: RemoteFile) -> bool:
    """Whether a local file has the size and the hash that the repository states."""
    if file.stat().st_size != remote.size:
        return False
    return sha256_of(file) == remote.sha256 if remote.sha256 else git_sha1_of(file) == remote.git_sha1


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; read again only if the file has changed since."""
    return _digest(file, "sha256", "", *_state(file))


def git_sha1_of(file: Path) -> str:
    """SHA-1 that git gives a file as a blob, in hexadecimal; read again only if the file has changed since."""
    size, changed = _state(file)
    return _digest(file, "sha1", f"blob {size}\0", size, changed)


def _state(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns


@cache
def _digest(file: Path, algorithm: str, start: str, size: int, changed: int) -> str:
    digest = hashlib.new(algorithm, start.encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
