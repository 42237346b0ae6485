"""The `biovfm push` command: sends a model, dataset or demo folder to a Hub repository and verifies it."""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from biovfm_hf.cards.provenance import read_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.hub.calls import signed_in
from biovfm_hf.hub.names import check_hub_names, check_ref
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options
from biovfm_hf.writing.files import write_text

from ..ending import end_command
from ..inputs.kinds import kind_of
from .card import check_pushed_card, let_hub_check, name_repository, read_card
from .files import local_files
from .repository import Repository
from .transfer import Sent, send

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
NEXT = {
    "model": 'AutoModel.from_pretrained("{}")',
    "dataset": 'load_dataset("{}", split="train", streaming=True)',
}
EPILOG = """examples:
  biovfm push run/model you/biovfm-tiny
  biovfm push data you/biovfm-data --public --gated manual
  biovfm push run/model you/biovfm-tiny --revision step-2000 --tag v1 --collection "BioVFM"

Sign in first with: hf auth login (or set HF_TOKEN). Run the same command again to resume an upload that was
interrupted, or to send what has changed; files that the repository already holds are not sent again.
"""


@dataclass(frozen=True)
class PushOptions:
    """What to push, and how."""

    folder: Path = argument("model, dataset or demo folder with its README.md", metavar="DIR")
    repo_id: str = argument("OWNER/NAME on the Hub; created if it does not exist", metavar="REPO_ID")
    public: bool = option(False, "let everybody see the repository (default: private)")
    private_sources_ok: bool = option(False, "also send content from private sources, without confirmation")
    gated: str | None = option(
        None,
        "readers must ask; access is granted at once, or by you",
        choices=("auto", "manual"),
        metavar="auto|manual",
    )
    revision: str = option("main", "branch to send to", metavar="BRANCH")
    tag: str | None = option(None, "tag the result, for instance v1", metavar="NAME")
    collection: str | None = option(None, "add it to this collection of the owner (title or slug)", metavar="TITLE")
    extra: str | None = option(
        None, "keep or delete files that only the repository has (default: stop)", choices=("keep", "delete"),
        metavar="keep|delete",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_options(self)
        check_hub_names([self.repo_id], owner=True)
        check_ref("revision", self.revision)
        if self.tag is not None:
            check_ref("tag", self.tag)


@dataclass(frozen=True)
class Pushed:
    """The outcome of a push: the kind of repository, whether it is private, counts, and remarks for the user."""

    files: Sent
    kind: str
    private: bool
    notes: tuple[str, ...] = ()


def push(options: PushOptions) -> Pushed:
    """Make the repository equal to the folder, then compare every file's hash.

    Raises:
        UserError: there is no token, the folder or its card is not valid, it has content from private sources and
            `private_sources_ok` is not set, the repository has other files, or the Hub refuses.
    """
    folder, kind = options.folder, _kind(options.folder)
    files = local_files(folder)
    if not options.private_sources_ok and (reason := private_content(folder)):
        raise UserError(f"{reason}; to send it anyway: --private-sources-ok")
    text = read_card(folder)
    card = name_repository(text, options.repo_id)
    notes = check_pushed_card(card, folder, kind)
    repository = Repository(signed_in(), options.repo_id, kind, options.revision)
    let_hub_check(repository.api, card, kind)
    repository.make(options.public, options.gated)
    with tempfile.TemporaryDirectory(prefix="biovfm-push-") as place:
        files["README.md"] = Path(place) / "README.md"  # the folder's own copy is written after everything has arrived
        write_text(files["README.md"], card)
        sent = send(repository, files, options.extra, options.tag)
    if card != text:
        write_text(folder / "README.md", card)
    if options.tag:
        repository.tag(options.tag)
    if options.collection:
        repository.collect(options.collection, private=not options.public)
    return Pushed(sent, kind, repository.is_private(), notes)


def private_content(folder: Path) -> str:
    """A sentence on the folder's content from private sources, "" if there is none."""
    provenance = read_provenance(folder)
    return f"{folder}: was made from data of private access ({provenance})" if provenance.is_private else ""


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the model, dataset or demo folder to push")
    kind = "spaces" if (folder / "app.py").is_file() else kind_of(folder)
    if kind in KINDS:
        return KINDS[kind]
    if kind_of(folder / "model") == "models":
        raise UserError(f"{folder}: contains a model and other files; push the model itself: {folder / 'model'}")
    if kind == "results":
        raise UserError(
            f"{folder}: has results, which belong with their model; write its card with: biovfm card MODEL_DIR "
            f"--results {folder}, and push MODEL_DIR"
        )
    raise UserError(
        f"{folder}: neither a model (config.json, *.safetensors) nor a dataset (data/*.parquet) nor a demo (app.py); "
        "give one of these folders"
    )


def _asked(options: PushOptions) -> PushOptions:
    """The options, after asking the user on a terminal whether to send private content.

    Raises:
        UserError: the user declined.
    """
    reason = "" if options.private_sources_ok else private_content(options.folder)
    if not reason or not sys.stdin.isatty():
        return options
    readers = "everybody" if options.public else "everybody who may read the repository"
    print(f"{reason}.\n{options.repo_id} would show it to {readers}.")
    if input("Send it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError(f"{options.folder}: not sent")
    return replace(options, private_sources_ok=True)


def main(argv: list[str]) -> int:
    """`biovfm push`. Returns the exit status."""
    parser = CommandParser(
        prog="biovfm push",
        description="Send a model, dataset or demo folder to the Hub, private unless you say --public. Only files "
        "that the repository does not hold yet are sent; afterwards every hash is compared. The usage lines of the "
        "card are made to name the repository. What came from private sources is sent only when you say so.",
        epilog=EPILOG,
    )
    options = _asked(parse_options(parser, PushOptions, argv))
    done = push(options)
    return end_command(done.notes, _outcome(options.repo_id, done))


def _outcome(repo_id: str, done: Pushed) -> str:
    commits = "1 commit" if done.files.commits == 1 else f"{done.files.commits} commits"
    files = "1 file" if done.files.sent == 1 else f"{done.files.sent} files"
    outcome = (
        f"{repo_id} ({'private' if done.private else 'public'}): {files} sent in {commits}, "
        f"{done.files.unchanged} were there, {done.files.deleted} deleted; all hashes agree, "
        f"{done.files.pulled_back} files pulled back and compared"
    )
    return f"{outcome}\nnext: {NEXT[done.kind].format(repo_id)}" if done.kind in NEXT else outcome
