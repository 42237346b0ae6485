"""A Hub repository: creates, writes, tags and collects it, with retries of every call."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import RepositoryNotFoundError

from biovfm_hf.errors import UserError
from biovfm_hf.hub.calls import steady

from .files import RemoteFile, remote_files


@dataclass(frozen=True)
class Repository:
    """A repository of kind "model", "dataset" or "space" at one branch. `api` is a `huggingface_hub.HfApi`."""

    api: Any
    repo_id: str
    kind: str
    revision: str = "main"

    def make(self, public: bool, gated: str | None) -> None:
        """Create the repository and its branch if they are missing, and set who may read it."""
        steady(lambda: self._make(public, gated), "creating the repository")

    def _make(self, public: bool, gated: str | None) -> None:
        try:
            self.api.repo_info(self.repo_id, repo_type=self.kind)
            if public:
                self.api.update_repo_settings(self.repo_id, visibility="public", repo_type=self.kind)
        except RepositoryNotFoundError:
            sdk = {"space_sdk": "gradio"} if self.kind == "space" else {}
            self.api.create_repo(self.repo_id, repo_type=self.kind, private=not public, exist_ok=True, **sdk)
        if gated:
            self.api.update_repo_settings(self.repo_id, gated=gated, repo_type=self.kind)
        if self.revision != "main":
            self.api.create_branch(self.repo_id, branch=self.revision, repo_type=self.kind, exist_ok=True)

    def is_private(self) -> bool:
        """Whether only its owner sees it."""
        info = steady(lambda: self.api.repo_info(self.repo_id, repo_type=self.kind), "reading the settings")
        return bool(info.private)

    def files(self) -> dict[str, RemoteFile]:
        """The files of the branch."""
        return steady(lambda: remote_files(self.api, self.repo_id, self.kind, self.revision), "reading the repository")

    def commit(self, message: str, added: dict[str, Path], deleted: list[str]) -> None:
        """One commit of files to add and names to delete; missing names are skipped."""
        steady(lambda: self._commit(message, added, deleted), f"sending files to {self.repo_id}")

    def _commit(self, message: str, added: dict[str, Path], deleted: list[str]) -> None:
        present = remote_files(self.api, self.repo_id, self.kind, self.revision) if deleted else {}
        operations: list[Any] = [CommitOperationAdd(name, file) for name, file in added.items()]
        operations += [CommitOperationDelete(name) for name in deleted if name in present]
        if operations:
            place = {"repo_type": self.kind, "revision": self.revision}
            self.api.create_commit(self.repo_id, operations, commit_message=message, num_threads=4, **place)

    def download(self, name: str, folder: Path) -> Path:
        """A fresh copy of a file of the branch."""
        place = {"repo_type": self.kind, "revision": self.revision}
        return Path(self.api.hf_hub_download(self.repo_id, name, local_dir=folder, force_download=True, **place))

    def check_tag(self, tag: str, changes: bool) -> None:
        """Refuse a tag that already names another state than the branch will have; `changes`: the branch will change.

        Raises:
            UserError: the tag is taken.
        """
        refs = steady(lambda: self.api.list_repo_refs(self.repo_id, repo_type=self.kind), "reading the tags")
        tagged = next((ref.target_commit for ref in refs.tags if ref.name == tag), None)
        head = next((ref.target_commit for ref in refs.branches if ref.name == self.revision), None)
        if tagged is not None and (changes or tagged != head):
            raise UserError(f"{self.repo_id}: the tag {tag} already names another commit; choose another tag")

    def tag(self, tag: str) -> None:
        """Give the branch's newest commit a tag."""
        options = {"tag": tag, "revision": self.revision, "repo_type": self.kind, "exist_ok": True}
        steady(lambda: self.api.create_tag(self.repo_id, **options), "tagging")

    def collect(self, collection: str, private: bool) -> None:
        """Add the repository to a collection of its owner, by title or slug; a missing one is created."""
        steady(lambda: self._collect(collection, private), "adding to the collection")

    def _collect(self, collection: str, private: bool) -> None:
        slug = collection
        if not re.fullmatch(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}", collection):
            owner = self.repo_id.split("/")[0]
            slug = self.api.create_collection(collection, namespace=owner, private=private, exists_ok=True).slug
        self.api.add_collection_item(slug, item_id=self.repo_id, item_type=self.kind, exists_ok=True)
