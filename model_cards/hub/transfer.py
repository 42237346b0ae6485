"""Transfers a folder's files to a repository, and verifies them."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.hub.calls import steady
from biovfm_hf.progress import progress_bar

from .files import SERVER_FILES, same_content, sha256_of
from .repository import Repository

FILES_PER_COMMIT = 100
PULL_BACK_BYTES = 256 * 2**20
PULL_BACK_FILES = 24


@dataclass(frozen=True)
class Sent:
    """Counts of files sent, deleted, unchanged, and pulled back for comparison, and of commits."""

    sent: int
    deleted: int
    unchanged: int
    commits: int
    pulled_back: int


def send(repository: Repository, files: dict[str, Path], extra: str | None = None, tag: str | None = None) -> Sent:
    """Transfer `files` to the repository, and verify them.

    Args:
        repository: the target.
        files: name in the repository -> file.
        extra: what happens to files that only the repository has: "keep", "delete", or None to stop.
        tag: name that will be given to the result.

    Raises:
        UserError: the repository has other files, the tag is taken, or a file did not arrive intact.
    """
    remote = repository.files()
    others = sorted(set(remote) - set(files) - SERVER_FILES)
    if others and extra is None:
        raise UserError(
            f"{repository.repo_id}: already holds {len(others)} files that the folder does not, for instance "
            f"{others[0]}; use another name, or say --extra keep or --extra delete"
        )
    deleted = others if extra == "delete" else []
    changed = [name for name, file in files.items() if name not in remote or not same_content(file, remote[name])]
    if tag:
        repository.check_tag(tag, changes=bool(changed or deleted))
    commits = _upload(repository, {name: files[name] for name in changed}, deleted)
    pulled_back = _verify(repository, files, changed)
    return Sent(len(changed), len(deleted), len(files) - len(changed), commits, pulled_back)


def _upload(repository: Repository, changed: dict[str, Path], deleted: list[str]) -> int:
    """Commit the changed files, up to 100 at a time, the card and deletions last. Returns the commits made."""
    names = sorted(changed, key=lambda name: (name == "README.md", name))
    batches = [names[start : start + FILES_PER_COMMIT] for start in range(0, len(names), FILES_PER_COMMIT)]
    if deleted and not batches:
        batches = [[]]
    label = f"sending to {repository.repo_id}"
    with progress_bar(total=len(names), desc=label, unit="file", disable=len(names) < 2) as bar:
        for number, batch in enumerate(batches, start=1):
            part = f", part {number} of {len(batches)}" if len(batches) > 1 else ""
            gone = deleted if number == len(batches) else []
            added = {name: changed[name] for name in batch}
            repository.commit(f"Upload {len(batch)} files{part}", added, gone)
            bar.update(len(batch))
    return len(batches)


def _verify(repository: Repository, files: dict[str, Path], changed: list[str]) -> int:
    """Compare every file with the hash that the repository states, and pull back a sample of the sent ones.

    Returns:
        how many were pulled back: at most 24, evenly over the names, smallest first, up to 256 MiB.
    """
    remote = repository.files()
    wrong = [name for name, file in files.items() if name not in remote or not same_content(file, remote[name])]
    pulled = 0
    with tempfile.TemporaryDirectory(prefix="biovfm-push-") as place:
        for name in _sample(files, changed):
            copy = steady(partial(repository.download, name, Path(place)), f"reading {name} back")
            if sha256_of(copy) != sha256_of(files[name]):
                wrong.append(name)
            pulled += 1
    if wrong:
        raise UserError(
            f"{repository.repo_id}: {len(wrong)} files differ after the upload, for instance {wrong[0]}; push again"
        )
    return pulled


def _sample(files: dict[str, Path], changed: list[str]) -> Iterator[str]:
    budget = PULL_BACK_BYTES
    sample = changed[:: -(-len(changed) // PULL_BACK_FILES) or 1]
    for name in sorted(sample, key=lambda name: files[name].stat().st_size):
        budget -= files[name].stat().st_size
        if budget < 0:
            return
        yield name
