"""Decoder of videos: frames in order of time, upright, with the shape of their pixels."""

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..errors import TooLarge, UserError, require
from ..intensity import Pixels
from ..volumes import believable
from .content import Pages, Source

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv")
MAX_DECODED = 500_000  # frames of one video


class Frame(NamedTuple):
    """One frame: its number from 0, its seconds from the start, and how to turn it into pixels."""

    number: int
    seconds: float
    frame: Any
    pixel_ratio: float  # the width of a pixel over its height

    def pixels(self) -> Pixels:
        """RGB as a player shows it: turned by the stream's rotation, with the stream's shape of pixels.

        Videos of over 8 bits keep all levels: colour from 0 to 65535, grey stretched as in other files.
        """
        kind = self.frame.format
        deep = any(component.bits > 8 for component in kind.components)
        grey = deep and len(kind.components) == 1
        turns = round((getattr(self.frame, "rotation", 0) or 0) / 90) % 4
        array = self.frame.to_ndarray(format="gray16le" if grey else "rgb48le" if deep else "rgb24")
        ratio = self.pixel_ratio
        return Pixels(
            np.ascontiguousarray(np.rot90(array, turns)),
            window=(0.0, 65535.0) if deep and not grey else None,
            spacing=believable((ratio, 1.0) if turns % 2 else (1.0, ratio)),
        )


def frames(source: Source) -> Generator[Frame, None, None]:
    """Yield the frames of the first video stream. A frame without a time stamp is placed by the average rate.

    Raises:
        UserError: not a video, damaged (frames already yielded are sound), or over the limits.
    """
    av = require("av", "data")
    number = -1
    try:
        with av.open(source.file, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UserError(f"{source.name}: holds no video stream; leave it out")
            stream = container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > source.max_pixels:
                size = f"{stream.codec_context.width} x {stream.codec_context.height}"
                raise TooLarge(f"{source.name}: frames of {size} are over the limit; scale it down")
            stream.thread_type = "NONE"  # the workers are the parallelism
            rate = float(stream.average_rate or 25)
            ratio = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
            for number, frame in enumerate(container.decode(stream)):
                if number >= MAX_DECODED:
                    raise TooLarge(f"{source.name}: more than {number} frames; those before are kept")
                seconds = float(frame.time) if frame.time is not None else number / rate
                yield Frame(number, seconds, frame, ratio)
    except (av.FFmpegError, ValueError, OSError) as error:
        place = f"damaged after frame {number}" if number >= 0 else "not a readable video"
        raise UserError(f"{source.name}: {place} ({type(error).__name__}); fetch it again") from error
    if number < 0:
        raise UserError(f"{source.name}: holds no frame; leave it out")


def read_video(source: Source) -> Pages:
    """Open a video for one frame at a time; reaching frame n decodes those before it.

    Raises:
        UserError: see `frames`.
    """
    with closing(frames(source)) as opened:
        next(opened)  # a file that is not a video is refused here
    source.file.seek(0)
    count = _count(source)
    source.file.seek(0)

    def page(number: int) -> Pixels:
        source.file.seek(0)
        with closing(frames(source)) as again:
            frame = next(islice(again, number, None), None)
            if frame is None:
                raise UserError(f"{source.name}: has no frame {number}; choose a smaller slice_index")
            return frame.pixels()

    return Pages(count, page, "frame")


def _count(source: Source) -> int:
    """How many frames the first video stream has, from its container, or by counting its packets."""
    with require("av", "data").open(source.file, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        count = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        return max(1, min(count, MAX_DECODED))


def is_video(name: str) -> bool:
    """Whether a file is named like a video."""
    return name.lower().endswith(SUFFIXES)
