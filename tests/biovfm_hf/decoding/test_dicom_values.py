"""DICOM: from stored numbers to values and to what a screen shows."""

import numpy as np
import pytest

from biovfm_hf.errors import NoPicture
from biovfm_hf.pixels import decode, to_uint8
from tests.biovfm_hf.decoding.samples import RNG, smooth
from tests.dataset_builder.conftest import write_dicom

pydicom = pytest.importorskip("pydicom")


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(("bits", "words"), [(8, False), (8, True), (16, True)])
def test_a_dicom_palette_in_either_byte_order(tmp_path, bits, words, big_endian):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    numbers, first, order = RNG.integers(0, 220, (6, 8)).astype(np.uint8), 10, ">" if big_endian else "<"
    palette = RNG.integers(0, 1 << bits, (3, 200)).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 6, 8, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "PALETTE COLOR", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelData = 8, 8, 7, numbers.tobytes()
    for colour, table in zip(("Red", "Green", "Blue"), palette, strict=True):
        stored = table if words else table.astype(np.uint8).view("<u2")
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [200, first, bits])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", stored.astype(f"{order}u2").tobytes())
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=not big_endian, enforce_file_format=True)
    expected = np.moveaxis(palette[:, np.clip(numbers.astype(int) - first, 0, 199)], 0, -1)
    assert np.array_equal(decode(tmp_path / "a.dcm").array, expected)


def test_objects_that_are_no_pictures_are_recognised():
    names = ("liver_1frame.dcm", "rtdose_1frame.dcm", "rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm")
    for name in names:
        path = pydicom.data.get_testdata_file(name, download=False)
        if path is not None:
            with pytest.raises(NoPicture):
                decode(path, slice_index=0)


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_padding_is_black_behind_a_table_too(tmp_path, sequence, polarity):
    """PS3.3 C.7.5.1.1.2: padding is not part of the image, whatever a table maps its number to."""
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 12], np.arange(4096, dtype="<u2")[::-1].tobytes()
    stored = np.clip(smooth(), 200, 4000).astype(np.uint16)
    stored[:16] = 7
    header = {sequence: pydicom.Sequence([table]), "PixelPaddingValue": 7, "PhotometricInterpretation": polarity}
    write_dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, **header)
    shown = to_uint8(decode(tmp_path / "a.dcm"))
    assert not shown[:16].any()
    ascending = shown[16:].ravel()[np.argsort(stored[16:], axis=None)]  # the table turns it around
    assert (ascending[:99].mean() > ascending[-99:].mean()) == (polarity == "MONOCHROME2")
