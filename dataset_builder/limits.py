"""Limits on an input, beyond which it is refused: they bound a worker's memory and time."""

import re

from biovfm_hf.decoding.content import NO_PICTURE
from biovfm_hf.errors import NoPicture, TooLarge, UnsafePath, UserError

MAX_VOLUME_BYTES = 640 * 2**20  # one decoded volume; 512 x 512 x 1000 voxels of 16 bits are 500 MiB
MAX_MEMBER_BYTES = 512 * 2**20  # one member of an archive, inflated, and one file that a decoder needs in memory
MAX_RATIO = 1032  # inflated bytes per compressed byte: deflate cannot do more, so larger claims are false
MAX_FRAMES = 20_000  # frames of one video or multi-frame DICOM, slices of one volume and view
MAX_PAGES = 1_000  # pages or frames of one TIFF or GIF
MAX_SERIES_FILES = 5_000  # files of one DICOM series

ARCHIVES = (
    ".zip",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.xz",
    ".txz",
    ".tar.bz2",
    ".tbz2",
)  # suffixes of containers, whose content is listed

UNREADABLE, TOO_LARGE, UNSAFE = "unreadable", "too large", "unsafe path"
CRASHED, STALLED, CHANGED = "crashed the decoder", "timed out", "changed while building"


class Refused(Exception):
    """A refused input, one line in the manifest: `outcome` is one of fixed reasons, `detail` explains it."""

    def __init__(self, outcome: str, detail: str = ""):
        super().__init__(f"{outcome}: {detail}" if detail else outcome)
        self.outcome = outcome
        self.detail = " ".join(detail.split())[:300]

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, str]]:
        return Refused, (self.outcome, self.detail)  # keeps both parts when pickled


def refusal(error: BaseException, *names: str) -> Refused:
    """Turn a decoder's exception into a line for the manifest; `names` (paths) are removed from the message."""
    if isinstance(error, Refused):
        return error
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without the path on this disk
        text = error.strerror
    text = re.sub(r"<_io\.[^>]*>| at 0x[0-9a-f]+", "", text)  # only meaningful in this run
    for name in filter(None, names):
        whole = rf"(?<!\w){re.escape(name)}(?:\.dcm)?(?!\w)"  # DICOM is decoded under this suffix whatever its name
        text = re.sub(whole, "the file", re.sub(f"{whole}: ", "", text))
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, UnsafePath | NoPicture):
        return Refused(UNSAFE if isinstance(error, UnsafePath) else NO_PICTURE, text)
    outcome = (
        TOO_LARGE if isinstance(error, MemoryError | TooLarge) or "limit" in text or "Bomb" in text else UNREADABLE
    )
    return Refused(outcome, text)
