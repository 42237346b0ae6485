"""Decoder of TIFF files of any dtype: pages, or the levels of a pyramid."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

from ..errors import TooLarge, UserError, require
from ..intensity import Pixels
from ..pictures import as_pixels, check_size, coloured, oriented, page_of, reason
from .bounds import check_image, check_tiff_page
from .content import Pages, Source, one_picture

_DEPTH = 32997  # the tag ImageDepth, which Pillow does not name
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_OTHER_COLOURS = {5: "CMYK", 8: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab"}
_TO_RGB = (6, 7)  # JPEG: its decoder gives RGB
_PALETTE, _YCBCR = 3, 6  # photometric interpretations
_IMAGEJ = "ImageJ="  # ImageJ's descriptions begin with it
_PLANES = 2  # planar configuration
_MAX_LEVELS = 32
_BIG_STARTS = (b"II+\0", b"MM\0+")
_STARTS = (b"II*\0", b"MM\0*", *_BIG_STARTS)


def is_tiff(start: bytes) -> bool:
    """Whether a file that begins with `start` is TIFF or BigTIFF."""
    return start[:4] in _STARTS


def read_tiff(source: Source) -> Pages:
    """Open a TIFF: its pages, or the smallest sufficient level of a pyramid.

    Pillow decodes files of which it keeps all bits, and they are most; tifffile decodes the others, such as colour of
    over 8 bits.

    Raises:
        UserError: damaged, or over `source.max_pixels`.
    """
    if (plain := _plain(source)) is not None:
        return plain
    tiff = _Tiff(source)
    if (one_picture_or_stack := tiff.level() or tiff.stack()) is not None:
        return one_picture_or_stack
    return Pages(tiff.count, tiff.page, "page")


def _plain(source: Source) -> Pages | None:
    """Fast path for the commonest TIFF: one page of which Pillow keeps all bits; None for others."""
    if source.file.read(4) in _BIG_STARTS:  # Pillow skips tags of types that only BigTIFF has
        source.file.seek(0)
        return None
    source.file.seek(0)
    try:
        image = Image.open(source.file, formats=("TIFF",))
        tags = image.tag_v2  # type: ignore[attr-defined]
        deepest = 16 if tags.get(Tag.SamplesPerPixel, 1) == 1 else 8
        bits, kind = (np.max(tags.get(tag, 1)) for tag in (Tag.BitsPerSample, Tag.SampleFormat))
        stack = tags.get(_DEPTH, 1) > 1 or str(tags.get(Tag.ImageDescription)).startswith(_IMAGEJ)
        several = stack or Tag.SubIFDs in tags or getattr(image, "n_frames", 1) > 1
        palette = tags.get(Tag.PhotometricInterpretation) == _PALETTE
        if bits > deepest or kind != _UNSIGNED or several or palette:
            return None
    except Exception:  # the general path reports what is wrong
        return None
    finally:
        source.file.seek(0)
    check_size(image.size, source.name, source.max_pixels)
    check_image(image, source.name)
    try:
        return one_picture(page_of(image, None, source.name, source.max_pixels))
    except TooLarge:
        raise
    except UserError:
        source.file.seek(0)
        return None


class _Tiff:
    """A TIFF opened by tifffile, and by Pillow if it can."""

    def __init__(self, source: Source) -> None:
        self._source = source
        try:
            self._tiff = require("tifffile", "data").TiffFile(source.file)
            self.count = len(self._tiff.pages)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # tifffile raises nearly every type on damaged files
            raise _damaged(source, error) from error
        source.file.seek(0)
        try:
            self._image: Any = Image.open(source.file, formats=("TIFF",))
        except Image.DecompressionBombError:
            self._image = None  # a level of a pyramid may serve
        except Exception:  # only tifffile reads it
            self._image = None

    def page(self, number: int) -> Pixels | None:
        """Decode one page; None if its size differs from the first's, as a thumbnail's does."""
        first, chosen = (self._frame(n) for n in (0, number))
        if number and (first.imagewidth, first.imagelength) != (chosen.imagewidth, chosen.imagelength):
            return None
        _check(chosen, self._source)
        if self._image is None or not _pillow_keeps_all_bits(chosen):
            return self._by_tifffile(chosen)
        try:
            pixels = page_of(self._image, number, self._source.name, self._source.max_pixels)
        except UserError:
            return self._by_tifffile(chosen)
        dtype = _stored_dtype(chosen)
        return pixels if pixels is None or dtype is None else _viewed(pixels, dtype)

    def level(self) -> Pages | None:
        """The smallest sufficient level of a pyramid; None if there is none, or if it is the first page.

        Channels and slices may be pyramids of their own: each page with levels below it is a picture.
        """
        first = self._frame(0)
        if not self._smaller(first):
            return None
        pages = [page for number in range(self.count) if _has_levels(page := self._frame(number), first)]
        if len(pages) > 1:
            return Pages(len(pages), lambda number: self._decoded(self._smallest_sufficient(pages[number])), "page")
        chosen = self._smallest_sufficient(first)
        if chosen is first and self.count == 1:
            return None
        return one_picture(self._decoded(chosen), _size(first))

    def _smallest_sufficient(self, page: Any) -> Any:
        """The page itself or its smallest level that suffices."""
        source, levels = self._source, [page, *self._smaller(page)]
        fitting = [page for page in levels if page.imagewidth * page.imagelength <= source.max_pixels]
        side = source.shorter_side
        serving = [page for page in fitting if side and min(page.imagewidth, page.imagelength) >= side]
        return min(serving, key=_pixels) if serving else max(fitting, key=_pixels, default=page)

    def stack(self) -> Pages | None:
        """Pictures stored in the single page of a file; None if there are none.

        ImageJ writes a stack of over 4 GB as the first picture's page followed by all others. A page of tiles can have
        a depth.
        """
        first = self._frame(0)
        if self.count > 1:
            return None
        if first.imagedepth > 1:
            _check(first, self._source)
            return Pages(first.imagedepth, self._deep_page, "page", in_memory=True)
        count = int((self._tiff.imagej_metadata or {}).get("images", 1)) if self._tiff.is_imagej else 1
        if count < 2 or first.compression != 1 or first.is_tiled or first.dtype is None:
            return None
        size = first.imagewidth * first.imagelength * first.samplesperpixel * first.dtype.itemsize
        if first.dataoffsets[0] + 2 * size > self._source.file.seek(0, 2):
            return None
        _check(first, self._source)
        return Pages(count, lambda number: self._behind(first, number, size), "page")

    def _behind(self, first: Any, number: int, size: int) -> Pixels:
        source = self._source
        source.file.seek(first.dataoffsets[0] + number * size)
        data = source.file.read(size)
        if len(data) < size:
            raise UserError(f"{source.name}: ends before its page {number}; fetch the file again")
        array = np.frombuffer(data, first.dtype.newbyteorder(self._tiff.byteorder))
        shape = (first.imagelength, first.imagewidth, first.samplesperpixel)
        planes = shape[2] > 1 and int(first.planarconfig) == _PLANES
        array = np.moveaxis(array.reshape(shape[2:] + shape[:2]), 0, -1) if planes else array.reshape(shape)
        return _finished(array, first, source.name, 1)

    @cached_property
    def _depth(self) -> np.ndarray:
        try:
            return np.asarray(self._frame(0).asarray())
        except MemoryError:
            raise
        except Exception as error:
            raise _damaged(self._source, error) from error

    def _deep_page(self, number: int) -> Pixels:
        return _finished(self._depth[number], self._frame(0), self._source.name, 1)

    def _decoded(self, page: Any) -> Pixels:
        number = next((n for n in range(self.count) if self._frame(n) is page), None)
        if number is None or self._image is None or not _pillow_keeps_all_bits(page):
            return self._by_tifffile(page)
        self._image.seek(number)
        return page_of(self._image, None, self._source.name, self._source.max_pixels)

    def _smaller(self, first: Any) -> list[Any]:
        """Smaller copies of the first page: its sub-pages, or later pages with its proportions."""
        copies = list(first.pages or [])[:_MAX_LEVELS] if getattr(first, "subifds", None) else []
        others = [self._frame(number) for number in range(1, min(self.count, _MAX_LEVELS))]
        sizes = {_size(page) for page in others}
        if _size(first) not in sizes and len(sizes) == len(others):
            copies += [page for page in others if _pixels(page) < _pixels(first) and _same_proportions(page, first)]
        return [page for page in copies if page.samplesperpixel == first.samplesperpixel]

    def _frame(self, number: int) -> Any:
        if not 0 <= number < self.count:
            raise UserError(f"{self._source.name}: has no page {number}; choose one from 0 to {self.count - 1}")
        try:
            return self._tiff.pages.get(number, validate=False) if number else self._tiff.pages[0]
        except MemoryError:
            raise
        except Exception as error:
            raise _damaged(self._source, error) from error

    def _by_tifffile(self, page: Any) -> Pixels:
        source = self._source
        _check(page, source)
        photometric = _tag(page, Tag.PhotometricInterpretation, 1)
        if (colours := _OTHER_COLOURS.get(photometric)) and page.compression not in _TO_RGB:
            raise UserError(f"{source.name}: its colours are {colours}; convert it to RGB")
        if page.samplesperpixel > 4:
            raise UserError(f"{source.name}: has {page.samplesperpixel} channels; save the one or three to be shown")
        if photometric == _YCBCR and page.compression not in _TO_RGB:
            return self._by_opencv(page)
        try:
            array = page.asarray()
            if photometric == _PALETTE:
                return coloured(oriented(array, _tag(page, Tag.Orientation, 1)), np.asarray(page.colormap))
            if "S" in page.axes:
                array = np.moveaxis(array, page.axes.index("S"), -1)
        except MemoryError:
            raise
        except Exception as error:  # tifffile raises nearly every type on damaged files
            raise _damaged(source, error) from error
        if array.ndim == 3 and array.shape[-1] == 2:
            array = array[..., 0]  # grey and alpha
        return _finished(array, page, source.name, _tag(page, Tag.Orientation, 1))

    def _by_opencv(self, page: Any) -> Pixels:
        """YCbCr that is not JPEG: libtiff converts and turns it."""
        source, cv2 = self._source, require("cv2", "data")
        data, at = np.frombuffer(source.whole(), np.uint8), int(page.index)
        _, pictures = cv2.imdecodemulti(data, cv2.IMREAD_COLOR, range=(at, at + 1))
        if not pictures:
            raise UserError(f"{source.name}: its colours are YCbCr of a kind that is not read; convert it to RGB")
        return as_pixels(np.ascontiguousarray(pictures[0][..., ::-1]), "last", source.name)


def _finished(array: np.ndarray, page: Any, name: str, orientation: int) -> Pixels:
    bits = int(np.max(_tag(page, Tag.BitsPerSample, 1)))
    if array.dtype == np.uint8 and bits < 8:  # scaled to 0 to 255, as Pillow does
        array = np.rint(array * (255 / ((1 << bits) - 1))).astype(np.uint8)
    pixels = as_pixels(oriented(np.ascontiguousarray(array), orientation), "last", name)
    return replace(pixels, inverted=_tag(page, Tag.PhotometricInterpretation, 1) == 0)


def _pillow_keeps_all_bits(page: Any) -> bool:
    """Whether Pillow keeps all bits of a page: it swaps bytes of big-endian numbers twice if libtiff unpacked them."""
    bits, kind = np.atleast_1d(_tag(page, Tag.BitsPerSample, 1)), _tag(page, Tag.SampleFormat, 1)
    colours = _tag(page, Tag.PhotometricInterpretation, 1)
    if colours == _PALETTE or (colours == _YCBCR and page.compression == 1):
        return False
    if page.samplesperpixel > 1:
        return int(bits.max()) <= 8 and kind == _UNSIGNED
    swapped = page.parent.byteorder == ">" and page.compression != 1 and kind != _UNSIGNED and bits.max() > 8
    return int(bits.max()) in (1, 2, 4, 8, 16, 32) and kind in (_UNSIGNED, _SIGNED, _FLOAT) and not swapped


def _stored_dtype(page: Any) -> str | None:
    """The dtype of a page's bits if Pillow reads them as other numbers."""
    kind, bits = _tag(page, Tag.SampleFormat, 1), int(np.max(_tag(page, Tag.BitsPerSample, 1)))
    return {(_SIGNED, 8): "i1", (1, 32): "u4"}.get((kind, bits))


def _viewed(pixels: Pixels, dtype: str) -> Pixels:
    return replace(pixels, array=pixels.array.view(dtype))


def _tag(page: Any, code: int, default: int) -> Any:
    tag = page.tags.get(code)
    value = default if tag is None else tag.value
    return int(value[0]) if isinstance(value, tuple) and value else value


def _check(page: Any, source: Source) -> None:
    check_size((page.imagewidth, page.imagelength * page.imagedepth), source.name, source.max_pixels)
    check_tiff_page(page, source.name)


def _size(page: Any) -> tuple[int, int]:
    return int(page.imagewidth), int(page.imagelength)


def _pixels(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _has_levels(page: Any, first: Any) -> bool:
    return bool(getattr(page, "subifds", None)) and _size(page) == _size(first)


def _same_proportions(page: Any, first: Any) -> bool:
    ratio = (page.imagewidth / page.imagelength) / (first.imagewidth / first.imagelength)
    return abs(ratio - 1) < 0.02


def _damaged(source: Source, error: Exception) -> UserError:
    return UserError(f"{source.name}: not a readable TIFF ({reason(error)}); check or fetch the file again")
