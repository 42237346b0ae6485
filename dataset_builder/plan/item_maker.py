"""Makes the items of one source: their fields by its record, or why a file is left out."""

from biovfm_hf.reading.image_files import NOT_INPUT

from ..catalog.selection import UNNAMED, Selection, looks_like_image
from ..catalog.source import NOT_ESTABLISHED, ItemRule, Source
from ..item import Item, Part


class ItemMaker:
    """Makes the items of one source.

    Attributes:
        selection: the rules of its record.
        prefix: what comes before a place in its folder to make it a path below the raw folder.
    """

    def __init__(self, source: Source, selection: Selection) -> None:
        self._source = source
        self.selection = selection
        self.prefix = "" if source.folder == "." else f"{source.folder}/"

    def item(self, place: str, inside: str, rule: ItemRule | None, member: str | None, part: Part) -> Item:
        """The item of one file; patterns match `inside`, the place of the file or of the member in it."""
        reason = self.selection.excluded(inside)
        if rule is None:
            if not looks_like_image(inside):
                return self.not_a_picture(place, reason or NOT_INPUT, member)
            if reason is None:
                established = self._source.layout_established
                reason = UNNAMED if established else f"the raw layout of {self._source.id} is {NOT_ESTABLISHED}"
            rule = ItemRule("")
        if reason is None and rule.adapter and member:
            reason = f"{rule.kind} inside an archive cannot be read in place: unpack it here"
        if reason is None and rule.adapter is None:
            reason = self.selection.outside_training(inside)
        item = self.make(place, inside, rule, member, reason)
        return item._replace(size=part.size, offset=part.offset, outer=part.outer)

    def make(self, place: str, inside: str, rule: ItemRule, member: str | None, reason: str | None) -> Item:
        """An item with the fields that its rule states."""
        modality, anatomy = self.selection.labels(inside, rule)
        return Item(
            path=self.prefix + place,
            member=member,
            kind="image" if rule.kind == "dicom_series" else rule.kind,
            subject=self.selection.subject(inside),
            anatomy=anatomy,
            excluded=reason,
            intensity=rule.intensity,
            view=rule.view,
            modality=modality,
            fps=rule.fps,
        )

    def not_a_picture(self, place: str, reason: str, member: str | None = None) -> Item:
        """The line of a folder or file that is not a picture.

        Its name is not needed and may identify a patient, for instance in a report: a source that is not published
        withholds it, with the names of the folders around it.
        """
        item = self.excluded(place, reason, "image", member)
        return item if self._source.published else item._replace(unnamed=True)

    def excluded(self, place: str, reason: str, kind: str = "image", member: str | None = None) -> Item:
        """The line of an input that is left out."""
        path = (self.prefix + place).encode("utf-8", "backslashreplace").decode("utf-8")
        return Item(path=path, member=member, kind=kind, excluded=reason, modality=self._source.modality)
