"""What an input may cost before it is refused: the bounds that keep a worker's memory and time in hand."""

import re

from biovfm_hf.decoding.content import NO_PICTURE
from biovfm_hf.errors import NoPicture, TooLarge, UnsafePath, UserError

MAX_VOLUME_BYTES = 640 * 2**20  # one decoded volume; 512 x 512 x 1000 voxels of 16 bits are 500 MiB
MAX_MEMBER_BYTES = 512 * 2**20  # one member of an archive, inflated, and one file that a decoder needs in memory
MAX_RATIO = 1032  # inflated bytes per compressed byte: more than deflate can do is a lie
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
)  # suffixes of what is looked into

UNREADABLE, TOO_LARGE, UNSAFE = "unreadable", "too large", "unsafe path"
CRASHED, STALLED, CHANGED = "crashed the decoder", "timed out", "changed while building"


class Refused(Exception):
    """An input that leaves one line in the manifest: `outcome` is one of fixed reasons, `detail` what was found."""

    def __init__(self, outcome: str, detail: str = ""):
        super().__init__(f"{outcome}: {detail}" if detail else outcome)
        self.outcome = outcome
        self.detail = " ".join(detail.split())[:300]

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, str]]:
        return Refused, (self.outcome, self.detail)  # across processes with both its parts


def refusal(error: BaseException, *names: str) -> Refused:
    """What a decoder's exception means for the manifest; `names` (paths) are taken out of the message."""
    if isinstance(error, Refused):
        return error
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without the path on this disk
        text = error.strerror
    text = re.sub(r"<_io\.[^>]*>| at 0x[0-9a-f]+", "", text)  # of this run alone
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
