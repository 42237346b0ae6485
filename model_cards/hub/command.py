"""`biovfm push`: a model, dataset or demo folder to a Hub repository, and proof that it arrived."""

import argparse
import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text
from biovfm_hf.options import argument, check_options, option, parse_options

from ..card.command import check_card
from ..card.earlier import END
from ..card.numbers import changed_tables, check_numbers
from ..inputs.files import read_readme
from ..inputs.hub_names import check_hub_names, check_ref
from ..inputs.kinds import kind_of
from .dataset_card import check_dataset_card
from .files import SERVER_FILES, local_files, remote_files, same_content, sha256_of
from .retry import steady

FILES_PER_COMMIT = 100
PULL_BACK_BYTES = 256 * 2**20
PULL_BACK_FILES = 24
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
    repo_id: str = argument("OWNER/NAME on the Hub; made if it is not there", metavar="REPO_ID")
    public: bool = option(False, "let everybody see the repository (default: private)")
    gated: str | None = option(
        None, "readers must ask: granted at once, or by you", choices=("auto", "manual"), metavar="auto|manual"
    )
    revision: str = option("main", "branch to send to", metavar="BRANCH")
    tag: str | None = option(None, "tag the result, for instance v1", metavar="NAME")
    collection: str | None = option(None, "add it to this collection of the owner (title or slug)", metavar="TITLE")
    extra: str | None = option(
        None, "what to do with files that only the repository has (default: stop)", choices=("keep", "delete"),
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
    """What a push did: files sent, deleted and unchanged, commits made, files pulled back and compared; and where."""

    sent: int
    deleted: int
    unchanged: int
    commits: int
    pulled_back: int
    repo_type: str
    private: bool


def push(options: PushOptions) -> Pushed:
    """Make the repository hold what the folder holds, then compare every file's hash.

    Raises:
        UserError: there is no token, the folder or its card is not fit, the repository holds other files, or the Hub
            refuses.
    """
    folder, repo_id = options.folder, options.repo_id
    repo_type = _repo_type(folder)
    text = _card_text(folder)
    card = name_repository(text, repo_id)
    _check_card(card, folder, repo_type)
    files = local_files(folder)
    api = _signed_in()
    steady(lambda: _let_hub_check(api, card, repo_type), "checking the card")
    steady(lambda: _make_repo(api, repo_id, repo_type, options), "creating the repository")
    with tempfile.TemporaryDirectory(prefix="biovfm-push-") as place:
        files["README.md"] = Path(place) / "README.md"  # the folder's own is written once all has arrived
        write_text(files["README.md"], card)
        sent = _send(api, folder, files, repo_id, repo_type, options)
    if card != text:
        write_text(folder / "README.md", card)
    if options.tag:
        steady(lambda: _make_tag(api, repo_id, repo_type, options), "tagging")
    if options.collection:
        steady(lambda: _add_to_collection(api, repo_id, repo_type, options), "adding to the collection")
    private = steady(lambda: bool(api.repo_info(repo_id, repo_type=repo_type).private), "reading the settings")
    return Pushed(**sent, repo_type=repo_type, private=private)


def _signed_in() -> Any:
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError("no Hub token on this machine; sign in with: hf auth login (or set HF_TOKEN)")
    return HfApi(library_name="biovfm-hf")


def _repo_type(folder: Path) -> str:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the model, dataset or demo folder to push")
    kind = "spaces" if (folder / "app.py").is_file() else kind_of(folder)
    if kind in KINDS:
        return KINDS[kind]
    if kind_of(folder / "model") == "models":
        raise UserError(f"{folder}: holds a model and more; push the model itself: {folder / 'model'}")
    if kind == "results":
        raise UserError(
            f"{folder}: holds results, which go with their model; write its card with: biovfm card MODEL_DIR "
            f"--results {folder}, and push MODEL_DIR"
        )
    raise UserError(
        f"{folder}: neither a model (config.json, *.safetensors) nor a dataset (data/*.parquet) nor a demo (app.py); "
        "give one of these folders"
    )


def _card_text(folder: Path) -> str:
    readme = folder / "README.md"
    if not readme.is_file():
        raise UserError(f"{folder}: no README.md; write it with: biovfm card {folder} (a dataset: biovfm build)")
    return read_readme(readme)


def _check_card(card: str, folder: Path, repo_type: str) -> None:
    if repo_type == "model":
        check_card(card)
        check_numbers(card, folder)
        if changed_tables(card, folder):
            print(
                f"note: {folder / 'README.md'}: its tables of results are not those that biovfm card writes from "
                f"{folder / 'results' / 'biovfm.json'} (edited, or of another version); to renew them: "
                f"biovfm card {folder} --results DIR"
            )
    elif repo_type == "dataset":
        check_dataset_card(card, folder)


def _let_hub_check(api: Any, card: str, repo_type: str) -> None:
    """Ask the Hub whether it takes the card (its licence, for one), as it will when the card is sent, last of all."""
    from huggingface_hub.utils import get_session, hf_raise_for_status

    asked = {"content": card, "repoType": repo_type}
    answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json=asked)
    if answer.status_code == 400:
        reasons = "; ".join(str(error.get("message")) for error in answer.json().get("errors", []))
        raise UserError(f"README.md: the Hub does not take its YAML block ({reasons[:300]}); mend it and push again")
    hf_raise_for_status(answer)


def name_repository(text: str, repo_id: str) -> str:
    """Card text whose Python blocks load `repo_id` instead of a local folder or a placeholder.

    What somebody wrote below the line that ends a written card stays as it is.
    """
    written, end, own = text.partition(END)

    def renamed(block: re.Match[str]) -> str:
        pattern = r'(from_pretrained\(|load_dataset\(|pipeline\("[\w-]+", model=)"[^"\n]*"'
        return re.sub(pattern, lambda call: f'{call.group(1)}"{repo_id}"', block.group(0))

    return re.sub(r"^```python\n.*?^```", renamed, written, flags=re.DOTALL | re.MULTILINE) + end + own


def _make_repo(api: Any, repo_id: str, repo_type: str, options: PushOptions) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        api.repo_info(repo_id, repo_type=repo_type)
        if options.public:
            api.update_repo_settings(repo_id, visibility="public", repo_type=repo_type)
    except RepositoryNotFoundError:
        sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
        api.create_repo(repo_id, repo_type=repo_type, private=not options.public, exist_ok=True, **sdk)
    if options.gated:
        api.update_repo_settings(repo_id, gated=options.gated, repo_type=repo_type)
    if options.revision != "main":
        api.create_branch(repo_id, branch=options.revision, repo_type=repo_type, exist_ok=True)


def _send(
    api: Any, folder: Path, files: dict[str, Path], repo_id: str, repo_type: str, options: PushOptions
) -> dict[str, int]:
    """Make the repository hold `files`, and prove it. Returns the counts of `Pushed`."""
    remote = steady(lambda: remote_files(api, repo_id, repo_type, options.revision), "reading the repository")
    extra = sorted(set(remote) - set(files) - SERVER_FILES)
    if extra and options.extra is None:
        raise UserError(
            f"{repo_id}: already holds {len(extra)} files that {folder} does not, for instance {extra[0]}; "
            "use another name, or say --extra keep or --extra delete"
        )
    deleted = extra if options.extra == "delete" else []
    changed = [name for name, file in files.items() if name not in remote or not same_content(file, remote[name])]
    if options.tag:
        steady(lambda: _check_tag(api, repo_id, repo_type, options, bool(changed or deleted)), "reading the tags")
    commits = _upload(api, repo_id, repo_type, options.revision, {name: files[name] for name in changed}, deleted)
    pulled_back = _verify(api, repo_id, repo_type, options.revision, files, changed)
    return {
        "sent": len(changed),
        "deleted": len(deleted),
        "unchanged": len(files) - len(changed),
        "commits": commits,
        "pulled_back": pulled_back,
    }


def _upload(
    api: Any, repo_id: str, repo_type: str, revision: str, changed: dict[str, Path], deleted: list[str]
) -> int:
    """Commit the changed files, up to 100 at a time, the card and deletions last. Returns the commits made."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from tqdm import tqdm

    names = sorted(changed, key=lambda name: (name == "README.md", name))
    batches = [names[start : start + FILES_PER_COMMIT] for start in range(0, len(names), FILES_PER_COMMIT)]
    if deleted and not batches:
        batches = [[]]
    bar = tqdm(total=len(names), desc=f"sending to {repo_id}", unit="file", disable=len(names) < 2)
    for number, batch in enumerate(batches, start=1):
        gone = deleted if number == len(batches) else []
        message = f"Upload {len(batch)} files" + (f", part {number} of {len(batches)}" if len(batches) > 1 else "")

        def commit(batch: list[str] = batch, gone: list[str] = gone, message: str = message) -> None:
            there = remote_files(api, repo_id, repo_type, revision) if gone else {}
            operations: list[Any] = [CommitOperationAdd(name, changed[name]) for name in batch]
            operations += [CommitOperationDelete(name) for name in gone if name in there]
            if operations:
                api.create_commit(
                    repo_id, operations, commit_message=message, repo_type=repo_type, revision=revision, num_threads=4
                )

        steady(commit, f"sending files to {repo_id}")
        bar.update(len(batch))
    bar.close()
    return len(batches)


def _verify(api: Any, repo_id: str, repo_type: str, revision: str, files: dict[str, Path], changed: list[str]) -> int:
    """Compare every file with the hash that the repository states, and pull back a sample of the sent ones.

    Returns:
        how many were pulled back: at most 24, evenly over the names, smallest first, while they fit into 256 MiB.
    """
    remote = steady(lambda: remote_files(api, repo_id, repo_type, revision), "reading the repository")
    wrong = [name for name, file in files.items() if name not in remote or not same_content(file, remote[name])]
    budget = PULL_BACK_BYTES
    pulled = 0
    sample = changed[:: -(-len(changed) // PULL_BACK_FILES) or 1]
    with tempfile.TemporaryDirectory(prefix="biovfm-push-") as place:
        for name in sorted(sample, key=lambda name: files[name].stat().st_size):
            budget -= files[name].stat().st_size
            if budget < 0:
                break
            got = steady(partial(_pull, api, repo_id, repo_type, revision, name, place), f"reading {name} back")
            if sha256_of(got) != sha256_of(files[name]):
                wrong.append(name)
            pulled += 1
    if wrong:
        raise UserError(f"{repo_id}: {len(wrong)} files differ after the upload, for instance {wrong[0]}; push again")
    return pulled


def _pull(api: Any, repo_id: str, repo_type: str, revision: str, name: str, place: str) -> Path:
    return Path(
        api.hf_hub_download(
            repo_id, name, repo_type=repo_type, revision=revision, local_dir=place, force_download=True
        )
    )


def _check_tag(api: Any, repo_id: str, repo_type: str, options: PushOptions, changes: bool) -> None:
    """Refuse a tag that already names something else than what the repository will hold, before anything is sent."""
    refs = api.list_repo_refs(repo_id, repo_type=repo_type)
    tagged = next((tag.target_commit for tag in refs.tags if tag.name == options.tag), None)
    head = next((branch.target_commit for branch in refs.branches if branch.name == options.revision), None)
    if tagged is not None and (changes or tagged != head):
        raise UserError(f"{repo_id}: the tag {options.tag} already names another commit; choose another tag")


def _make_tag(api: Any, repo_id: str, repo_type: str, options: PushOptions) -> None:
    api.create_tag(repo_id, tag=options.tag, revision=options.revision, repo_type=repo_type, exist_ok=True)


def _add_to_collection(api: Any, repo_id: str, repo_type: str, options: PushOptions) -> None:
    title = str(options.collection)
    slug = title
    if not re.fullmatch(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}", title):
        owner = repo_id.split("/")[0]
        slug = api.create_collection(title, namespace=owner, private=not options.public, exists_ok=True).slug
    api.add_collection_item(slug, item_id=repo_id, item_type=repo_type, exists_ok=True)


def main(argv: list[str]) -> int:
    """`biovfm push`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="biovfm push",
        description="Send a model, dataset or demo folder to the Hub, private unless you say --public. Only files "
        "that the repository does not hold yet are sent; afterwards every hash is compared. The usage lines of the "
        "card are made to name the repository.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = parse_options(parser, PushOptions, argv)
    done = push(options)
    commits = "1 commit" if done.commits == 1 else f"{done.commits} commits"
    files = "1 file" if done.sent == 1 else f"{done.sent} files"
    print(
        f"{options.repo_id} ({'private' if done.private else 'public'}): {files} sent in {commits}, "
        f"{done.unchanged} were there, {done.deleted} deleted; all hashes agree, {done.pulled_back} files pulled back "
        "and compared"
    )
    if done.repo_type in NEXT:
        print("next: " + NEXT[done.repo_type].format(options.repo_id))
    return 0
