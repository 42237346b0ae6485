"""MP4, AVI and other videos: frames at a stated rate."""

from collections.abc import Iterator
from io import BytesIO
from math import floor
from pathlib import Path
from typing import Any

from biovfm_hf.errors import require
from biovfm_hf.pixels import Pixels

from ..limits import MAX_FRAMES, MAX_PIXELS, TOO_LARGE, UNREADABLE, Refused
from .intensity import Setting, image_to_uint8
from .picture import Picture, whole

DEFAULT_FPS = 1.0  # frames taken per second of video where the record states no rate
MAX_DECODED = 500_000  # frames decoded of one video, taken or not


def read(source: Path | bytes, setting: Setting, fps: float | None) -> Iterator[Picture]:
    """Yield the first frame at or after each multiple of 1 / `fps` seconds; `index` is the frame's number.

    Only the first video stream is read. A frame without a time stamp counts by the stream's average rate.

    Raises:
        Refused: not a video, damaged before its first frame, or over the limits.
    """
    av = require("av", "data")
    fps = fps or DEFAULT_FPS
    try:
        container = av.open(BytesIO(source) if isinstance(source, bytes) else str(source), metadata_errors="ignore")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise Refused(UNREADABLE, f"not a video ({type(error).__name__})") from error
    with container:
        if not container.streams.video:
            raise Refused(UNREADABLE, "holds no video stream")
        stream = container.streams.video[0]
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise Refused(TOO_LARGE, f"frames of {stream.codec_context.width} x {stream.codec_context.height}")
        stream.thread_type = "NONE"  # the workers are the parallelism
        yield from _sampled(av, container, stream, setting, fps)


def _sampled(av: Any, container: Any, stream: Any, setting: Setting, fps: float) -> Iterator[Picture]:
    rate = float(stream.average_rate or 25)
    due, taken, number = 0, 0, -1
    try:
        for number, frame in enumerate(container.decode(stream)):
            if number >= MAX_DECODED or taken >= MAX_FRAMES:
                raise Refused(TOO_LARGE, f"more than {number} frames; those before are kept")
            seconds = float(frame.time) if frame.time is not None else number / rate
            ticks = floor(seconds * fps + 1e-6)
            if ticks < due:
                continue
            due = ticks + 1
            taken += 1
            yield whole(image_to_uint8(Pixels(frame.to_ndarray(format="rgb24")), setting), "frame", number)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise Refused(UNREADABLE, f"damaged after frame {number} ({type(error).__name__})") from error
    if number < 0:
        raise Refused(UNREADABLE, "holds no frame")
