"""Single files of repositories on the Hub."""

from pathlib import Path


def hub_file(repo_id: str, name: str, kind: str, revision: str | None = None) -> Path | None:
    """The file `name` of a Hub repository of `kind` (model or dataset), downloaded; None if it cannot be fetched."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repo_id, name, repo_type=kind, revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
