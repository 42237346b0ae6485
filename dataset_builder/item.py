"""One input of the builder: a file, a member of an archive or HDF5 file, or a DICOM series.

Named tuples: a plan makes one for each of millions of files, which takes a fifth of the time of a dataclass.
"""

from typing import Any, NamedTuple


class Part(NamedTuple):
    """Where a member of an archive is read: its name and the fields of `Item`; `at` is its place in the archive."""

    name: str
    size: int
    offset: int | None = None
    outer: "Part | None" = None
    at: int | None = None

    def item(self, path: str, kind: str = "image") -> "Item":
        """The member of the archive `path` as an input of its own."""
        return Item(path, self.name, kind, size=self.size, offset=self.offset, outer=self.outer)


class Item(NamedTuple):
    """One input considered for the dataset; `listing.list_items(source, raw_dir)` yields these in a fixed order.

    Attributes:
        path: file relative to the raw folder, with forward slashes (`busi/benign/benign (1).png`); the folder of a
            DICOM series.
        member: name inside the archive (`INNER.zip!NAME` for a ZIP inside a ZIP), data set inside the HDF5 file,
            number of the series in its folder; None for a plain file.
        kind: image | volume | video | hdf5 | archive | dicom_series; for a member of an archive, the member's kind.
        subject: the identifier as the source writes it (it is hashed before anything is stored), None if unknown.
        anatomy: one of the 30 regions, None if the source has several and does not state which.
        excluded: None for an input of the training part, else the reason for leaving it out, in one line.
        intensity: {"window": [low, high]}, {"windows": [[l, h], ...]} (three of them become RGB),
            {"percentile": [low, high]}, "as-is", or None for the default of the file's kind.
        view: overrides the view of a 2D file (`axial`, `sagittal`, `coronal`, `frame`), None for `2d`.
        modality: one of the 10 modalities, None if the source has several and does not state which.
        size: stored bytes of the file, or bytes of the member unpacked.
        offset: where a ZIP member's local header, or an uncompressed TAR member's data, begins.
        outer: the ZIP inside a ZIP that holds the member.
        fps: frames to take per second of video.
        row: row of the HDF5 data set; None if the data set is a stack of slices.
        files: slices of a DICOM series in order, relative to the raw folder.
        members: slices of a DICOM series in an archive, in order.
        private: words that no stored path may contain; kept only in the builder's own plan.
        unnamed: whether its name is withheld: it is not a picture, in a source that is not published.
    """

    path: str
    member: str | None
    kind: str
    subject: str | None = None
    anatomy: str | None = None
    excluded: str | None = None
    intensity: dict[str, Any] | str | None = None
    view: str | None = None
    modality: str | None = None
    size: int | None = None
    offset: int | None = None
    outer: Part | None = None
    fps: float | None = None
    row: int | None = None
    files: tuple[str, ...] = ()
    members: tuple[Part, ...] = ()
    private: tuple[str, ...] = ()
    unnamed: bool = False
