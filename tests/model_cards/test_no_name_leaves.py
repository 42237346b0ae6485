"""A private folder with names in every possible place goes through every command: no output contains a name.

What the builder and `embed` keep for their user alone (OUT/.build, OUT.paths.csv) may.
"""

import csv
import gzip
import shlex
import zipfile
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import scipy.io
import tifffile
import yaml
from PIL import Image, PngImagePlugin

from biovfm_hf.cli import main
from tests.dataset_builder.conftest import picture, volume, write_dicom

NAME, DATE = "quimbyxy", "20230115"
OWN = (".build", "features.parquet.paths.csv")
RECORD = {
    "id": "clinic", "name": "Our clinic", "modality": ["MR", "Ultrasound"], "access": "private", "train": "all",
    "items": [
        {"pattern": "**/*.{nii.gz,mha,nrrd}", "kind": "volume"},
        {"pattern": "*.h5", "kind": "hdf5", "adapter": "hdf5_rows", "key": "x"}, "**/*.{png,jpg,tif,dcm,npy,mat}",
    ],
    "subject": {"path": "^([a-z]+)-given"},
}  # fmt: skip
JOURNEY = f"""
sources show clinic.yaml --raw raw
build --raw raw --out dataset --sources clinic.yaml --size 64 --workers 0
build --out dataset --check --workers 0
pretrain mae_smoke --data dataset --out run steps=2 data.workers=0
embed --model run/model --images dataset --out rows.parquet
embed --model run/model --images raw/clinic --out features.parquet --slices 2
search --model run/model --features rows.parquet --query '{NAME}.png' --query '{NAME} broken.png' --out alike_rows
search --model run/model --features features.parquet --query '{NAME}.png' --images raw/clinic --out alike
probe --model run/model --tasks patients.csv --out results --resamples 20 --skip-unreadable
card run/model --run run --dataset dataset --results results
report dataset run results --out report.html
"""


def write_person(folder: Path, number: int) -> str:
    """Files of one patient, whose name stands in their paths and in every text that they hold; returns one's path."""
    name = f"{NAME}{chr(97 + number)}"
    place = folder / f"{name}-given 00{number}" / f"Study {DATE}"
    place.mkdir(parents=True)
    texts, exif = PngImagePlugin.PngInfo(), Image.Exif()
    texts.add_text("Author", name)
    texts.add_itxt("Comment", f"seen by {name}")
    exif[0x010E] = exif[0x9286] = name
    Image.fromarray(picture(number)).save(place / f"{name} 1.png", pnginfo=texts, exif=exif)
    Image.fromarray(picture(100 + number)).save(place / f"{name}.jpg", exif=exif, comment=name.encode())
    tifffile.imwrite(place / f"{name}.tif", picture(200 + number).astype(np.uint16) * 200, description=name)
    other = pydicom.Dataset()
    other.PatientID = other.PatientMotherBirthName = name
    header = {"PatientName": f"{name}^Zach", "PatientID": name, "InstitutionName": name, "StudyDate": DATE}
    write_dicom(place / f"{name}.dcm", picture(300 + number), OtherPatientIDsSequence=[other], **header)
    dataset = pydicom.dcmread(place / f"{name}.dcm")
    dataset.private_block(0x0011, name, create=True).add_new(1, "LO", name)
    dataset.save_as(place / f"{name}.dcm")
    return str(place / f"{name} 1.png")


def write_others(folder: Path) -> None:
    """One file of each other format, good or damaged, with the name in its texts, attributes, fields and members."""
    image = nibabel.Nifti1Image(volume(1, (40, 44, 36)), np.eye(4))
    for field in ("descrip", "aux_file", "db_name"):
        image.header[field] = NAME.encode()
    nibabel.save(image, folder / f"{NAME}.nii.gz")
    with h5py.File(folder / f"{NAME}.h5", "w") as file:
        file["x"] = np.stack([picture(500 + n) for n in range(3)])
        file["x"].attrs["patient"] = file.attrs["name"] = NAME
    scipy.io.savemat(folder / f"{NAME}.mat", {NAME: picture(600), "text": NAME})
    np.save(folder / "a.npy", np.zeros(3, dtype=[(NAME, "f4")]))
    dicom = next(folder.rglob("*.dcm")).read_bytes()
    fields = f"NDims = {NAME}\nDimSize = 3 3 3\nElementType = {NAME}\nElementDataFile = {NAME}.raw\n"
    damaged = {
        f"{NAME} cut.dcm": dicom[:400],
        f"{NAME} bad.dcm": dicom.replace(b"MONOCHROME2", NAME.encode().ljust(11)),
        f"{NAME} broken.png": b"\x89PNG\r\n\x1a\n" + NAME.encode() * 9,
        f"{NAME} broken.tif": b"II*\0" + NAME.encode() * 9,
        f"{NAME}.mha": f"ObjectType = Image\n{fields}".encode(),
        f"{NAME}.nrrd": f"NRRD0004\ntype: {NAME}\ndimension: {NAME}\nsizes: 3\nencoding: {NAME}\n\n".encode(),
        f"{NAME}.7z": b"7z" + NAME.encode(),
        f"report of {NAME}.pdf": NAME.encode(),
    }
    for name, data in damaged.items():
        (folder / name).write_bytes(data)
    with zipfile.ZipFile(folder / f"{NAME}.zip", "w") as archive:
        archive.writestr(f"{NAME}/1.png", next(folder.rglob("*1.png")).read_bytes())
        archive.writestr(f"{NAME}/2.dcm", dicom)
        archive.writestr(f"{NAME}/x.png", b"\x89PNG" + NAME.encode())
        archive.comment = NAME.encode()


@pytest.fixture
def hospital(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw" / "clinic").mkdir(parents=True)
    paths = [write_person(Path("raw/clinic"), number) for number in range(12)]
    write_others(Path("raw/clinic"))
    Path(f"{NAME}.png").write_bytes(Path(paths[0]).read_bytes())
    Path(f"{NAME} broken.png").write_bytes(b"no picture")
    rows = [[path, ("dark", "bright")[n % 2], f"{NAME}{n}", NAME] for n, path in enumerate(paths)]
    rows.append([f"raw/clinic/{NAME} broken.png", "dark", "zz", NAME])
    with Path("patients.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "label", "patient", "physician"], *rows])
    Path("clinic.yaml").write_text(yaml.safe_dump(RECORD))
    return tmp_path


def whole(path: Path) -> bytes:
    """The bytes of a file, with what is packed in it."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        data += repr(pq.read_table(path).to_pylist()).encode() + str(pq.read_schema(path).metadata).encode()
    if path.suffix in (".npz", ".zip"):
        with zipfile.ZipFile(path) as archive:
            data += b"".join(name.encode() + archive.read(name) for name in archive.namelist())
    return data + (gzip.decompress(data) if path.suffix == ".gz" else b"")


def tells(data: bytes) -> bool:
    low = data.lower()
    return any(word in low for word in (NAME.encode(), NAME.encode("utf-16-le"), DATE.encode()))


def test_no_name_is_in_any_byte_of_any_output(hospital, capfd):
    before = {path for path in hospital.rglob("*") if path.is_file()}
    for command in filter(None, JOURNEY.splitlines()):
        assert main(shlex.split(command)) == 0, command
        shown = capfd.readouterr()
        own = shown.out if command.startswith("sources") else ""  # which shows the user a path of theirs
        assert not tells((shown.out.replace(own, "") + shown.err).encode()), command
    assert main(["push", "run/model", "me/model"]) == 1  # without a terminal nobody can be asked
    shown = capfd.readouterr()
    assert "--private-sources-ok" in shown.err and not tells((shown.out + shown.err).encode())
    written = [path for path in hospital.rglob("*") if path.is_file() and path not in before]
    leaks = [path for path in written if tells(whole(path) + str(path.relative_to(hospital)).encode())]
    assert not [path for path in leaks if not set(path.relative_to(hospital).parts) & set(OWN)]
    assert len(written) > 30 and {path.name for path in leaks} >= {"items.parquet", "features.parquet.paths.csv"}
