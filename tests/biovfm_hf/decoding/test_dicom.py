"""DICOM files as scanners and converters write them: stored bits, floats, icons, fragments, frames that are slices."""

import io

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode, read_volume
from biovfm_hf.reading.limited import LIMITED
from tests.biovfm_hf.decoding.samples import RNG, assert_read, built, slice_of, smooth, values_of
from tests.dataset_builder.conftest import volume, write_dicom

pydicom = pytest.importorskip("pydicom")
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"


def item(**elements):
    """A data set of its own, as sequences hold them."""
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
    """Of a file of this length a worker of limited memory once told that it takes gigabytes."""
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


@pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
def test_compressed_frames_that_are_slices(tmp_path, syntax):
    slices = volume(1, (40, 36, 14))
    position = [item(ImagePositionPatient=["0", "0", str(2 * number)]) for number in range(14)]
    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"]),
        PixelMeasuresSequence=item(PixelSpacing=["1", "1"]),
    )
    groups = [item(PlanePositionSequence=one)[0] for one in position]
    header = {"PerFrameFunctionalGroupsSequence": groups, "SharedFunctionalGroupsSequence": shared}
    array = np.ascontiguousarray(slices.transpose(2, 1, 0))
    write_dicom(tmp_path / "a.dcm", array, NumberOfFrames=14, SOPClassUID=ENHANCED, **header)
    if syntax is not None:
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.compress(syntax)
        dataset.save_as(tmp_path / "a.dcm")
    found = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(found.array, slices[::-1, ::-1]) and found.spacing == (1.0, 1.0, 2.0)
    assert {picture.view for picture in built(tmp_path / "a.dcm")} == {"axial", "coronal", "sagittal"}
