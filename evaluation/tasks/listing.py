"""A user's list of images: a CSV file, with columns of any name, as rows of image, label, split and subject."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from biovfm_hf.errors import UserError
from biovfm_hf.options import check_options, option
from biovfm_hf.reading.image_files import walk
from biovfm_hf.volumes import AXES

from .classes import check_measured, is_missing
from .table import Table
from .task import SPLITS, LeftOut
from .volume_cases import AXES_HELP, SLICES, SLICES_HELP

# The first name of each column is our own; the others are usual ones, such as Hugging Face's.
IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "path")
SUBJECT_COLUMNS = ("subject", "subject_id", "patient", "patient_id")
SPLIT_COLUMNS = ("split",)
SPLIT_WORDS = {
    **{word: "train" for word in ("train", "training")},
    **{word: "val" for word in ("val", "valid", "validation", "dev")},
    **{word: "test" for word in ("test", "testing")},
}
LISTED = "a CSV list of your own"
CLASSES, ORDINAL_TARGET = "classes", "ordinal"
NAMED = 3  # lines that a message names


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
        False,
        "decode every image first, and leave out and list unreadable ones and those that are not there",
        group=LISTED,
    )


class Case(NamedTuple):
    """One line of a list: image, label (several as `a|b`), split ("" if not given), subject and further columns.

    `where` names the image in messages by its line in the list, because file names can be patients' names, and by its
    file below the patient's folder if the line is that of a patient. `folder` is that folder, and `anonymous`
    names the file by its number there.
    """

    file: Path
    label: str
    split: str
    subject: str | None
    row: dict[str, str]
    where: str
    folder: Path | None = None
    anonymous: str = ""


class _Lack(Exception):
    """What a line of a list lacks, in words that follow "N of M lines have"; what to show of it; and what to do."""

    def __init__(self, what: str, shown: str, remedy: str, left_out: str = "") -> None:
        super().__init__(what)
        self.what, self.shown, self.remedy = what, shown, remedy
        self.left_out = left_out  # the reason to leave the line out, if the options may skip it


def read_listing(path: Path, listing: Listing) -> tuple[list[Case], list[LeftOut]]:
    """Read a list of images, or a list of patients whose images are in folders with their names.

    Returns:
        The cases and, if the options skip what cannot be read, the lines whose files are not there.

    Raises:
        UserError: a column is missing, lines are incomplete or repeat an image, or images do not exist. All such lines
            are counted.
    """
    check_options(listing)
    lines = _Lines(path, listing)
    cases, lacks = list[tuple[int, Case]](), list[tuple[int, _Lack]]()
    for number, row in lines.table.rows:
        try:
            cases += [(number, case) for case in lines.cases(number, row)]
        except _Lack as lack:
            lacks.append((number, lack))
    lacks += _missing(path, listing, cases)
    skipped = {number: lack.left_out for number, lack in lacks if listing.skip_unreadable and lack.left_out}
    kept = [case for number, case in cases if number not in skipped]
    refused = [(number, lack) for number, lack in lacks if number not in skipped or not kept]
    if refused:
        check_measured(path.stem, {case.label for case in kept}, len(kept))
        raise UserError(_faults(path, refused, len(lines.table.rows)))
    _check_repeats(path, cases)
    return kept, [LeftOut(f"{path.name}, line {number}", why) for number, why in skipped.items()]


class _Lines:
    """Makes cases of the lines of a list; the columns are looked up once."""

    def __init__(self, path: Path, listing: Listing) -> None:
        self.path, self.listing, self.table = path, listing, Table(path)
        table, people = self.table, Table(listing.labels) if listing.labels else None
        self.subject = table.column(listing.subject_column, SUBJECT_COLUMNS, "subject")
        self.image = table.column(listing.image_column, IMAGE_COLUMNS, "image")
        self.split, their_split = _split_columns(listing, table, people)
        self.patients = None if people is None else _patients(people, listing, their_split)
        self.label = () if self.patients is not None else table.labels(listing.label_column)
        self.folders = dict[str, list[Path]]()
        if self.image is None:
            if self.subject is None or listing.images_root is None:
                raise UserError(
                    f"{path}: no column of images (image or file_name; there are {', '.join(table.names)}); name it "
                    "with --image-column, or give a column of subjects and --images-root with a folder for each"
                )
            self.folders = _folders(listing.images_root, {row[self.subject].strip() for _, row in table.rows})

    def cases(self, number: int, row: dict[str, str]) -> list[Case]:
        """The cases of a line: one, or one for each file of a patient.

        Raises:
            _Lack: the line is incomplete.
        """
        about, named = self._about(row), f"{self.path.name}, line {number}"
        part = _split(row[self.split] if self.split else "") or about.split
        if self.image is not None:
            if not row[self.image].strip():
                raise _Lack("no image", "", f"fill in column {self.image}, or delete these lines")
            file = _place(self.path, self.listing, row[self.image])
            return [Case(file, about.label, part, about.name, row, named, None, named)]
        files = _images_of(self.folders, self.listing, str(about.name))
        return [
            Case(file, about.label, part, about.name, row, f"{named}, {_below(file, folder, str(about.name))}", folder,
                 f"{named}, file {place} of {len(files)}")
            for place, (folder, file) in enumerate(files, 1)
        ]  # fmt: skip

    def _about(self, row: dict[str, str]) -> "_Patient":
        """Name, label and split of a line's subject, or those of the line itself."""
        person = row[self.subject].strip() if self.subject else None
        if person == "":
            raise _Lack("no subject", "", "give every image one, or leave the column out")
        if self.patients is None:
            return _Patient(_label(row, self.label), "", person)
        if person is None:
            person = _folder_of(row[str(self.image)], self.patients, self.listing.labels)
        if person not in self.patients:
            raise _Lack(
                f"no label of the subject in {self.listing.labels}", person, "add lines there, or leave these out"
            )
        return self.patients[person]._replace(name=person)


def _below(file: Path, folder: Path, person: str) -> str:
    """A file's path below a patient's folder, with * in place of the patient's name unless that is a mere digit."""
    below = file.relative_to(folder).as_posix()
    return below.replace(person, "*") if len(person) > 2 else below


def _missing(path: Path, listing: Listing, cases: list[tuple[int, Case]]) -> list[tuple[int, _Lack]]:
    """What lines lack whose images do not exist."""
    looked = " and ".join(str(folder) for folder in dict.fromkeys(_places(path, listing)))
    remedy = f"looked in {looked}; give the folder where the paths begin as --images-root, or correct the list"
    return [
        (
            number,
            _Lack(
                "an image that is not there",
                str(_shown_path(case.file, path, listing)),
                remedy,
                "the image is not there",
            ),
        )
        for number, case in cases
        if not case.file.exists()
    ]


def _faults(path: Path, lacks: list[tuple[int, _Lack]], total: int) -> str:
    """One message about all incomplete lines, with the first ones of each kind and what to do."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for number, lack in lacks:
        kinds.setdefault((lack.what, lack.remedy), []).append(f"line {number}" + (lack.shown and f" ({lack.shown})"))
    told = [
        f"{len(lines)} of {total} lines {'has' if len(lines) == 1 else 'have'} {what}: {listed(lines)}; {remedy}"
        for (what, remedy), lines in kinds.items()
    ]
    only = "--skip-unreadable leaves out only lines whose file is not there"
    skips = "--skip-unreadable leaves these out" if all(lack.left_out for _, lack in lacks) else only
    return f"{path}: " + "; ".join([*told, skips])


def listed(things: Sequence[str], between: str = ", ") -> str:
    """The first few of many things, and how many more there are."""
    return between.join(things[:NAMED]) + (f" and {len(things) - NAMED} more" if len(things) > NAMED else "")


def _label(row: dict[str, str], columns: tuple[str, ...]) -> str:
    """A row's label; for several columns of 0 and 1, the names of those with 1, as `a|b`."""
    if len(columns) == 1:
        if is_missing(label := row[columns[0]].strip()):
            raise _Lack(
                f"no label in column {columns[0]} (empty, or a word such as NA)",
                "",
                "give each a label, or delete these lines",
            )
        return label
    for name in columns:
        if row[name].strip() not in ("0", "1", "0.0", "1.0"):
            what = "something else than the 0 or 1 of several label columns"
            raise _Lack(what, f"{name} is {row[name]!r}", "write 0 or 1, or delete these lines")
    return "|".join(name for name in columns if float(row[name]) == 1) or "|"


class _Patient(NamedTuple):
    label: str
    split: str = ""
    name: str | None = None


def _split_columns(listing: Listing, table: Table, people: Table | None) -> tuple[str | None, str | None]:
    """The column of splits in the list, or else that in the list of patients."""
    names = {listing.split_column} if listing.split_column else set(SPLIT_COLUMNS)
    if people is None or names & set(table.names) or not names & set(people.names):
        return table.column(listing.split_column, SPLIT_COLUMNS, "split"), None
    return None, people.column(listing.split_column, SPLIT_COLUMNS, "split")


def _patients(table: Table, listing: Listing, split: str | None) -> dict[str, _Patient]:
    """{subject: label and split} from the second list."""
    subject = table.column(listing.subject_column, SUBJECT_COLUMNS, "subject")
    if subject is None:
        raise UserError(f"{listing.labels}: no column of subjects; name it with --subject-column")
    columns = table.labels(listing.label_column)
    patients, lacks = dict[str, _Patient](), list[tuple[int, _Lack]]()
    for number, row in table.rows:
        name = row[subject].strip()
        try:
            patient = _Patient(_label(row, columns), _split(row[split] if split else ""))
            if patients.setdefault(name, patient) != patient:
                remedy = "give each subject one"
                raise _Lack("another label or split than a line above for the same subject", name, remedy)
        except _Lack as lack:
            lacks.append((number, lack))
    if lacks:
        raise UserError(_faults(table.path, lacks, len(table.rows)))
    return patients


def _folder_of(image: str, patients: dict[str, _Patient], labels: Path | None) -> str:
    """The patient after whom the first such folder of an image's path is named."""
    person = next((part for part in Path(image).parts if part in patients), None)
    if person is None:
        raise _Lack(
            f"no folder in the image's path that is a subject of {labels}", "",
            "add the subjects there, or a column of subjects here (--subject-column)",
        )  # fmt: skip
    return person


def _split(word: str) -> str:
    if not word.strip():
        return ""
    if (split := SPLIT_WORDS.get(word.strip().lower())) is None:
        raise _Lack(f"a split that is none of {', '.join(SPLITS)}", repr(word), "write one of these")
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


def _images_of(folders: dict[str, list[Path]], listing: Listing, person: str) -> list[tuple[Path, Path]]:
    """The images below a subject's folders, each after its folder."""
    files = [(top, file) for top in folders.get(person, []) for file, reason in walk(top) if reason is None]
    images = [(top, file) for top, file in files if listing.files is None or file.match(listing.files)]
    if not images:
        kind = "an image" if listing.files is None else f"an image {listing.files}"
        raise _Lack(
            f"no folder of the subject below {listing.images_root} with {kind}", person,
            f"check --images-root{' and --files' if listing.files else ''}, or leave these subjects out",
            "the subject's folder is not there or holds none of the images",
        )  # fmt: skip
    return images


def _places(path: Path, listing: Listing) -> list[Path]:
    return [folder for folder in (listing.images_root, path.parent) if folder is not None]


def _place(path: Path, listing: Listing, name: str) -> Path:
    """The path of an image: below the images root or beside the list; the first of the two if it exists at neither."""
    places = [folder / name for folder in _places(path, listing)]
    return next((place for place in places if place.exists()), places[0])


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
