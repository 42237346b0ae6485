"""Opens a features file as a memory-mapped array, so that it may be larger than memory."""

from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError

from ...commands.features_file import FeaturesFile
from .sharing import Sharing


def open_features(path: Path, sharing: Sharing, name: str) -> tuple[list[str], np.ndarray]:
    """The ids and vectors (n, D) float32 of a features file.

    The vectors are copied in blocks to the shared array `name`. Only the first process gets the ids.

    Raises:
        UserError: the file does not exist, was not written by `biovfm embed`, has no row, or has a value that is not
            finite.
    """
    file = FeaturesFile(path)
    vectors = sharing.array(name, (file.rows, file.width), np.float32)
    names = file.names() if sharing.group.takes(0) else []
    for piece in sharing.pieces(f"{name}-read", file.groups):
        for row, block in file.blocks(piece):
            if not (finite := np.isfinite(block).all(axis=1)).all():
                lost = row + int(finite.argmin())
                image = f"{path}, row {lost} ({file.names()[lost]})"
                raise UserError(f"{image}: a feature is not finite; leave this image out")
            vectors[row : row + len(block)] = block
    return names, vectors
