"""A user's list of images: a CSV file, with columns of any name, as rows of image, label, split and subject."""

import csv
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.options import check_options, option
from biovfm_hf.reading.image_files import walk
from biovfm_hf.volumes import AXES

from .images import read_image
from .task import SPLITS
from .volume_cases import AXES_HELP, SLICES, SLICES_HELP, Slicing, VolumeCase, is_volume, open_cases

# The first name of each column is our own; the others are usual ones, such as Hugging Face's.
IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "path")
LABEL_COLUMNS = ("label", "labels", "class", "target")
SUBJECT_COLUMNS = ("subject", "subject_id", "patient", "patient_id")
SPLIT_COLUMNS = ("split",)
DELIMITERS = ",;\t"  # spreadsheets write semicolons where the comma is in numbers
SPLIT_WORDS = {
    **{word: "train" for word in ("train", "training")},
    **{word: "val" for word in ("val", "valid", "validation", "dev")},
    **{word: "test" for word in ("test", "testing")},
}
LISTED = "a CSV list of your own"
CLASSES, ORDINAL_TARGET = "classes", "ordinal"
NAMED = 3  # missing files that a message names


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Options for reading a CSV list, and `positive` for a folder too. Columns not given are found by usual names."""

    image_column: str | None = option(
        None, "column with the image's path (image, file_name ...)", metavar="C", group=LISTED
    )
    label_column: tuple[str, ...] = option(
        (), "column with the label; several columns of 0 and 1 make a multi-label task", metavar="C,...",
        commas=True, group=LISTED,
    )  # fmt: skip
    subject_column: str | None = option(
        None,
        "column with the patient, whose images stay in one split (subject, patient ...)",
        metavar="C",
        group=LISTED,
    )
    split_column: str | None = option(
        None, "column with train, val or validation, test; without it patients are sampled", metavar="C", group=LISTED
    )
    images_root: Path | None = option(
        None,
        "folder where image paths begin, besides the list's own; for a list of patients without images, the folder "
        "with one sub-folder per patient",
        metavar="DIR",
        group=LISTED,
    )
    files: str | None = option(
        None,
        "for a list of patients without images: which files below their folders, such as '*.nii.gz' (default: all)",
        metavar="PATTERN",
        group=LISTED,
    )
    labels: Path | None = option(
        None,
        "a second list: the label of each patient, and the split if it has that column; joined by the subject column "
        "or, without one, by the patient's folder in the image's path",
        metavar="CSV",
        group=LISTED,
    )
    positive: str | None = option(
        None,
        "the positive class of a list or folder of two classes (default: the last in order; a plainly negative word "
        "such as healthy comes first)",
        metavar="LABEL",
        group=LISTED,
    )
    target: str = option(
        CLASSES, "ordinal: the labels are ordered grades", choices=(CLASSES, ORDINAL_TARGET), group=LISTED
    )
    axes: tuple[str, ...] = option(
        ("axial",), f"{AXES_HELP} (default: axial)", metavar="AXIS,...", commas=True, choices=AXES, group=LISTED
    )
    slices: int = option(SLICES, SLICES_HELP, least=0, group=LISTED)
    skip_unreadable: bool = option(
        False, "decode every image first, leave out unreadable ones and report their lines", group=LISTED
    )


class Case(NamedTuple):
    """One line of a list: image, label (several as `a|b`), split ("" if not given), subject and further columns.

    `where` names the image in messages by its line in the list, because file names can be patients' names.
    """

    file: Path
    label: str
    split: str
    subject: str | None
    row: dict[str, str]
    where: str


def read_listing(path: Path, listing: Listing) -> list[Case]:
    """Read a list of images, or a list of patients whose images are in folders with their names.

    Raises:
        UserError: a column is missing, a line is incomplete or repeats an image, or an image does not exist.
    """
    check_options(listing)
    table = _Table(path)
    subject = table.column(listing.subject_column, SUBJECT_COLUMNS, "subject")
    image = table.column(listing.image_column, IMAGE_COLUMNS, "image")
    people = _Table(listing.labels) if listing.labels else None
    split, their_split = _split_columns(listing, table, people)
    patients = None if people is None else _patients(people, listing, their_split)
    label = () if patients is not None else table.labels(listing.label_column)
    if image is None and (subject is None or listing.images_root is None):
        raise UserError(
            f"{path}: no column of images (image or file_name; there are {', '.join(table.names)}); name it with "
            "--image-column, or give a column of subjects and --images-root with a folder for each"
        )
    cases, folders = [], {}
    if image is None and listing.images_root is not None and subject is not None:
        folders = _folders(listing.images_root, {row[subject].strip() for _, row in table.rows})
    for number, row in table.rows:
        where = f"{path}, line {number}"
        person = row[subject].strip() if subject else None
        if person == "":
            raise UserError(f"{where}: no subject; give every image one, or leave the column out")
        if person is None and patients is not None:
            person = _folder_of(row[str(image)], patients, listing.labels, where)
        about = _Patient(_label(row, label, where)) if patients is None else _joined(patients, person, listing, where)
        part = _split(row[split] if split else "", where) or about.split
        if image is None:
            files = _images_of(folders, listing, person, where)
        elif row[image]:
            files = [_place(path, listing, row[image])]
        else:
            raise UserError(f"{where}: an image and a label are needed; column {image} is empty")
        named = f"{path.name}, line {number}"
        cases += [(number, Case(file, about.label, part, person, row, named)) for file in files]
    _check_repeats(path, cases)
    _check_there(path, listing, cases)
    return [case for _, case in cases]


def readable_cases(cases: Sequence[Case]) -> tuple[list[Case], dict[str, str]]:
    """The cases whose images can be decoded, and a warning about the others with the line and reason of each.

    Raises:
        UserError: no image can be decoded.
    """
    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(_unreadable, cases))
    kept = [case for case, reason in zip(cases, reasons, strict=True) if reason is None]
    lost = [reason for reason in reasons if reason is not None]
    if not kept:
        raise UserError(f"none of {len(lost)} images can be read; the first: {lost[0]}")
    warning = f"{len(lost)} of {len(cases)} images could not be read and are left out"
    return kept, {warning: "; ".join(lost)} if lost else {}


def volumes_of(cases: Sequence[Case], listing: Listing) -> tuple[list[Case], dict[Path, VolumeCase], dict[str, str]]:
    """The cases whose volumes can be read, the volumes with their slices, and a warning about the others.

    Raises:
        UserError: images and volumes are mixed, no volume can be read, or some cannot and the options do not skip
            them.
    """
    if flat := next((case.where for case in cases if not is_volume(case.file)), None):
        raise UserError(
            f"{flat}: a picture among volumes; give a list for each of the two or, for a list of patients, choose the "
            "files with --files '*.nii.gz'"
        )
    volumes, unread = open_cases([case.file for case in cases], Slicing(listing.axes, listing.slices))
    lost = [unread[case.file].replace(str(case.file), case.where) for case in cases if case.file in unread]
    if lost and not volumes:
        raise UserError(f"none of {len(lost)} volumes can be read; the first: {lost[0]}")
    if lost and not listing.skip_unreadable:
        raise UserError(
            f"{len(lost)} of {len(cases)} volumes cannot be read, the first: {lost[0]}; correct the "
            "list, or leave them out by --skip-unreadable"
        )
    opened = {volume.path: volume for volume in volumes}
    warning = f"{len(lost)} of {len(cases)} volumes could not be read and are left out"
    return [case for case in cases if case.file in opened], opened, {warning: "; ".join(lost)} if lost else {}


def _unreadable(case: Case) -> str | None:
    try:
        read_image(case.file, name=case.where)
        return None
    except UserError as error:
        return str(error)


class _Table:
    """A CSV file, separated by what its first line has most of: its column names, its rows with their line numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                head = stream.readline()
                stream.seek(0)
                reader = csv.DictReader(stream, delimiter=max(DELIMITERS, key=head.count))
                self.rows = [(reader.line_num, row) for row in reader]
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; check its name") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} is not a UTF-8 CSV file ({error})") from error
        if not self.rows:
            raise UserError(f"{path}: the first line must name the columns, such as image,label, and rows follow")
        self.names = [name for name in self.rows[0][1] if name is not None]
        for number, row in self.rows:
            if None in row or None in row.values():
                raise UserError(f"{path}, line {number}: as many fields as columns are needed ({len(self.names)})")

    def column(self, given: str | None, usual: Iterable[str], what: str) -> str | None:
        """The column with the given name, or the first of the usual names that exists; None if there is none."""
        if given is None:
            return next((name for name in usual if name in self.names), None)
        if given not in self.names:
            raise UserError(f"{self.path}: no column {given!r} ({what}-column){did_you_mean(given, self.names)}")
        return given

    def labels(self, given: Sequence[str]) -> tuple[str, ...]:
        """The columns of labels: the given ones, or one with a usual name."""
        named = [self.column(name, (), "label") for name in given] or [self.column(None, LABEL_COLUMNS, "label")]
        if None in named:
            raise UserError(
                f"{self.path}: no column of labels (label; there are {', '.join(self.names)}); name it with "
                "--label-column"
            )
        return tuple(name for name in named if name is not None)


def _label(row: dict[str, str], columns: tuple[str, ...], where: str) -> str:
    """A row's label; for several columns of 0 and 1, the names of those with 1, as `a|b`."""
    if len(columns) == 1:
        if not row[columns[0]]:
            raise UserError(f"{where}: an image and a label are needed; column {columns[0]} is empty")
        return row[columns[0]]
    for name in columns:
        if row[name] not in ("0", "1", "0.0", "1.0"):
            raise UserError(f"{where}: {name} is {row[name]!r}; of several label columns each holds 0 or 1")
    return "|".join(name for name in columns if float(row[name]) == 1) or "|"


class _Patient(NamedTuple):
    label: str
    split: str = ""


def _split_columns(listing: Listing, table: _Table, people: _Table | None) -> tuple[str | None, str | None]:
    """The column of splits in the list, or else that in the list of patients."""
    names = {listing.split_column} if listing.split_column else set(SPLIT_COLUMNS)
    if people is None or names & set(table.names) or not names & set(people.names):
        return table.column(listing.split_column, SPLIT_COLUMNS, "split"), None
    return None, people.column(listing.split_column, SPLIT_COLUMNS, "split")


def _patients(table: _Table, listing: Listing, split: str | None) -> dict[str, _Patient]:
    """{subject: label and split} from the second list."""
    subject = table.column(listing.subject_column, SUBJECT_COLUMNS, "subject")
    if subject is None:
        raise UserError(f"{listing.labels}: no column of subjects; name it with --subject-column")
    columns = table.labels(listing.label_column)
    patients: dict[str, _Patient] = {}
    for number, row in table.rows:
        where = f"{listing.labels}, line {number}"
        patient = _Patient(_label(row, columns, where), _split(row[split] if split else "", where))
        if patients.setdefault(row[subject].strip(), patient) != patient:
            raise UserError(
                f"{where}: {row[subject]} has another label or split in a line above; give each subject one"
            )
    return patients


def _joined(patients: dict[str, _Patient], person: str | None, listing: Listing, where: str) -> _Patient:
    if person not in patients:
        raise UserError(
            f"{where}: subject {person} has no label in {listing.labels}; add a line, or leave the image out"
        )
    return patients[person]


def _folder_of(image: str, patients: dict[str, _Patient], labels: Path | None, where: str) -> str:
    """The patient after whom the first such folder of an image's path is named."""
    person = next((part for part in Path(image).parts if part in patients), None)
    if person is None:
        raise UserError(
            f"{where}: no folder in the image's path is a subject of {labels}; add the subject there, or a column of "
            "subjects here (--subject-column)"
        )
    return person


def _split(word: str, where: str) -> str:
    if not word.strip():
        return ""
    if (split := SPLIT_WORDS.get(word.strip().lower())) is None:
        raise UserError(f"{where}: split {word!r} is none of {', '.join(SPLITS)} (validation is val)")
    return split


def _folders(root: Path, people: set[str]) -> dict[str, list[Path]]:
    """The folders of subjects, on the first level below the root that has any: there may be one above for each centre.

    Deeper ones of the same name are something else, such as the numbers of series.
    """
    level, named = [root], dict[str, list[Path]]()
    while level and not named:
        below = [child for folder in level if folder.is_dir() for child in folder.iterdir()]
        level = sorted(child for child in below if child.is_dir() and not child.is_symlink())
        for folder in level:
            if folder.name in people:
                named.setdefault(folder.name, []).append(folder)
    return named


def _images_of(folders: dict[str, list[Path]], listing: Listing, person: str | None, where: str) -> list[Path]:
    """The images below a subject's folders."""
    images = [file for folder in folders.get(str(person), []) for file, reason in walk(folder) if reason is None]
    files = [file for file in images if listing.files is None or file.match(listing.files)]
    if not files:
        kind = "an image" if listing.files is None else f"an image {listing.files}"
        raise UserError(
            f"{where}: no folder {person} below {listing.images_root} holds {kind}; check --images-root"
            f"{' and --files' if listing.files else ''}, or leave the subject out"
        )
    return files


def _places(path: Path, listing: Listing) -> list[Path]:
    return [folder for folder in (listing.images_root, path.parent) if folder is not None]


def _place(path: Path, listing: Listing, name: str) -> Path:
    """The path of an image: below the images root or beside the list; the first of the two if it exists at neither."""
    places = [folder / name for folder in _places(path, listing)]
    return next((place for place in places if place.exists()), places[0])


def _check_there(path: Path, listing: Listing, cases: list[tuple[int, Case]]) -> None:
    missing = [(number, case.file) for number, case in cases if not case.file.exists()]
    if not missing:
        return
    looked = " and ".join(str(folder) for folder in dict.fromkeys(_places(path, listing)))
    first = ", ".join(f"{_shown_path(file, path, listing)} (line {number})" for number, file in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    raise UserError(
        f"{path}: {len(missing)} of {len(cases)} images are not there: {first}{more}; looked in {looked}; give the "
        "folder where the paths begin as --images-root, or correct the list"
    )


def _shown_path(file: Path, path: Path, listing: Listing) -> Path:
    folder = next((folder for folder in _places(path, listing) if file.is_relative_to(folder)), None)
    return file if folder is None else file.relative_to(folder)


def _check_repeats(path: Path, cases: list[tuple[int, Case]]) -> None:
    """Raise a UserError if an image has two lines, because it would count as two cases, even with different labels."""
    seen: dict[Path, int] = {}
    for number, case in cases:
        if (first := seen.setdefault(case.file, number)) != number:
            raise UserError(
                f"{path}, line {number}: {case.file.name} is in line {first} already; give each image one line and "
                "one split (several labels as a|b)"
            )
