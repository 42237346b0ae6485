"""DICOM files as scanners and converters write them: stored bits, floats, icons, fragments, frames that are slices."""

import io

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode, read_volume
from biovfm_hf.reading.limited import LIMITED
from tests.biovfm_hf.decoding.samples import RNG, assert_read, built, colours, slice_of, smooth, values_of
from tests.dataset_builder.conftest import volume, write_dicom

pydicom = pytest.importorskip("pydicom")
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"


def item(**elements):
    """A nested data set, as sequences contain them."""
    dataset = pydicom.Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return pydicom.Sequence([dataset])


class TestStoredBits:
    """PS3.5 8.1.1: which bits of a stored word count."""

    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("high", [11, 15])
    def test_they_end_at_the_high_bit(self, tmp_path, signed, high):
        values = smooth(1, 4095) - (2048 if signed else 0)
        junk = RNG.integers(0, 16, values.shape) << (12 if high == 11 else 0)
        stored = (values.astype(np.int64) & 0xFFF) << (high - 11) | junk
        header = {"BitsStored": 12, "HighBit": high, "PixelRepresentation": int(signed)}
        write_dicom(tmp_path / "a.dcm", stored.astype(np.uint16), **header)
        assert_read(tmp_path / "a.dcm", values)
        frames = np.stack([stored] * 2).astype(np.uint16)
        write_dicom(tmp_path / "b.dcm", frames, NumberOfFrames=2, **header)
        assert_read(tmp_path / "b.dcm", values, 1)

    @pytest.mark.parametrize(("scale", "dtype"), [(2.0**20, "<u4"), (1.0, "<u4")])
    def test_words_of_32_bits(self, tmp_path, scale, dtype):
        write_dicom(tmp_path / "a.dcm", (smooth() * scale).astype(dtype), RescaleSlope="0.5")
        assert_read(tmp_path / "a.dcm", smooth() * scale * 0.5)

    def test_no_more_are_stored_than_allocated(self, tmp_path):
        """As GDCM has it; pydicom refuses the file."""
        values = np.rint(smooth() / 16)
        write_dicom(tmp_path / "a.dcm", values.astype(np.uint8), BitsStored=10, HighBit=9)
        assert_read(tmp_path / "a.dcm", values)


def test_an_element_longer_than_its_file_is_no_want_of_memory(tmp_path):
    """For a file of this length, a worker with limited memory once reported that it needs gigabytes."""
    write_dicom(tmp_path / "a.dcm", RNG.integers(0, 9, (8, 8), np.uint8))
    data = (tmp_path / "a.dcm").read_bytes()
    at = data.index(b"\x08\0\x16\0UI")
    (tmp_path / "a.dcm").write_bytes(data[: at + 4] + b"OB\0\0\xf0\xff\xff\x7f" + data[at + 8 :])
    with pytest.raises(UserError, match="without an image"):
        LIMITED.call("a.dcm", decode, tmp_path / "a.dcm")


@pytest.mark.parametrize(("name", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_floats(tmp_path, name, dtype):
    """Parametric maps (PS3.3 C.7.6.24) have no integers at all."""
    values = (smooth() / 1e5).astype(dtype)
    values[3, 4] = np.nan
    write_dicom(tmp_path / "a.dcm", values.view(f"<u{values.itemsize}"))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    setattr(dataset, name, values.tobytes())
    dataset.save_as(tmp_path / "a.dcm")
    assert_read(tmp_path / "a.dcm", values)
    assert len(np.unique(built(tmp_path / "a.dcm")[0].pixels)) > 200


def test_an_icon_before_compressed_frames_is_passed_over(tmp_path):
    frames = np.stack([smooth(n, 255) for n in range(4)]).astype(np.uint8)
    write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=4)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.compress(pydicom.uid.RLELossless)
    dataset.IconImageSequence = item(
        Rows=8, Columns=8, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=8, BitsStored=8,
        HighBit=7, PixelRepresentation=0, PixelData=bytes(64),
    )  # fmt: skip
    dataset.IconImageSequence[0]["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "a.dcm")
    assert all(np.array_equal(slice_of(tmp_path / "a.dcm", n), frame) for n, frame in enumerate(frames))


@pytest.mark.parametrize("table", ["basic", "extended"])
def test_frames_in_several_fragments(tmp_path, table):
    frames = np.stack([smooth(n, 255) for n in range(3)]).astype(np.uint8)
    streams = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG2000", irreversible=False)
        streams.append(buffer.getvalue())
    write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=3)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    if table == "basic":
        dataset.PixelData = pydicom.encaps.encapsulate(streams, fragments_per_frame=3)
    else:
        parts = pydicom.encaps.encapsulate_extended(streams)
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = parts
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "a.dcm")
    assert all(np.array_equal(slice_of(tmp_path / "a.dcm", n), frame) for n, frame in enumerate(frames))


def test_signed_jpeg_2000_and_big_endian(tmp_path):
    values = (smooth() - 2040).astype(np.int16)
    write_dicom(tmp_path / "a.dcm", values, BitsStored=12, HighBit=11)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.compress(pydicom.uid.JPEG2000Lossless)
    dataset.save_as(tmp_path / "b.dcm")
    assert np.array_equal(values_of(tmp_path / "b.dcm"), values)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    dataset.PixelData = values.astype(">i2").tobytes()
    pydicom.dcmwrite(tmp_path / "c.dcm", dataset, implicit_vr=False, little_endian=False)
    assert np.array_equal(values_of(tmp_path / "c.dcm"), values)


@pytest.mark.parametrize("told", ["YBR_FULL_422", "RGB"])
def test_colours_of_a_jpeg_lie_next_to_each_other_whatever_the_header_says(tmp_path, told):
    picture, buffer = Image.fromarray(colours(255).astype(np.uint8)), io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    write_dicom(tmp_path / "a.dcm", np.asarray(picture), PhotometricInterpretation=told, PlanarConfiguration=1)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "a.dcm")
    found = decode(tmp_path / "a.dcm").array.astype(int)
    assert np.abs(found - np.asarray(Image.open(buffer))).max() <= 6


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_one_bit(tmp_path, polarity):
    bits = smooth(3, 255) > 128
    write_dicom(tmp_path / "a.dcm", bits.astype(np.uint8), PhotometricInterpretation=polarity)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    dataset.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
    dataset.save_as(tmp_path / "a.dcm")
    assert np.array_equal(built(tmp_path / "a.dcm")[0].pixels == 255, bits == (polarity == "MONOCHROME2"))


@pytest.mark.parametrize(("name", "dtype"), [("FloatPixel", "<f4"), ("DoubleFloatPixel", "<f8")])
def test_padding_among_floats(tmp_path, name, dtype):
    values = (smooth() / 1e5).astype(dtype)
    values[:8] = -9999
    write_dicom(tmp_path / "a.dcm", values.view(f"<u{values.itemsize}"))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    setattr(dataset, f"{name}Data", values.tobytes())
    setattr(dataset, f"{name}PaddingValue", -9999.0)
    dataset.save_as(tmp_path / "a.dcm")
    pixels = built(tmp_path / "a.dcm")[0].pixels
    assert not pixels[:8].any() and len(np.unique(pixels[8:])) > 200


def write_enhanced(path, frames, heights, slopes=None):
    """Axial frames (frames, rows, columns) at `heights` in mm, with a slope for each."""
    groups = []
    for number, height in enumerate(heights):
        group = item(PlanePositionSequence=item(ImagePositionPatient=["0", "0", f"{height:.6g}"]))[0]
        if slopes is not None:
            group.PixelValueTransformationSequence = item(RescaleSlope=slopes[number], RescaleIntercept=0)
        groups.append(group)
    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"]),
        PixelMeasuresSequence=item(PixelSpacing=["1", "1"]),
    )
    header = {"PerFrameFunctionalGroupsSequence": groups, "SharedFunctionalGroupsSequence": shared}
    write_dicom(path, frames, NumberOfFrames=len(frames), SOPClassUID=ENHANCED, **header)


@pytest.mark.parametrize("slopes", [(1, 3), (1, 1)])
def test_time_points_of_slopes_of_their_own(tmp_path, slopes):
    slices = volume(1, (9, 8, 6))
    frames = np.concatenate([slices.transpose(2, 1, 0)] * 2)
    write_enhanced(tmp_path / "a.dcm", frames, [2 * n for n in range(6)] * 2, [slopes[n // 6] for n in range(12)])
    found = read_volume(tmp_path / "a.dcm")
    values = found.array * found.slope + found.intercept
    assert np.allclose(values, np.stack([slices * slope for slope in slopes], 3)[::-1, ::-1])


@pytest.mark.parametrize("step", [-2, -0.004])
def test_frames_are_put_in_order_however_thin(tmp_path, step):
    slices = volume(1, (9, 8, 6))
    write_enhanced(tmp_path / "a.dcm", slices.transpose(2, 1, 0), [step * n for n in range(6)])
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array, slices[::-1, ::-1, ::-1])


@pytest.mark.parametrize("slopes", [[1] * 6, [1, 2, 1, 2, 1, 2]])
def test_padding_of_a_volume_whatever_the_slopes(tmp_path, slopes):
    slices = volume(1, (9, 8, 6)) + 100
    slices[0] = -2000
    write_enhanced(
        tmp_path / "a.dcm", np.ascontiguousarray(slices.transpose(2, 1, 0)), [2 * n for n in range(6)], slopes
    )
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    dataset.save_as(tmp_path / "a.dcm")
    axial = [picture.pixels for picture in built(tmp_path / "a.dcm") if picture.view == "axial"]
    assert not axial[3][:, 0].any() and len(np.unique(axial[3][:, 1:])) > 15


@pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
def test_compressed_frames_that_are_slices(tmp_path, syntax):
    slices = volume(1, (40, 36, 14))
    write_enhanced(tmp_path / "a.dcm", np.ascontiguousarray(slices.transpose(2, 1, 0)), [2 * n for n in range(14)])
    if syntax is not None:
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.compress(syntax)
        dataset.save_as(tmp_path / "a.dcm")
    found = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(found.array, slices[::-1, ::-1]) and found.spacing == (1.0, 1.0, 2.0)
    assert {picture.view for picture in built(tmp_path / "a.dcm")} == {"axial", "coronal", "sagittal"}
