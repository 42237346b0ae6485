"""Calls to the Hub: retried on passing failures, with refusals explained without secrets."""

import importlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import UserError, one_line
from .retries import is_passing_status, retried

Answer = TypeVar("Answer")


def hub_api() -> Any:
    """A `huggingface_hub.HfApi` that names this package to the Hub."""
    from huggingface_hub import HfApi

    return HfApi(library_name="biovfm-hf")


def signed_in() -> Any:
    """`hub_api` with this machine's token.

    Raises:
        UserError: there is none.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("no Hub token on this machine; sign in with: hf auth login (or set HF_TOKEN)")
    return hub_api()


def steady(work: Callable[[], Answer], doing: str) -> Answer:
    """Do `work`, retried after a pause if Hub or network fails for a moment; refusals become messages for the user.

    Raises:
        UserError: refused, or still failing after five attempts.
    """
    http = _http_library()
    try:
        return retried(work, _passing)
    except UserError:
        raise
    except (http.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(_explained(error, doing)) from None


def _http_library() -> Any:
    """The HTTP client that this huggingface_hub is built on: httpx, or httpx2 since 2.0."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__.split(".")[0])


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, looking through the errors that caused it."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _passing(error: BaseException) -> bool:
    if isinstance(error, UserError):
        return False
    status = _status(error)
    if status is not None:
        return is_passing_status(status)
    http = _http_library()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (http.TransportError, ConnectionError)):
            return True
        cause = cause.__cause__
    return False


def _explained(error: Exception, doing: str) -> str:
    advice = {
        401: "the token is missing or not valid; sign in with: hf auth login",
        403: "the token may not write there; use one with write access to that owner, or another name",
        404: "there is no such owner or repository for this token; check OWNER/NAME",
        413: "a file is larger than the Hub accepts; write smaller shards",
        429: "the Hub is limiting the rate; run the same command again in some minutes, it resumes",
    }
    status = _status(error)
    reason = mask_tokens(one_line(error))
    if status is None:
        hint = (
            "check the network and run the same command again, it resumes"
            if _passing(error)
            else "fix it and push again"
        )
        return f"{doing} failed ({reason}); {hint}"
    hint = advice.get(status, "run the same command again, it resumes" if status >= 500 else "fix it and push again")
    return f"{doing} failed with status {status} ({reason}); {hint}"


def mask_tokens(text: str) -> str:
    """`text` without Hub tokens, authorisation headers or signatures in addresses."""
    text = re.sub(r"hf_\w{4,}", "hf_***", text)
    text = re.sub(r"(?i)(bearer|basic)\s+[\w.~+/=-]+", r"\1 ***", text)
    return re.sub(r"(?i)((?:signature|token|credential|key)[\w-]*=)[^&\s]+", r"\1***", text)
