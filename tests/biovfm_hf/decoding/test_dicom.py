"""DICOM files as scanners and converters write them: stored bits, floats, icons, fragments, frames that are slices."""

import io

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.pixels import decode, read_volume
from tests.biovfm_hf.decoding.samples import RNG, VOLUME, assert_read, built, slice_of, smooth, values_of
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


class TestFramesThatAreSlices:
    def write(self, path, order, slopes=None, syntax=None):
        array = np.ascontiguousarray(volume(1, (40, 36, 14)).transpose(2, 1, 0)[order])
        groups = []
        for number in order:
            group = pydicom.Dataset()
            group.PlanePositionSequence = item(ImagePositionPatient=["0", "0", str(2 * number)])
            if slopes is not None:
                group.PixelValueTransformationSequence = item(RescaleSlope=str(slopes[number]), RescaleIntercept="0")
            groups.append(group)
        shared = item(
            PlaneOrientationSequence=item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"]),
            PixelMeasuresSequence=item(PixelSpacing=["1", "1"]),
        )
        header = {"PerFrameFunctionalGroupsSequence": groups, "SharedFunctionalGroupsSequence": shared}
        write_dicom(path, array, NumberOfFrames=len(array), SOPClassUID=ENHANCED, **header)
        if syntax is not None:
            dataset = pydicom.dcmread(path)
            dataset.compress(syntax)
            dataset.save_as(path)
        return volume(1, (40, 36, 14))[::-1, ::-1]

    @pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
    def test_in_any_order_and_compression(self, tmp_path, syntax):
        values = self.write(tmp_path / "a.dcm", RNG.permutation(14), syntax=syntax)
        found = read_volume(tmp_path / "a.dcm")
        assert np.array_equal(found.array, values) and found.spacing == (1.0, 1.0, 2.0)
        assert {picture.view for picture in built(tmp_path / "a.dcm")} == {"axial", "coronal", "sagittal"}

    def test_with_a_slope_of_their_own(self, tmp_path):
        slopes = [1 + number * 0.25 for number in range(14)]
        values = self.write(tmp_path / "a.dcm", list(range(14)), slopes)
        found = read_volume(tmp_path / "a.dcm")
        assert np.allclose(found.array * found.slope + found.intercept, values * np.array(slopes))
        assert np.allclose(values_of(tmp_path / "a.dcm", slice_index=6), values[::-1, ::-1, 6].T * slopes[6])


def test_a_mosaic_is_a_volume(tmp_path):
    tiles = [VOLUME[:, :, number].T for number in range(6)] + [np.zeros((5, 4), np.int16)] * 3
    mosaic = np.block([tiles[0:3], tiles[3:6], tiles[6:9]])
    write_dicom(
        tmp_path / "a.dcm", mosaic, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], PixelSpacing=["2", "2"],
        ImageOrientationPatient=["1", "0", "0", "0", "1", "0"], SpacingBetweenSlices="3",
    )  # fmt: skip
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 6)
    dataset.save_as(tmp_path / "a.dcm")
    found = read_volume(tmp_path / "a.dcm")
    assert np.array_equal(found.array, VOLUME[::-1, ::-1]) and found.spacing == (2.0, 2.0, 3.0)
    assert np.array_equal(decode(tmp_path / "a.dcm", slice_index=2).array, VOLUME[:, :, 2].T)
