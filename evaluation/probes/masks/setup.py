"""Sets up a segmentation probe: the problem (of images, windows or a few cases) and the encoder's tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ...encoders.embed import embed_tokens
from ...encoders.shards import TokenStore
from ..probe import Trial
from .decoders import DECODER_BLOCKS
from .feeds import TokenReader
from .problem import MaskProblem, Segmentation, select_images
from .saved import check_format
from .settings import MaskProbe
from .surfaces import CONVENTION, IGNORED, TOLERANCE, SurfaceRule
from .windows import cut_windows, stitched

TOKEN_BATCH = 16  # most images whose tokens are computed at once


def surface_rule(probe: MaskProbe) -> SurfaceRule:
    """The surface rule of a probe's settings."""
    return SurfaceRule(probe.surface or CONVENTION, probe.tolerance or TOLERANCE, probe.empty or IGNORED)


@dataclass(frozen=True)
class Setup:
    """A probe's settings, the trial, the problem to train on, and the size of the network's images.

    Attributes:
        rows: {split: indices of the images to work with}, None for all; tokens are computed once for all images.
        problem: the problem restricted to these images.
        everything: the problem with all images.
    """

    probe: MaskProbe
    trial: Trial
    everything: MaskProblem
    problem: MaskProblem
    size: int
    rows: Mapping[str, np.ndarray] | None = None

    @classmethod
    def of(cls, probe: MaskProbe, trial: Trial) -> "Setup":
        """The set-up for all images of a task, or for their windows if the probe asks for windows.

        Raises:
            UserError: NIfTI masks are requested for single images.
        """
        check_format(trial)
        problem = MaskProblem.of(trial.task)
        problem = problem if probe.window is None else cut_windows(problem, probe.window)
        return cls(probe, trial, problem, problem, probe.image_size or trial.encoder.size)

    def few(self, rows: Mapping[str, np.ndarray]) -> "Setup":
        """The same set-up with only some images of some splits, by index."""
        splits = {name: select_images(self.everything.splits[name], part) for name, part in rows.items()}
        return replace(self, problem=self.everything.with_splits(**splits), rows=rows)

    def readers(self) -> dict[str, TokenReader]:
        """Token readers for the images of every split, from the cache; missing tokens are computed."""
        return {name: self._reader(name) for name in self.everything.splits}

    def _reader(self, name: str) -> TokenReader:
        split, run, blocks = self.everything.splits[name], self.trial.run, DECODER_BLOCKS[self.probe.decoder]
        batch, label = min(run.batch_size, TOKEN_BATCH), self.trial.label(name)
        store = embed_tokens(self.trial.encoder, split.images, self.trial.cache, self.size, blocks, batch, label)
        taken = None if self.rows is None else self.rows.get(name)
        return store.read if taken is None else partial(_read_some, store, taken)

    def whole(self, answer: Segmentation) -> Segmentation:
        """The answer for whole images, merged from windows if necessary."""
        if self.probe.window is None:
            return answer
        return replace(answer, predict=stitched(answer.predict, self.everything.splits["test"]))


def _read_some(store: TokenStore, taken: np.ndarray, rows: np.ndarray) -> list:
    return store.read(taken[rows])
