"""Code for what a record cannot say; one module per peculiarity, each named in the records that need it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ..item import Item
from .hdf5 import encoded_images, stack, table_rows

EXPANDERS: dict[str, Callable[[Item, Path, str | None], Iterator[Item]]] = {
    "hdf5_rows": table_rows,
    "hdf5_encoded": encoded_images,
    "hdf5_stack": stack,
}
"""Name in a record -> function from (item of the file, the file, the rule's key) to the items inside the file."""
