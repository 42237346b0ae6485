"""Volumes as cases: files and DICOM series by their slices, pooled or weighed, and told in the record."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.decoding.files import FORMATS
from biovfm_hf.errors import UserError
from evaluation.commands.embed import EmbedOptions, embed
from evaluation.commands.probe import ProbeOptions, probe
from evaluation.commands.search import SearchOptions, search
from evaluation.encoders.pooling import case_features
from evaluation.tasks import open_task
from evaluation.tasks.listing import Listing
from evaluation.tasks.volume_cases import CaseSlices, Slicing, find_volumes, is_volume, open_cases

nibabel = pytest.importorskip("nibabel")


def write_volume(path, label, seed, depth=6):
    array = np.random.default_rng(seed).integers(0, 300, (12, 10, depth)).astype(np.int16)
    array[2:8, 2:8, depth // 2] += 900 * label
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def listed(tmp_path):
    rows = []
    for patient in range(15):
        label = patient % 2
        write_volume(tmp_path / f"p{patient:02d}.nii.gz", label, patient, depth=5 + patient % 3)
        rows.append(f"p{patient:02d}.nii.gz,{label},p{patient:02d}")
    path = tmp_path / "volumes.csv"
    path.write_text("\n".join(["image,label,subject", *rows]) + "\n")
    return path


def test_slices_are_spread_evenly_and_all_taken_of_a_thin_volume():
    assert Slicing(("axial",), 2).chosen((9, 9, 8)) == (("axial", 2), ("axial", 6))
    assert len(Slicing(("axial", "coronal"), 4).chosen((9, 3, 8))) == 4 + 3
    assert len(Slicing(("sagittal",), 0).chosen((9, 3, 8))) == 9
    assert Slicing(("axial", "sagittal"), 4).chosen((9, 1, 8)) == (("coronal", 0),)  # a picture
    with pytest.raises(UserError, match="give some of"):
        Slicing(("up",))


def test_the_registry_of_formats_says_which_files_are_volumes():
    for one in FORMATS:
        for suffix in (end for name in one.suffixes for end in (name, f"{name}.gz", name.upper())):
            assert is_volume(Path(f"scan{suffix}")) == (one.holds == "volume"), suffix


def test_a_list_of_volumes_is_a_task_of_cases(listed):
    task = open_task(str(listed), listed.parent, listing=Listing(axes=("axial", "coronal"), slices=3))
    assert task.splits["train"].num_cases == 9 and len(task.splits["train"].images) == 9 * 6
    assert task.splits["test"].images[0].dtype == np.uint8
    assert "each volume is up to 3 slices along axial, coronal" in task.notes


def test_an_unreadable_volume_is_named_or_left_out(listed):
    (listed.parent / "p03.nii.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(UserError, match=r"1 of 15 volumes cannot be read: .*line \d+: .*--skip-unreadable"):
        open_task(str(listed), listed.parent)
    task = open_task(str(listed), listed.parent, listing=Listing(skip_unreadable=True))
    assert sum(split.num_cases for split in task.splits.values()) == 14
    assert list(task.warnings) == ["1 of 15 volumes could not be read and are left out"]


def test_probes_pool_or_weigh_the_slices(listed, tiny_model, tmp_path):
    options = dict(
        model=[f"tiny={tiny_model}"], tasks=str(listed), out=tmp_path / "out", resamples=50, no_figures=True
    )
    records = probe(ProbeOptions(**options, method="linear,mil", slices=3, epochs=5, seed=1))
    records = probe(ProbeOptions(**options, method="linear", slices=3, pool="max"))
    assert {(record.method, record.setting("pool")) for record in records} == {
        ("linear", None), ("linear", "max"), ("mil", None),
    }  # fmt: skip
    assert all("each volume is up to 3 slices along axial" in record.notes for record in records)
    scores = np.load(next((tmp_path / "out" / "scores").glob("*mil*.npz")))
    weights = np.bincount(scores["test_case_of_image"], scores["test_attention"])
    np.testing.assert_allclose(weights, 1, atol=1e-5)


def test_attention_needs_several_images_a_case(class_folder, tiny_model, tmp_path):
    options = ProbeOptions(model=[str(tiny_model)], tasks=str(class_folder), out=tmp_path / "out", method="mil")
    with pytest.raises(UserError, match="no method of mil applies"):
        probe(options)


@pytest.mark.parametrize(("pool", "expected"), [("max", [2, 5]), ("mean", [1, 4.5]), ("middle", [1, 5])])
def test_pools(pool, expected):
    features = np.array([[0.0], [1], [2], [4], [5]], np.float32)
    assert case_features(features, np.array([0, 0, 0, 1, 1]), pool)[:, 0].tolist() == expected


@pytest.mark.parametrize("packed", [False, True])
def test_a_dicom_series_is_one_volume(tmp_path, packed):
    pydicom = pytest.importorskip("pydicom")
    folder = tmp_path / "series"
    folder.mkdir()
    study = pydicom.uid.generate_uid(entropy_srcs=["series"])
    for number in (2, 0, 3, 1):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}"
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = study, "CT", number + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.Rows, data.Columns = [1, 1], 8, 6
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelData = np.full((8, 6), 100 * number, np.uint16).tobytes()
        data.save_as(file := folder / f"f{9 - number}.dcm", enforce_file_format=True)
        if packed:
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    assert find_volumes(tmp_path, series=True) == [folder]
    cases, lost = open_cases([folder], Slicing(slices=0))
    assert not lost
    slices = CaseSlices(cases)
    levels = [int(slices[i].mean()) for i in range(len(slices))]
    assert len(levels) == 4 and levels == sorted(levels) and levels[0] < levels[-1]


def test_slices_have_square_pixels_as_the_builders_have(tmp_path):
    array = np.arange(8 * 6 * 5, dtype=np.int16).reshape(8, 6, 5)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 4, 1])), tmp_path / "a.nii")
    cases, _ = open_cases([tmp_path / "a.nii"], Slicing(("axial", "coronal", "sagittal"), 1))
    assert [image.shape for image in CaseSlices(cases)] == [(6, 8, 3), (20, 8, 3), (20, 6, 3)]


def test_a_volume_is_found_by_a_volume(tiny_model, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(4):
        write_volume(scans / f"v{number}.nii.gz", number % 2, number)
    Image.fromarray(np.full((9, 9), 90, np.uint8)).save(scans / "flat.png")
    (scans / "broken.nii.gz").write_bytes(b"\x1f\x8bxx")
    options = {"model": str(tiny_model), "images": str(scans), "slices": 3}
    features = embed(EmbedOptions(**options, axes="axial,coronal", out=tmp_path / "f.parquet"))
    assert features.names == ["flat.png", *(f"v{number}.nii.gz" for number in range(4))]
    assert list(features.left_out) == ["broken.nii.gz"]
    assert features.made_with["pool"] == "mean" and features.made_with["axes"] == "axial,coronal"
    query = {"model": str(tiny_model), "images": scans, "out": tmp_path / "found", "query": [scans / "v2.nii.gz"]}
    (answer,) = search(SearchOptions(**query, features=tmp_path / "f.parquet", top=2))
    assert answer["found"][0] == {"id": "v2.nii.gz", "similarity": pytest.approx(1, abs=1e-5), "itself": True}
    each = embed(EmbedOptions(**options, pool="slices", out=tmp_path / "slices.parquet"))
    assert len(each.names) == 1 + 4 * 3 and each.names[1] == "v0.nii.gz:axial:1"


def test_features_as_csv_or_a_refusal(tiny_model, tmp_path):
    Image.fromarray(np.full((9, 9), 90, np.uint8)).save(tmp_path / "a.png")
    options = {"model": str(tiny_model), "images": str(tmp_path)}
    features = embed(EmbedOptions(**options, out=tmp_path / "x.csv"))
    head, line = (tmp_path / "x.csv").read_text().splitlines()
    assert head.startswith("id,f0,f1") and line.startswith("a.png,")
    np.testing.assert_allclose([float(word) for word in line.split(",")[1:]], features.vectors[0])
    with pytest.raises(UserError, match=r"must end in .parquet or .csv"):
        EmbedOptions(**options, out=tmp_path / "x.npy")


def test_a_picture_in_a_format_of_volumes_stays_a_picture(tmp_path):
    head = "ObjectType = Image\nNDims = 2\nDimSize = 8 6\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(head.encode() + bytes(range(48)))
    cases, lost = open_cases([tmp_path / "a.mha"], Slicing())
    assert not lost and CaseSlices(cases)[0][1, :3, 0].tolist() == [8, 9, 10]
