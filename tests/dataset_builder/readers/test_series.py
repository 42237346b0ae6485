"""DICOM as pictures and volumes: windows, tables, padding, shapes of pixels, series loose and in archives."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from biovfm_hf.decoding.series import NOT_DICOM
from biovfm_hf.errors import NoPicture, UserError
from biovfm_hf.pixels import decode, read_volume, to_uint8
from dataset_builder import readers
from dataset_builder.catalog.records import load_source
from dataset_builder.item import Item
from dataset_builder.plan.listing import list_items
from dataset_builder.readers import members
from dataset_builder.readers.picture import Unread
from dataset_builder.readers.slicing import VIEWS

pydicom = pytest.importorskip("pydicom")
CT, SECONDARY = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
RNG = np.random.default_rng(0)
BALL = RNG.integers(100, 900, (12, 14, 10)).astype(np.int16)  # columns, rows, slices
VALUES = np.arange(-1024, 3072, dtype=np.int16).reshape(64, 64)


def dicom(stored, **header) -> bytes:
    """A DICOM file of (rows, columns) or (frames, rows, columns)."""
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = header.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = header.pop("SOPClassUID", CT)
    file.SOPInstanceUID = header.pop("SOPInstanceUID", pydicom.uid.generate_uid())
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    file.PatientName, file.SeriesInstanceUID = "Doe^Jane", "1.2.3"
    if stored is not None:
        file.Rows, file.Columns = stored.shape[-2:]
        if stored.ndim == 3:
            file.NumberOfFrames = len(stored)
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 8 * stored.dtype.itemsize
        file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(stored.dtype.kind == "i")
        file.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
        file["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"
    for name, value in header.items():
        setattr(file, name, value)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def item_of(**values) -> "pydicom.Dataset":
    dataset = pydicom.Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def table(entries, first=0, bits=16, packed="<u2", kind="US"):
    item = pydicom.Dataset()
    item.add_new(0x00283002, kind, [len(entries) % 65536, first, bits])
    item.add_new(0x00283006, "OW", np.asarray(entries).astype(packed).tobytes())
    return item


def volume_slices(array=BALL, **each) -> dict[str, bytes]:
    """Files of a series by name: columns run to the left, rows to the back, slices to the head."""
    files = {}
    for z in range(array.shape[2]):
        header = {"ImagePositionPatient": [0, 0, 2.0 * z], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        header |= {"PixelSpacing": [1, 1], "InstanceNumber": z}
        header |= {name: value(z) if callable(value) else value for name, value in each.items()}
        files[f"{z:02}.dcm"] = dicom(np.ascontiguousarray(array[:, :, z].T), **header)
    return files


def rows(folder, files, record, make, setting=None, where="series"):
    """Listed and read: the pictures by view and index, what was unread, and the excluded items."""
    place = folder / "raw" / "own"
    place.mkdir(parents=True)
    pack(place, files, where)
    rule = {"pattern": "**/*.dcm", "kind": "dicom_series"} | ({"intensity": setting} if setting else {})
    path = make.record(folder, "own", items=[rule], access="open")
    items = list(list_items(load_source(str(path)), folder / "raw"))
    pictures, unread = {}, {}
    for number, item in enumerate(items):
        if item.excluded is None:
            for picture in readers.read(source_of(folder / "raw", item), item, folder / "raw", VIEWS, 64):
                if isinstance(picture, Unread):
                    unread[picture.file] = str(picture.error)
                else:
                    pictures[number, picture.view, picture.index] = picture.pixels
    return pictures, unread, {item.member or item.path: item.excluded for item in items if item.excluded}


def pack(place, files, where):
    if where == "series":
        for name, data in files.items():
            (place / name).write_bytes(data)
    elif where.endswith("zip"):
        with zipfile.ZipFile(place / where, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, data in files.items():
                opened.writestr(f"a/{name}", data)
    else:
        with tarfile.open(place / where, "w:gz" if where.endswith("gz") else "w") as opened:
            for name, data in files.items():
                info = tarfile.TarInfo(f"a/{name}")
                info.size = len(data)
                opened.addfile(info, io.BytesIO(data))


def source_of(raw, item):
    if any(part.offset is None for part in item.members):
        ((_, data),) = members.series(raw / item.path, [item])
        return data
    return raw / item.path


def views_of(pictures):
    return {view for _, view, _ in pictures}


class TestValues:
    def test_sigmoid_window(self):
        pixels = decode(dicom(VALUES, WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID"))
        expected = 255 / (1 + np.exp(-4 * (VALUES - 40.0) / 400))
        assert np.abs(to_uint8(pixels) - expected).max() <= 0.5
        assert to_uint8(pixels, window=(0, 100))[0, 0] == 0  # a window of one's own is a ramp

    @pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
    def test_a_window_of_one_value_is_a_step(self, polarity):
        shown = to_uint8(decode(dicom(VALUES, WindowCenter=40, WindowWidth=1, PhotometricInterpretation=polarity)))
        assert np.array_equal(shown == 255, (VALUES > 39.5) == (polarity == "MONOCHROME2"))

    def test_a_step_under_a_falling_slope(self):
        shown = to_uint8(decode(dicom(VALUES, WindowCenter=40, WindowWidth=1, RescaleSlope=-1, RescaleIntercept=7)))
        assert np.array_equal(shown == 255, 7 - VALUES.astype(int) > 39.5)

    @pytest.mark.parametrize("intercept", [0, -1024])
    @pytest.mark.parametrize("kind", ["SS", "US"])
    def test_a_voi_table_beside_a_rescale(self, intercept, kind):
        stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
        curve = np.linspace(0, 1, 4096) ** 2
        first = intercept if kind == "SS" else intercept % 65536
        voi = table(curve * 65535, first, kind=kind)
        shown = to_uint8(decode(dicom(stored, VOILUTSequence=[voi], RescaleSlope=1, RescaleIntercept=intercept)))
        assert np.abs(shown - curve.reshape(64, 64) * 255).max() <= 1

    @pytest.mark.parametrize(("bits", "packed"), [(8, "u1"), (10, "<u2"), (12, "<u2"), (16, "<u2")])
    def test_a_modality_table_of_any_width(self, bits, packed):
        stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
        entries = (np.linspace(0, 1, 256) ** 2 * (2**bits - 1)).astype(int)
        pixels = decode(dicom(stored, ModalityLUTSequence=[table(entries, bits=bits, packed=packed)]))
        assert np.array_equal(pixels.array, entries.reshape(16, 16))

    def test_empty_items_are_passed_over(self):
        stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
        empty = [pydicom.Dataset()]
        pixels = decode(dicom(stored, ModalityLUTSequence=empty, VOILUTSequence=empty))
        assert np.array_equal(pixels.array, stored) and pixels.window is None
        pixels = decode(dicom(stored, ModalityLUTSequence=[pydicom.Dataset(), table(range(256, 0, -1))]))
        assert np.array_equal(pixels.array, 256 - stored)

    @pytest.mark.parametrize(("kind", "modality"), [("12.1", "XA"), ("12.2", "RF"), ("12.1.1", "XA"), ("7", "XA")])
    def test_an_angiogram_is_shown_without_its_modality_table(self, kind, modality):
        stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
        header = {"SOPClassUID": f"1.2.840.10008.5.1.4.1.1.{kind}", "Modality": modality}
        pixels = decode(dicom(stored, ModalityLUTSequence=[table([65535] * 256)], **header))
        assert np.array_equal(pixels.array, stored)

    @pytest.mark.parametrize(("dtype", "padding"), [("i2", -32768), ("u2", 65535), ("i2", -2000), ("u2", 0)])
    def test_padding_is_black_and_no_part_of_the_percentiles(self, dtype, padding):
        stored = np.linspace(500, 600, 64 * 64).reshape(64, 64).astype(dtype)
        stored[:, :20] = padding
        header = {"PixelPaddingValue": padding}
        shown = to_uint8(decode(dicom(stored, **header)))
        assert len(np.unique(shown[:, 20:])) > 60 and shown[:, :20].max() == 0
        inverted = to_uint8(decode(dicom(stored, PhotometricInterpretation="MONOCHROME1", **header)))
        assert inverted[:, :20].max() == 0 and inverted[0, 20] == 255

    def test_a_range_of_padding(self):
        stored = np.linspace(500, 600, 64 * 64).reshape(64, 64).astype(np.int16)
        stored[:, :20] = np.arange(-2000, -1980)
        pixels = decode(dicom(stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1900))
        assert pixels.padding == (-2000.0, -1900.0) and to_uint8(pixels)[:, :20].max() == 0
        assert len(np.unique(to_uint8(pixels))) > 60

    @pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
    def test_padding_is_black_behind_a_table(self, name):
        stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
        entries = np.linspace(65535, 0, 4096)
        shown = to_uint8(
            decode(dicom(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=99, **{name: [table(entries)]}))
        )
        assert not shown.flat[:100].any() and shown.flat[100] > 245 and shown.flat[-1] == 0
        inverted = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0, name: [table(entries)]}
        shown = to_uint8(decode(dicom(stored, **inverted)))
        assert shown.flat[0] == 0 and shown.flat[1] < 5 and shown.flat[-1] == 255

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_a_palette_in_either_byte_order(self, order):
        stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
        syntax = pydicom.uid.ExplicitVRLittleEndian if order == "<" else pydicom.uid.ExplicitVRBigEndian
        header = {}
        for colour, entries in (("Red", range(256)), ("Green", range(255, -1, -1)), ("Blue", [90] * 256)):
            header[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            header[f"{colour}PaletteColorLookupTableData"] = (np.array(entries) * 257).astype(f"{order}u2").tobytes()
        data = dicom(stored, syntax=syntax, PhotometricInterpretation="PALETTE COLOR", **header)
        expected = np.stack([stored, 255 - stored, np.full_like(stored, 90)], -1)
        assert np.array_equal(decode(data).array, expected)

    @pytest.mark.parametrize("frames", [1, 3])
    @pytest.mark.parametrize("shared", [True, False])
    def test_the_pixels_of_frames_have_the_shape_that_their_groups_tell(self, tmp_path, frames, shared):
        stored = RNG.integers(0, 900, (frames, 8, 8)).astype(np.int16)
        measures = item_of(PixelMeasuresSequence=[item_of(PixelSpacing=[1.0, 2.0])])
        header = (
            {"SharedFunctionalGroupsSequence": [measures]}
            if shared
            else {"PerFrameFunctionalGroupsSequence": [measures] * frames}
        )
        (tmp_path / "a.dcm").write_bytes(dicom(stored, **header))
        assert decode(tmp_path / "a.dcm", slice_index=frames - 1).spacing == (1.0, 2.0)
        found = list(readers.read(tmp_path / "a.dcm", Item("a.dcm", None, "image"), tmp_path, VIEWS, 64))
        assert [picture.spacing for picture in found] == [(1.0, 2.0)] * frames


class TestVolumes:
    def enhanced(self, order=range(10), times=1):
        groups = [
            item_of(
                PlanePositionSequence=[item_of(ImagePositionPatient=[0, 0, 2.0 * z])],
                PlaneOrientationSequence=[item_of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                PixelMeasuresSequence=[item_of(PixelSpacing=[1.0, 1.0])],
                PixelValueTransformationSequence=[item_of(RescaleSlope=1.0 + z % 2, RescaleIntercept=0.0)],
            )
            for _ in range(times)
            for z in order
        ]
        stored = np.concatenate([np.stack([BALL[:, :, z].T + time for z in order]) for time in range(times)])
        return dicom(stored.astype(np.int16), PerFrameFunctionalGroupsSequence=groups)

    @pytest.mark.parametrize("order", [range(10), range(9, -1, -1), [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]])
    def test_even_frames_are_a_volume_in_the_order_of_their_positions(self, tmp_path, order):
        (tmp_path / "a.dcm").write_bytes(self.enhanced(order))
        volume = read_volume(tmp_path / "a.dcm")
        factors = 1.0 + np.arange(10) % 2
        assert np.array_equal(volume.array, (BALL * factors)[::-1, ::-1]) and volume.spacing == (1.0, 1.0, 2.0)
        coronal = decode(tmp_path / "a.dcm", slice_index=3, axis="coronal")
        assert np.array_equal(coronal.array, volume.slice(3, "coronal").array)
        frame = decode(tmp_path / "a.dcm", slice_index=0)
        assert np.array_equal(frame.array, BALL[:, :, order[0]].T)

    def test_frames_of_several_times(self):
        volume = read_volume(io.BytesIO(self.enhanced(times=3)), name="a.dcm")
        assert volume.array.shape == (12, 14, 10, 3)
        assert np.array_equal(volume.array[..., 2][..., ::2], (BALL + 2)[::-1, ::-1, ::2])

    @pytest.mark.parametrize("block", [0x10, 0x11])
    def test_a_mosaic_is_a_volume(self, tmp_path, block):
        tiles = np.zeros((4, 4, 14, 12), np.int16)
        tiles.reshape(16, 14, 12)[:10] = BALL.transpose(2, 1, 0)
        header = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "SpacingBetweenSlices": 2.0}
        header |= {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
        header |= {"ImagePositionPatient": [0, 0, 0]}
        data = dicom(tiles.transpose(0, 2, 1, 3).reshape(56, 48), **header)
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.add_new(0x00190010, "LO", "ANOTHER")
        dataset.add_new(0x00190000 + block, "LO", "SIEMENS MR HEADER")
        dataset.add_new(0x0019000A + (block << 8), "US", 10)
        dataset.save_as(tmp_path / "a.dcm")
        volume = read_volume(tmp_path / "a.dcm")
        assert np.array_equal(volume.array, BALL[::-1, ::-1]) and volume.spacing == (1.0, 1.0, 2.0)
        found = list(readers.read(tmp_path / "a.dcm", Item("a.dcm", None, "image"), tmp_path, VIEWS, 64))
        assert {picture.view for picture in found} == set(VIEWS)


class TestSeries:
    def test_small_slopes_keep_values(self, tmp_path, make):
        window = {"window": [0, 900 * 1.02609e-8]}
        files = volume_slices(RescaleSlope=lambda z: f"{1.02609e-8 * (1 + z % 2):.9g}", RescaleIntercept=0)
        pictures, unread, _ = rows(tmp_path, files, "own", make, window)
        assert not unread and views_of(pictures) == set(VIEWS)
        for z in range(10):
            expected = np.clip(BALL[:, :, z].T * (1 + z % 2) / 900 * 255, 0, 255)
            assert np.abs(pictures[0, "axial", z] - expected).max() <= 1

    @pytest.mark.parametrize("dtype", ["u2", "i2", "u4"])
    def test_integers_beyond_16_bits_are_kept_apart(self, tmp_path, make, dtype):
        high = {"u2": 65535, "i2": 32767, "u4": 2**32 - 1}[dtype]
        array = np.linspace(0, high, BALL.size).reshape(BALL.shape).astype(dtype)
        pictures, _, _ = rows(tmp_path, volume_slices(array), "own", make, {"window": [0, high]})
        expected = array[:, :, 5].T.astype(float) / high * 255
        assert np.abs(pictures[0, "axial", 5] - expected).max() <= 1

    @pytest.mark.parametrize("bad", [0, 4, 9])
    def test_a_file_cut_short_costs_its_slice_and_is_named(self, tmp_path, make, bad):
        files = volume_slices()
        files[f"{bad:02}.dcm"] = files[f"{bad:02}.dcm"][:-100]
        pictures, unread, _ = rows(tmp_path, files, "own", make)
        assert views_of(pictures) == set(VIEWS)
        assert sorted(z for _, view, z in pictures if view == "axial") == [z for z in range(10) if z != bad]
        assert list(unread) == [f"own/{bad:02}.dcm"]

    def test_a_series_of_which_nothing_can_be_read_is_refused(self, tmp_path, make):
        files = {name: data[:-100] for name, data in volume_slices().items()}
        with pytest.raises(UserError):
            rows(tmp_path, files, "own", make)

    @pytest.mark.parametrize("where", ["series", "a.zip", "a.tar", "a.tar.gz"])
    def test_a_report_a_scout_and_a_copy_cost_themselves(self, tmp_path, make, where):
        files = volume_slices()
        files["copy.dcm"] = files["03.dcm"]
        files["report.dcm"] = dicom(None, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
        scout = {
            "ImagePositionPatient": [0, 0, 0],
            "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
            "PixelSpacing": [1, 1],
        }
        files["scout.dcm"] = dicom(np.full((20, 30), 7, np.int16) + np.arange(30, dtype=np.int16), **scout)
        again = {"ImagePositionPatient": [0, 0, 6.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        files["again.dcm"] = dicom(BALL[:, :, 3].T.copy(), PixelSpacing=[1, 1], InstanceNumber=99, **again)
        pictures, unread, excluded = rows(tmp_path, files, "own", make, where=where)
        assert not unread and {z for _, view, z in pictures if view == "axial"} == set(range(10))
        assert sum(view == "frame" for _, view, _ in pictures) == 2
        assert sorted(excluded.values()) == ["a copy of another file of its series", "no picture"]

    @pytest.mark.parametrize("where", ["a.zip", "a.tar", "a.tar.gz"])
    def test_a_series_in_an_archive_is_the_same_as_loose(self, tmp_path, make, where):
        loose, _, _ = rows(tmp_path / "1", volume_slices(), "own", make)
        packed, _, _ = rows(tmp_path / "2", volume_slices(), "own", make, where=where)
        assert loose.keys() == packed.keys() and len(loose) == 36
        assert all(np.array_equal(loose[key], packed[key]) for key in loose)

    @pytest.mark.parametrize("where", ["series", "a.zip"])
    @pytest.mark.parametrize("wrong", ["gone", "header", "shape"])
    def test_a_slice_without_a_place_leaves_a_gap(self, tmp_path, make, where, wrong):
        files = volume_slices()
        whole, _, _ = rows(tmp_path / "whole", files, None, make, {"window": [0, 999]})
        if wrong == "gone":
            del files["05.dcm"]
        else:
            header = {"ImagePositionPatient": [0, 0, 10.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            header |= {"PixelSpacing": [1, 1], "InstanceNumber": 5}
            smaller = dicom(np.ascontiguousarray(BALL[:6, :7, 5].T), **header)
            files["05.dcm"] = files["05.dcm"][:300] if wrong == "header" else smaller
        found, _, excluded = rows(tmp_path / "gap", files, None, make, {"window": [0, 999]}, where)
        assert list(excluded.values()) == [NOT_DICOM] * (wrong == "header")
        expected = {(view, index): pixels for (_, view, index), pixels in whole.items()}
        slices = {(view, index): pixels for (_, view, index), pixels in found.items() if view != "frame"}
        assert len(found) - len(slices) == (wrong == "shape")
        assert expected.keys() - slices.keys() == {("axial", 5)}
        for (view, index), pixels in slices.items():
            complete = expected[view, index]
            if view != "axial":  # feet are down: slice 5 of 10 is row 4, which repeats a neighbour
                pixels, complete = np.delete(pixels, 4, 0), np.delete(complete, 4, 0)
            assert np.array_equal(pixels, complete)

    def test_more_than_a_tenth_missing_is_no_volume(self, tmp_path, make):
        files = volume_slices()
        del files["05.dcm"], files["02.dcm"]
        assert views_of(rows(tmp_path, files, None, make)[0]) == {"frame"}

    @pytest.mark.parametrize("bare", [False, True])
    def test_files_without_a_series_are_one_where_they_form_a_stack(self, tmp_path, make, bare):
        """An anonymiser may take the identifier, an old exporter writes no preamble."""
        files = volume_slices(SeriesInstanceUID="")
        files = {name: data[132:] if bare else data for name, data in files.items()}
        found, _, excluded = rows(tmp_path / "stack", files, None, make)
        assert views_of(found) == set(VIEWS) and not excluded
        apart = {name: data for name, data in files.items() if int(name[:2]) in (0, 1, 5)}
        apart["note.dcm"] = b"no DICOM at all" * 99
        found, _, excluded = rows(tmp_path / "apart", apart, None, make)
        assert {number for number, _, _ in found} == {0, 1, 2} and list(excluded.values()) == [NOT_DICOM]

    def test_a_radial_series_stays_one_of_pictures(self, tmp_path, make):
        turned = lambda z: [float(np.cos(z / 10)), float(np.sin(z / 10)), 0, 0, 0, -1]  # noqa: E731
        pictures, _, _ = rows(tmp_path, volume_slices(ImageOrientationPatient=turned), "own", make)
        assert sorted(pictures) == [(0, "frame", z) for z in range(10)]


def test_an_object_that_is_no_picture_has_an_outcome_of_its_own(tmp_path, make):
    from dataset_builder.limits import refusal

    mask = np.ones((8, 8), np.uint8)
    for number, modality in (("66.4", "SEG"), ("481.2", "RTDOSE"), ("7", "SEG"), ("88.33", "SR"), ("9.1.1", "ECG")):
        data = dicom(mask, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{number}", Modality=modality)
        with pytest.raises(NoPicture) as caught:
            decode(data)
        assert refusal(caught.value).outcome == "no picture"
    decode(dicom(mask, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.1", Modality="RTIMAGE"))


def test_a_series_may_be_packed_by_gzip(make, tmp_path):
    files = volume_slices()
    loose, _, _ = rows(tmp_path / "loose", files, None, make)
    place = tmp_path / "packed" / "raw" / "own"
    place.mkdir(parents=True)
    pack(place, {f"{name}.gz": gzip.compress(data) for name, data in files.items()}, "series")
    record = make.record(tmp_path, "own", items=[{"pattern": "**/*.dcm.gz", "kind": "dicom_series"}], access="open")
    (item,) = list_items(load_source(str(record)), tmp_path / "packed" / "raw")
    pictures = list(readers.read(place, item, tmp_path / "packed" / "raw", VIEWS, 64))
    assert len(pictures) == len(loose) > 20
    for one, other in zip(pictures, loose.values(), strict=True):
        assert np.array_equal(one.pixels, other)


def test_no_archive_is_taken_for_a_slice(make, tmp_path):
    """A pattern of a series may match every file, and its archives are looked into all the same."""
    place = tmp_path / "raw" / "own"
    place.mkdir(parents=True)
    for where in ("a.zip", "b.tar.gz"):
        pack(place, volume_slices(), where)
    (place / "c.7z").write_bytes(b"7z")
    record = make.record(tmp_path, "own", items=[{"pattern": "**", "kind": "dicom_series"}], access="open")
    items = list(list_items(load_source(str(record)), tmp_path / "raw"))
    series = [(item.path, item.kind, len(item.members)) for item in items if item.excluded is None]
    assert series == [(f"own/{where}", "dicom_series", 10) for where in ("a.zip", "b.tar.gz")]
    assert ["unpack it here" in item.excluded for item in items if item.excluded] == [True]
