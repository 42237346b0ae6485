"""Embeds pictures in one HTML file: decoded within bounds, reduced, and counted against the file's size."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.Image import DecompressionBombError

from biovfm_hf.errors import UserError
from biovfm_hf.pictures import check_size

MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Picture:
    """A picture ready for an <img>: data URI, shown size in pixels, alternative text, caption.

    `is_chart`: it shows no image of a patient, so that dark pages may show it on dark paper.
    """

    src: str
    width: int
    height: int
    alt: str
    caption: str = ""
    is_chart: bool = False


class PictureStore:
    """Turns pictures into data URIs until `budget` bytes are used; `left_out` names the others and why."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.left_out: list[str] = []

    def add(
        self,
        source: Path | bytes,
        alt: str,
        max_side: int,
        caption: str = "",
        drawn: bool = False,
        is_chart: bool = False,
    ) -> Picture | None:
        """Decode a picture, reduce its longer side to `max_side` pixels, and encode it as WebP.

        Args:
            source: a file or an encoded image; PNG, JPEG, WebP, TIFF or BMP of at most 50 million pixels.
            alt: what a screen reader says.
            max_side: in pixels.
            caption: shown below, if any.
            drawn: drawn by a program: kept lossless while it stays small.
            is_chart: see `Picture`.

        Returns:
            the picture, or None with the reason in `left_out`.
        """
        name = source.name if isinstance(source, Path) else alt
        try:
            encoded, width, height = _encoded(source, max_side, drawn)
        except (UserError, OSError, ValueError, SyntaxError, MemoryError, DecompressionBombError) as error:
            self.left_out.append(f"{name}: {str(error) or type(error).__name__}")
            return None
        size = len(encoded) * 4 // 3
        if size > self.budget:
            self.left_out.append(f"{name}: left out to keep this file below 10 MB")
            return None
        self.budget -= size
        src = f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"
        return Picture(src, width, height, alt, caption, is_chart)


def _encoded(source: Path | bytes, max_side: int, drawn: bool) -> tuple[bytes, int, int]:
    if isinstance(source, Path):
        if source.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("file larger than 64 MiB")
        source = source.read_bytes()
    with Image.open(io.BytesIO(source), formats=("PNG", "JPEG", "WEBP", "TIFF", "BMP")) as image:
        check_size(image.size, "the picture", MAX_PIXELS)
        image.draft("RGB", (max_side, max_side))
        mode = "RGBA" if image.has_transparency_data else "RGB"
        picture = image.convert(mode)
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=drawn, quality=80, method=4)
    if drawn and buffer.tell() > 250_000:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=88, method=4)
    return buffer.getvalue(), picture.width, picture.height
