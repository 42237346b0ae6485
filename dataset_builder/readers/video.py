"""Reader of MP4, AVI and other videos: frames at a given rate."""

from collections.abc import Iterator
from math import floor
from pathlib import Path

from biovfm_hf.decoding.content import Source
from biovfm_hf.decoding.video import frames

from ..limits import MAX_FRAMES, TOO_LARGE, Refused
from .intensity import Setting, mapped
from .picture import Picture, opening

DEFAULT_FPS = 1.0  # frames per second of video if the record states no rate


def read(source: Path | bytes, name: str, setting: Setting, fps: float | None) -> Iterator[Picture]:
    """Yield the first frame at or after each multiple of 1 / `fps` seconds; `index` is the frame's number.

    Raises:
        UserError, Refused: not a video, damaged before its first frame, or over the limits.
    """
    fps, due, taken = fps or DEFAULT_FPS, 0, 0
    with opening(source)() as file:
        for frame in frames(Source(file, name)):
            ticks = floor(frame.seconds * fps + 1e-6)
            if ticks < due:
                continue
            if taken >= MAX_FRAMES:
                raise Refused(TOO_LARGE, f"more than {frame.number} frames; those before are kept")
            due, taken = ticks + 1, taken + 1
            pixels = frame.pixels()
            rows, columns = pixels.array.shape[:2]
            yield Picture(mapped(pixels, setting), "frame", frame.number, pixels.spacing, columns, rows)
