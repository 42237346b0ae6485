"""Every format of a source: right values and geometry, and one refusal for each damaged or hostile file."""

import bz2
import gzip
import io
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from biovfm_hf.decoding.identity_words import identity_words
from biovfm_hf.decoding.matlab import largest_array
from biovfm_hf.decoding.series import group_series
from biovfm_hf.decoding.slice_places import read_places
from biovfm_hf.decoding.stored import inflated, unbzipped
from biovfm_hf.errors import UserError
from dataset_builder import readers
from dataset_builder.item import Item
from dataset_builder.limits import MAX_MEMBER_BYTES, Refused, refusal
from dataset_builder.readers import members, png
from dataset_builder.readers.archives import list_members
from dataset_builder.readers.picture import Unread, opening
from dataset_builder.readers.slicing import VIEWS


def pictures(source: Path | bytes, kind: str = "image", size: int = 224, **fields) -> list:
    item = Item(path=str(fields.pop("name", source if isinstance(source, Path) else "x.png")), member=None, kind=kind)
    item = item._replace(**fields)
    return list(readers.read(source, item, Path("/"), VIEWS, size))


def refused(source: Path | bytes, **fields) -> Refused:
    with pytest.raises(Exception) as caught:
        pictures(source, **fields)
    assert isinstance(caught.value, Refused | UserError | OSError | ValueError | EOFError), caught.value
    return refusal(caught.value, str(source) if isinstance(source, Path) else "")


# --- raster


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "ppm", "tiff", "webp"])
def test_8_bit_rasters_are_untouched(tmp_path, make, suffix):
    array = make.picture(1, 40, 50)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path, **({"lossless": True} if suffix == "webp" else {}))
    (picture,) = pictures(path)
    shown = picture.pixels if picture.pixels.ndim == 2 else picture.pixels[..., 0]
    assert np.abs(shown.astype(int) - array).max() <= (2 if suffix == "webp" else 0)
    assert (picture.view, picture.index, picture.height, picture.width) == ("2d", None, 40, 50)


def test_16_bit_png_is_stretched_not_clipped(tmp_path):
    ramp = np.linspace(0, 60000, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    (picture,) = pictures(tmp_path / "a.png")
    assert picture.pixels.dtype == np.uint8
    assert np.percentile(picture.pixels, 50) == pytest.approx(127, abs=2)
    (windowed,) = pictures(tmp_path / "a.png", intensity={"window": [0, 30000]})
    assert (windowed.pixels[33:] == 255).all()
    (three,) = pictures(tmp_path / "a.png", intensity={"windows": [[0, 60000], [0, 30000], [30000, 60000]]})
    assert three.pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("colours", [None, 3])
@pytest.mark.parametrize("chunk", ["", "text", "exif", "transparency", "srgb"])
def test_png_gives_what_pillow_gives(make, colours, chunk):
    """OpenCV decodes plain files; Pillow decodes those with a chunk that may change the image."""
    array = (make.picture(5, 40, 50) if colours is None else make.picture(5, 40, 50, channels=3)).copy()
    array[:10] = 7
    text, turned = PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("Software", "a scanner")
    turned[0x0112] = 6
    words = {
        "text": {"pnginfo": text},
        "exif": {"exif": turned},
        "transparency": {"transparency": 7 if colours is None else (7, 7, 7)},
        "srgb": {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
    }
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **words.get(chunk, {}))
    assert (png.plain_png(buffer.getvalue()) is None) == (chunk in ("text", "exif", "transparency"))
    (picture,) = pictures(buffer.getvalue())
    shown = np.rot90(array, -1) if chunk == "exif" else array
    assert (picture.pixels == (shown if picture.pixels.ndim == shown.ndim else shown[..., None])).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_png_is_never_another_picture(data):
    """For damaged bytes, OpenCV gives the same image as Pillow, or none."""
    values = np.random.default_rng(0).integers(0, 30, (30, 40), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    changed = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(8, len(changed) - 1))] = data.draw(st.integers(0, 255))
    found = png.plain_png(bytes(changed))
    if found is not None:
        assert (found.array == np.asarray(Image.open(io.BytesIO(bytes(changed))))).all()


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path, make):
    array = make.picture(2, 1000, 1400, channels=3)
    Image.fromarray(array).save(tmp_path / "a.jpg", quality=95)
    (picture,) = pictures(tmp_path / "a.jpg", size=128)
    assert (picture.height, picture.width) == (1000, 1400)
    assert picture.pixels.shape[0] < 1000 and min(picture.pixels.shape[:2]) >= 256
    small = np.asarray(Image.fromarray(picture.pixels).resize((64, 64), Image.Resampling.BOX), float)
    full = np.asarray(Image.fromarray(array).resize((64, 64), Image.Resampling.BOX), float)
    assert 10 * np.log10(255**2 / ((small - full) ** 2).mean()) > 45


def test_exif_orientation_is_applied(tmp_path, make):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(make.picture(3, 40, 60)).save(tmp_path / "a.jpg", exif=exif)
    (picture,) = pictures(tmp_path / "a.jpg")
    assert picture.pixels.shape == (60, 40)
    assert (picture.height, picture.width) == (60, 40)


def test_pages_become_frames(tmp_path, make):
    pages = [Image.fromarray(make.picture(n, 30, 30)) for n in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=[*pages[1:], Image.new("L", (5, 5))])
    found = pictures(tmp_path / "a.tiff")
    assert [(p.view, p.index) for p in found] == [("frame", 0), ("frame", 1), ("frame", 2)]
    assert np.array_equal(found[2].pixels, np.asarray(pages[2]))
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], loop=0)
    assert len(pictures(tmp_path / "a.gif")) == 3


def test_an_endless_gif_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_builder.readers.files.MAX_PAGES", 4)
    frames = [Image.fromarray(np.full((30, 30), 20 * n, np.uint8)) for n in range(9)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], loop=0)
    seen = []
    with pytest.raises((Refused, UserError), match="too large"):
        for picture in readers.read(tmp_path / "a.gif", Item("a.gif", None, "image"), tmp_path, VIEWS, 32):
            seen.append(picture.index)
    assert seen == [0, 1, 2, 3]


def test_a_view_can_be_stated(tmp_path, make):
    make.png(tmp_path / "a.png", make.picture(1))
    assert pictures(tmp_path / "a.png", view="axial")[0].view == "axial"


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of data do not have."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = b"".join(
        (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        for chunk in (header, data, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        (b"", "unreadable"),
        (b"not an image at all", "unreadable"),
        (png_claiming(60_000, 60_000), "too large"),
        (png_claiming(10_000, 10_000), "too large"),
        (png_claiming(100, 100), "unreadable"),
        (b"\x1f\x8b" + b"garbage", "unreadable"),
    ],
)
def test_damaged_and_lying_rasters(source, outcome):
    assert refused(source).outcome == outcome


def test_a_truncated_image_is_refused(tmp_path, make):
    make.png(tmp_path / "a.png", make.picture(1, 300, 300))
    whole = (tmp_path / "a.png").read_bytes()
    assert refused(whole[: len(whole) * 2 // 3]).outcome == "unreadable"
    assert len(pictures(gzip.compress(whole))) == 1


# --- DICOM


def test_dicom_window_rescale_and_polarity(tmp_path, make):
    stored = np.linspace(0, 2000, 4096).astype(np.int16).reshape(64, 64)
    header = {"RescaleSlope": 1, "RescaleIntercept": -1000, "WindowCenter": 0, "WindowWidth": 1001}
    make.dicom(tmp_path / "a.dcm", stored, **header, PixelSpacing=[2.0, 1.0])
    (picture,) = pictures(tmp_path / "a.dcm")
    assert picture.spacing == (2.0, 1.0)
    assert picture.pixels[0, 0] == 0 and picture.pixels[-1, -1] == 255
    assert int(picture.pixels[32, 0]) == pytest.approx(127, abs=3)  # stored 1000 is 0 HU, the middle of the window
    (other,) = pictures(tmp_path / "a.dcm", intensity={"window": [-1000, 1000]})
    assert int(other.pixels[16, 0]) == pytest.approx(64, abs=2)
    make.dicom(tmp_path / "b.dcm", stored, **header, PhotometricInterpretation="MONOCHROME1")
    (inverted,) = pictures(tmp_path / "b.dcm")
    assert np.array_equal(inverted.pixels, 255 - picture.pixels)


def test_dicom_frames(tmp_path, make):
    frames = np.stack([make.picture(n, 32, 32) for n in range(3)])
    make.dicom(tmp_path / "a.dcm", frames, NumberOfFrames=3)
    found = pictures(tmp_path / "a.dcm")
    assert [(p.view, p.index) for p in found] == [("frame", 0), ("frame", 1), ("frame", 2)]
    assert np.array_equal(found[1].pixels, frames[1])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg2000_at_reduced_resolution_keeps_values(tmp_path, make, bits):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("openjpeg")
    smooth = make.picture(bits, 600, 800).astype(np.uint16)
    stored = (smooth.astype(np.float64) * ((2**bits - 1) / 255)).astype(np.uint8 if bits == 8 else np.uint16)
    make.dicom(tmp_path / "a.dcm", stored, BitsStored=bits, HighBit=bits - 1)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.compress(pydicom.uid.JPEG2000Lossless)
    dataset.save_as(tmp_path / "b.dcm")
    window = {"window": [0, 2**bits - 1]}
    (full,) = pictures(tmp_path / "b.dcm", size=800, intensity=window)
    (reduced,) = pictures(tmp_path / "b.dcm", size=64, intensity=window)
    assert full.pixels.shape == (600, 800)
    assert reduced.pixels.shape == (150, 200)
    assert (reduced.height, reduced.width) == (600, 800)
    expected = np.asarray(Image.fromarray(full.pixels).resize((200, 150), Image.Resampling.BOX), float)
    # The wavelet's low band is not a box average: levels agree to a few, and no bit depth is shifted.
    assert np.abs(reduced.pixels - expected).mean() < 2.5
    assert np.corrcoef(reduced.pixels.ravel(), expected.ravel())[0, 1] > 0.999


def test_a_dicom_series_is_a_volume(tmp_path, make, monkeypatch):
    unasked = []
    monkeypatch.setattr(f"{identity_words.__module__}.first_bytes", lambda *words: unasked.append(words))
    array = make.volume(5, (20, 26, 30))  # columns run to the left, rows to the back, slices to the head
    files = []
    for z in range(30):
        path = tmp_path / "series" / f"{z:03d}.dcm"
        header = {
            "ImagePositionPatient": [0, 0, 3.0 * z], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [1.0, 1.0], "RescaleSlope": 1, "RescaleIntercept": -10,
        }  # fmt: skip
        make.dicom(path, np.ascontiguousarray(array[:, :, z].T), **header)
        files.append(f"series/{z:03d}.dcm")
    item = Item("series", "0", "dicom_series", files=tuple(files), intensity={"window": [-10, 790]})
    found = list(readers.read(tmp_path / "series", item, tmp_path, VIEWS, 224))
    assert {p.view for p in found} == set(VIEWS)
    axial = [p for p in found if p.view == "axial"]
    assert len(axial) == 30
    # Columns run to the patient's left already, which a radiologist sees on the right: nothing is mirrored.
    expected = np.clip(array[:, :, 15].T / 800 * 255, 0, 255)
    assert np.abs(axial[15].pixels - expected).max() <= 1
    sagittal = next(p for p in found if p.view == "sagittal")
    assert sagittal.pixels.shape == (30, 26) and sagittal.spacing == (3.0, 1.0)
    assert not unasked  # what is only needed to say what is wrong with a file costs a read of each


def grouped(folder: Path, names: list[str]):
    return group_series(read_places((name, opening(folder / name)) for name in names))


def series(folder: Path, make, slices) -> list:
    """The pictures of a series, listed and read; `slices`: an array, its position along z in mm, more header."""
    for number, (array, z, header) in enumerate(slices):
        geometry = {"ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        fields = {"SeriesInstanceUID": "1.2.3", "PixelSpacing": [1.0, 1.0], **geometry, **header}
        make.dicom(folder / f"{number * 37 % 101:03d}.dcm", np.ascontiguousarray(array), **fields)
    ((names), *others), left_out = grouped(folder, sorted(file.name for file in folder.iterdir()))
    assert not others and not left_out
    item = Item(folder.name, "0", "dicom_series", files=tuple(f"{folder.name}/{name}" for name in names))
    return list(readers.read(folder, item, folder.parent, VIEWS, 224))


@pytest.mark.parametrize("told", ["time by time", "place by place", "temporal position", "time of day"])
@pytest.mark.parametrize("times", [2, 7])
def test_each_time_point_of_a_dicom_series_is_a_volume_as_in_nifti(tmp_path, make, told, times):
    array = np.stack([make.volume(time, (12, 14, 10)) for time in range(times)], axis=-1)
    make.nifti(tmp_path / "a.nii", array, np.diag([-1.0, -1.0, 3.0, 1.0]))
    header = {
        "time by time": lambda z, time: {"InstanceNumber": 10 * time + z},
        "place by place": lambda z, time: {"InstanceNumber": times * z + time},
        "temporal position": lambda z, time: {"TemporalPositionIdentifier": time + 1, "InstanceNumber": 99 - time},
        "time of day": lambda z, time: {"InstanceNumber": z + 1, "AcquisitionTime": f"1200{time:02}.5"},
    }[told]
    slices = [
        # Positions that differ only by rounding to decimals are the same.
        (array[:, :, z, time].T, 3.0 * z - 7.0005 + 0.0002 * (time % 2), header(z, time))
        for z in range(10)
        for time in range(times)
    ]
    found, expected = series(tmp_path / "s", make, slices), pictures(tmp_path / "a.nii", kind="volume")
    assert len(found) == len(expected) == (2 if times == 2 else 4) * (12 + 14 + 10)
    for a, b in zip(found, expected, strict=True):
        assert (a.view, a.index) == (b.view, b.index) and a.spacing == pytest.approx(b.spacing)
        assert np.array_equal(a.pixels, b.pixels)


@pytest.mark.parametrize(
    "changed",
    [
        "a slice is missing",
        "a time point of one slice is missing",
        "two stacks",
        "another plane",
        "another pitch",
        "one place",
        "colour",
    ],
)
def test_slices_that_form_no_volume_stay_pictures(tmp_path, make, changed):
    slices = [[make.picture(10 * z + time, 30, 30), 3.0 * z, {}] for z in range(8) for time in range(2)]
    if changed == "a slice is missing":
        del slices[6:8]
    elif changed == "a time point of one slice is missing":
        del slices[7]
    elif changed == "two stacks":
        slices = [[array, z if z < 12 else 2 * z - 12, more] for array, z, more in slices]
    elif changed == "another plane":
        slices[3][2] = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    elif changed == "another pitch":
        slices[3][2] = {"PixelSpacing": [0.5, 0.5]}
    elif changed == "one place":
        slices = [[array, 3.0, more] for array, _, more in slices]
    else:
        slices[3][0] = make.picture(3, 30, 30, channels=3)
    found = series(tmp_path / "s", make, slices)
    assert [(picture.view, picture.index) for picture in found] == [("frame", n) for n in range(len(slices))]
    kept = {array.tobytes() for array, _, _ in slices}
    assert {picture.pixels.tobytes() for picture in found} == kept


def test_positions_that_a_table_reports_in_tenths_of_a_millimetre_are_even(tmp_path, make):
    array = make.volume(3, (12, 14, 20))
    found = series(tmp_path / "s", make, [(array[:, :, z].T, round(1.25 * z - 1e-6, 1), {}) for z in range(20)])
    assert len(found) == 12 + 14 + 20
    assert found[-1].spacing == pytest.approx((1.25, 1.0), abs=0.01)


def test_frames_of_one_file_of_a_series_have_an_index_each(tmp_path, make):
    frames = np.stack([make.picture(n, 32, 32) for n in range(3)])
    found = series(tmp_path / "s", make, [(frames, 0.0, {"NumberOfFrames": 3})])
    assert [(picture.view, picture.index) for picture in found] == [("frame", n) for n in range(3)]


def peak_bytes(function, *args) -> int:
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_of_a_dicom_file_of_gigabytes_only_the_header_is_read(tmp_path, make):
    header = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1], "PatientName": "DOE^JANE"}
    for number in range(3):
        position = {"ImagePositionPatient": [0, 0, number], "SeriesInstanceUID": "1.2.3"}
        make.dicom(tmp_path / "s" / f"{number}.dcm", make.picture(number), **header, **position)
    names = ["0.dcm", "1.dcm", "2.dcm"]
    large = tmp_path / "s" / "1.dcm"
    with large.open("r+b") as file:
        file.truncate(3 << 30)  # sparse: it takes no room on the disk
    item = Item("s", "0", "dicom_series", files=tuple(f"s/{name}" for name in names))
    assert identity_words(large) >= {"doe", "jane"}
    assert peak_bytes(identity_words, large) < 8 << 20
    assert grouped(tmp_path / "s", names) == ([names], {})
    assert peak_bytes(grouped, tmp_path / "s", names) < 8 << 20
    tracemalloc.start()
    with pytest.raises(Refused, match="too large: a DICOM file of 3072 MiB"):
        list(readers.read(large, Item("1.dcm", None, "image"), tmp_path, VIEWS, 224))
    *_, unread = readers.read(tmp_path / "s", item, tmp_path, VIEWS, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(unread, Unread) and unread.file == "s/1.dcm" and "3072 MiB" in str(unread.error)
    assert peak < 8 << 20


@pytest.mark.parametrize("element", ["wanted", "meta", "deflated"])
def test_a_dicom_header_of_many_megabytes_is_not_read(tmp_path, make, element):
    pydicom = pytest.importorskip("pydicom")
    make.dicom(tmp_path / "a.dcm", make.picture(1), SeriesInstanceUID="1.2.3")
    whole, size = (tmp_path / "a.dcm").read_bytes(), 64 << 20
    long = b"UN\0\0" + size.to_bytes(4, "little") + bytes(size)
    if element == "deflated":
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        dataset.add_new(0x00091001, "OB", bytes(size))
        dataset.save_as(tmp_path / "a.dcm")
        whole = (tmp_path / "a.dcm").read_bytes()
    else:
        at = 144 if element == "meta" else 144 + int.from_bytes(whole[140:144], "little")
        whole = whole[:at] + (b"\2\0\0\1" if element == "meta" else b"\x20\0\x0e\0") + long + whole[at:]
    (tmp_path / "a.dcm").write_bytes(whole)
    del whole, long  # the memory of this test's own
    assert grouped(tmp_path, ["a.dcm"]) == ([], {"a.dcm": "not a readable DICOM file"})
    assert peak_bytes(grouped, tmp_path, ["a.dcm"]) < 8 << 20


def test_a_deflated_series_is_one(tmp_path, make):
    pydicom = pytest.importorskip("pydicom")
    names = [f"{height}.dcm" for height in range(3)]
    for height, name in enumerate(names):
        make.dicom(tmp_path / name, make.picture(height), SeriesInstanceUID="1.2.3", InstanceNumber=3 - height)
        dataset = pydicom.dcmread(tmp_path / name)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        dataset.save_as(tmp_path / name)
    assert grouped(tmp_path, names) == ([names[::-1]], {})


def test_a_deflated_dicom_bomb_is_refused_before_it_is_inflated(tmp_path, make, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    make.dicom(tmp_path / "a.dcm", make.picture(1))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm")
    assert (pictures(tmp_path / "a.dcm")[0].pixels == make.picture(1)).all()
    dataset.add_new(0x00091001, "OB", bytes(96 << 20))
    dataset.save_as(tmp_path / "b.dcm")
    del dataset
    monkeypatch.setattr("biovfm_hf.decoding.dicom_header._MAX_INFLATED_BYTES", 32 << 20)
    tracemalloc.start()
    answer = refused(tmp_path / "b.dcm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "inflates to over" in answer.detail and peak < 64 << 20
    assert identity_words(tmp_path / "b.dcm") is None


def test_damaged_dicom(tmp_path, make):
    make.dicom(tmp_path / "a.dcm", make.picture(1))
    whole = (tmp_path / "a.dcm").read_bytes()
    assert refused(whole[:-1000], name="a.dcm").outcome == "unreadable"
    assert refused(whole[:200], name="a.dcm").outcome == "unreadable"
    make.dicom(tmp_path / "b.dcm", make.picture(1), Rows=60000, Columns=60000)
    assert refused(tmp_path / "b.dcm").outcome == "too large"
    make.dicom(tmp_path / "c.dcm", make.picture(1)[None], NumberOfFrames=10**6)
    assert refused(tmp_path / "c.dcm").outcome == "too large"


# --- volumes


def test_nifti_orientation_spacing_and_order(tmp_path, make):
    """The same head stored along other axes gives the same pictures."""
    array = make.volume(1, (20, 24, 28))
    array[15:, 12, 14] = 2000  # a needle that points to the patient's right
    make.nifti(tmp_path / "ras.nii.gz", array, np.diag([2.0, 1.0, 3.0, 1.0]))
    turned = array[::-1, :, :].transpose(2, 0, 1)  # stored as (superior, left, anterior)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 3.0, -2.0, 1.0, 1.0
    make.nifti(tmp_path / "sla.nii.gz", np.ascontiguousarray(turned), affine)
    first = pictures(tmp_path / "ras.nii.gz", kind="volume")
    second = pictures(tmp_path / "sla.nii.gz", kind="volume")
    assert len(first) == len(second) == 20 + 24 + 28
    for a, b in zip(first, second, strict=True):
        assert (a.view, a.index, a.spacing) == (b.view, b.index, b.spacing)
        assert np.array_equal(a.pixels, b.pixels)
    axial = next(p for p in first if p.view == "axial" and p.index == 14)
    assert axial.spacing == (1.0, 2.0)
    assert axial.pixels[11, :5].min() == 255  # the patient's right is on the left of the picture, anterior up


def test_time_points_are_sampled(tmp_path, make):
    series = np.stack([make.volume(n, (12, 12, 12)) for n in range(12)], axis=-1)
    make.nifti(tmp_path / "a.nii", series)
    axial = [p.index for p in pictures(tmp_path / "a.nii", kind="volume") if p.view == "axial"]
    assert axial == [t * 12 + z for t in (0, 3, 6, 9) for z in range(12)]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64", ">i2"])
def test_all_voxel_types_give_the_same_pictures(tmp_path, make, dtype):
    array = np.clip(make.volume(4), 0, 255)
    make.nifti(tmp_path / "a.nii.gz", array.astype("int16"))
    make.nifti(tmp_path / "b.nii.gz", array.astype(dtype))
    setting = {"window": [0, 250]}
    expected = pictures(tmp_path / "a.nii.gz", kind="volume", intensity=setting)
    for a, b in zip(expected, pictures(tmp_path / "b.nii.gz", kind="volume", intensity=setting), strict=True):
        assert np.array_equal(a.pixels, b.pixels)


def test_metaimage_and_nrrd_agree_with_nifti(tmp_path, make):
    array = make.volume(6, (14, 18, 22))
    make.nifti(tmp_path / "a.nii.gz", array, np.diag([-1.0, -2.0, 3.0, 1.0]))  # LPS, as both formats count
    expected = pictures(tmp_path / "a.nii.gz", kind="volume")
    voxels = array.tobytes(order="F")
    mha = (
        "ObjectType = Image\nNDims = 3\nDimSize = 14 18 22\nElementSpacing = 1 2 3\nElementType = MET_SHORT\n"
        "CompressedData = {}\nElementDataFile = {}\n"
    )
    nrrd = (
        "NRRD0004\n# made by a test\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 14 18 22\n"
        "space directions: (1,0,0) (0,2,0) (0,0,3)\nendian: little\nencoding: {}\n\n"
    )
    (tmp_path / "a.raw").write_bytes(voxels)
    (tmp_path / "a.mhd").write_text(mha.format("False", "a.raw"))
    (tmp_path / "a.mha").write_bytes(mha.format("True", "LOCAL").encode() + zlib.compress(voxels))
    (tmp_path / "a.nrrd").write_bytes(nrrd.format("gzip").encode() + gzip.compress(voxels))
    (tmp_path / "b.nrrd").write_bytes(nrrd.format("raw").encode() + voxels)
    (tmp_path / "c.nrrd").write_bytes(nrrd.format("bzip2").encode() + bz2.compress(voxels))
    for name in ("a.mhd", "a.mha", "a.nrrd", "b.nrrd", "c.nrrd"):
        found = pictures(tmp_path / name, kind="volume")
        assert len(found) == len(expected), name
        for a, b in zip(expected, found, strict=True):
            assert (a.view, a.index, a.spacing) == (b.view, b.index, b.spacing), name
            assert np.array_equal(a.pixels, b.pixels), name


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('DimSize = Doe Jane\'s "x"', "ValueError: invalid literal for int() with base 10: ..."),
        ("ElementSpacing = Doe", "ValueError: could not convert string to float: ..."),
        ("ElementType = Doe", "ValueError: unknown ElementType"),
        ("NDims =", "ValueError: invalid literal for int() with base 10: ..."),
    ],
)
def test_a_damaged_header_is_not_quoted(line, told):
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
    data = f"{header}{line}\nElementDataFile = LOCAL\n".encode() + bytes(8)
    assert refused(data, kind="volume").detail == f"x.png: not a readable MetaImage ({told}); check its header"


def test_a_missing_field_of_a_header_is_named():
    detail = refused(b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\n\n" + bytes(8), kind="volume").detail
    assert detail == "x.png: not a readable NRRD (ValueError: no encoding); check its header"


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "..", "missing.raw", "link.raw", "loop.raw"])
def test_a_header_cannot_point_elsewhere(tmp_path, name):
    folder = tmp_path / "below"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(8000))
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    (folder / "loop.raw").symlink_to("loop.raw")
    header = f"ObjectType = Image\nNDims = 3\nDimSize = 20 20 20\nElementType = MET_UCHAR\nElementDataFile = {name}\n"
    (folder / "a.mhd").write_text(header)
    assert refused(folder / "a.mhd", kind="volume").outcome == "unsafe path"


def test_volumes_that_claim_too_much(tmp_path, make):
    header = b"ObjectType = Image\nNDims = 3\nDimSize = 90000 90000 90000\nElementType = MET_SHORT\n"
    header += b"ElementDataFile = LOCAL\n"
    assert refused(header + bytes(100), kind="volume").outcome == "too large"
    make.nifti(tmp_path / "a.nii", make.volume(1))
    lying = bytearray((tmp_path / "a.nii").read_bytes())
    lying[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    assert refused(bytes(lying), kind="volume").outcome == "too large"
    whole = gzip.compress((tmp_path / "a.nii").read_bytes())
    assert refused(whole[: len(whole) // 2], kind="volume").outcome == "unreadable"
    assert refused(b"NRRD0004\n" + b"x: y\n" * 5000, kind="volume").outcome == "unreadable"


def test_inflating_stops_in_small_steps():
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    assert max(len(block) for block, _ in zip(inflated(io.BytesIO(bomb)), range(50), strict=False)) <= 2**20
    bomb = bz2.compress(bytes(20 * 2**20))
    assert max(len(block) for block in unbzipped(io.BytesIO(bomb))) <= 2**20


# --- video, HDF5, arrays


def test_video_frames_at_a_stated_rate(tmp_path, make):
    av = pytest.importorskip("av")
    frames = [make.picture(n // 10, 64, 64, channels=3) for n in range(50)]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    found = pictures(tmp_path / "a.mp4", kind="video", fps=1.0)
    assert [p.index for p in found] == [0, 10, 20, 30, 40]
    assert np.abs(found[2].pixels.astype(int) - frames[20]).mean() < 12
    assert len(pictures(tmp_path / "a.mp4", kind="video", fps=5.0)) == 25
    whole = (tmp_path / "a.mp4").read_bytes()
    assert refused(whole[:200], kind="video").outcome == "unreadable"


def test_hdf5_rows_encoded_images_and_stacks(tmp_path, make):
    h5py = pytest.importorskip("h5py")
    rows = np.stack([make.picture(n, 32, 32, channels=3) for n in range(4)])
    make.png(tmp_path / "a.png", make.picture(9))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = rows
        file["encoded"] = np.void((tmp_path / "a.png").read_bytes())
        file["stack"] = np.stack([make.picture(n, 40, 30).astype(np.float32) / 255 for n in range(5)])
        file["outside"] = h5py.ExternalLink("/etc/passwd", "/x")
    (row,) = pictures(tmp_path / "a.h5", kind="hdf5", member="x", row=2)
    assert np.array_equal(row.pixels, rows[2])
    (encoded,) = pictures(tmp_path / "a.h5", kind="hdf5", member="encoded")
    assert np.array_equal(encoded.pixels, make.picture(9))
    stack = pictures(tmp_path / "a.h5", kind="hdf5", member="stack")
    assert [(p.view, p.index, p.pixels.shape) for p in stack] == [("axial", n, (40, 30)) for n in range(5)]
    assert np.corrcoef(stack[3].pixels.ravel(), make.picture(3, 40, 30).ravel())[0, 1] > 0.99
    for member, row in (("outside", None), ("absent", None), ("x", 4)):
        assert refused(tmp_path / "a.h5", kind="hdf5", member=member, row=row).outcome == "unreadable"
    (tmp_path / "b.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    assert refused(tmp_path / "b.h5", kind="hdf5", member="x").outcome == "unreadable"


def test_npy_and_mat(tmp_path, make):
    scipy_io = pytest.importorskip("scipy.io")
    array = make.picture(4)
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(pictures(tmp_path / "a.npy")[0].pixels, array)
    np.save(tmp_path / "b.npy", np.stack([array] * 5))
    assert [p.pixels.shape for p in pictures(tmp_path / "b.npy")] == [(64, 64)] * 5
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert refused(tmp_path / "c.npy").outcome == "unreadable"
    scipy_io.savemat(tmp_path / "a.mat", {"note": "hello", "image": array})
    assert np.array_equal(pictures(tmp_path / "a.mat")[0].pixels, array)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_mat_arrays_are_those_of_scipy(tmp_path, dtype, compressed):
    scipy_io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    wanted = (rng.random((30, 41, 3)) * 100).astype(dtype)
    others = {
        "text": "hello",
        "cell": np.array([1, "a"], dtype=object),
        "complex": wanted[..., 0] * 1j,
        "few": [[1.0]],
    }
    scipy_io.savemat(tmp_path / "a.mat", {**others, "wanted": wanted}, do_compression=compressed)
    found = largest_array((tmp_path / "a.mat").read_bytes())
    assert found.dtype == wanted.dtype and (found == wanted).all()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_mat_is_refused_or_read(data):
    scipy_io = pytest.importorskip("scipy.io")
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, {"a": np.arange(600.0).reshape(20, 30)}, do_compression=data.draw(st.booleans()))
    changed = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert largest_array(bytes(changed[: data.draw(st.integers(0, len(changed)))])).ndim >= 2
    except (Refused, UserError) as refused:
        assert refusal(refused).outcome in ("unreadable", "too large")


# --- archives


def listed_members(path: Path) -> list[tuple[str, bytes | Refused]]:
    items = [Item(path.name, m.name, "image", size=m.size, offset=m.offset) for m in list_members(path)]
    return [(str(item.member), data) for item, data in members.members(path, items)]


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz"])
def test_members_are_read_in_place(tmp_path, suffix):
    contents = {f"folder/{n}.png": bytes([n]) * (1000 + n) for n in range(5)}
    path = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for number, (name, data) in enumerate(contents.items()):
                file.writestr(name, data, zipfile.ZIP_STORED if number % 2 else zipfile.ZIP_DEFLATED)
    else:
        with tarfile.open(path, "w:" if suffix == "tar" else "w:gz") as file:
            for name, data in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    assert dict(listed_members(path)) == contents


def test_other_zip_methods(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.png", b"x" * 5000)
    assert listed_members(tmp_path / "a.zip") == [("a.png", b"x" * 5000)]


def test_a_damaged_member_costs_only_itself(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for n in range(3):
            file.writestr(f"{n}.png", np.random.default_rng(n).bytes(3000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    found = dict(listed_members(path))
    assert [isinstance(value, Refused) for value in found.values()] == [False, True, False]


def test_a_member_that_lies_about_its_size(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(50 * 2**20))
    small = Item("bomb.zip", "a.png", "image", size=1000, offset=0)
    ((_, answer),) = list(members.members(path, [small]))
    assert isinstance(answer, Refused) and answer.outcome == "too large"
    huge = Item("bomb.zip", "a.png", "image", size=MAX_MEMBER_BYTES + 1, offset=0)
    ((_, answer),) = list(members.members(path, [huge]))
    assert isinstance(answer, Refused) and answer.outcome == "too large"


def test_encrypted_and_truncated_archives(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", b"x" * 5000)
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag of encryption in the local header
    path.write_bytes(data)
    ((_, answer),) = listed_members(path)
    assert isinstance(answer, Refused) and "encrypted" in answer.detail
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        for n in range(3):
            entry = tarfile.TarInfo(f"{n}.png")
            entry.size = 200_000
            tar.addfile(entry, io.BytesIO(np.random.default_rng(n).bytes(200_000)))
    whole = (tmp_path / "b.tar.gz").read_bytes()
    items = [Item("b.tar.gz", f"{n}.png", "image", size=200_000) for n in range(3)]
    (tmp_path / "b.tar.gz").write_bytes(whole[: len(whole) // 2])
    answers = [answer for _, answer in members.members(tmp_path / "b.tar.gz", items)]
    assert [isinstance(answer, Refused) for answer in answers] == [False, True, True]
