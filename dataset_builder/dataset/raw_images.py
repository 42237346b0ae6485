"""A builder for the `datasets` library that reads raw folders directly, without a dataset folder."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets

from biovfm_hf.errors import UserError

from ..catalog.load import load_catalog, load_sources
from ..options import BuildOptions
from ..plan.making import make_plan
from ..plan.plan import Options
from ..schema import ROWS
from ..screening.rules import software
from ..shards.shard import Reader


class RawImages(datasets.GeneratorBasedBuilder):
    """The rows of `biovfm build`, made on request.

        builder = RawImages("raw", sources=["drive", "my_hospital.yaml"], size=224)
        stream = builder.as_streaming_dataset(split="train")     # nothing is written but the list of inputs
        builder.download_and_prepare(num_proc=8)                 # or Arrow files in the cache of `datasets`
        dataset = builder.as_dataset(split="train")

    Training parts, the records' part of the leakage guard and the rules for single pictures are the same. Steps that
    need all pictures at once are left out: duplicates, benchmark images, the manifest. Nor is there protection from a
    file that crashes its decoder. For a dataset to keep, use `biovfm build`.

    Args:
        raw: folder with one sub-folder for each source.
        sources: ids of the catalogue or paths of records; all of the paper's by default.
        cache_dir: folder for the prepared data of `datasets` and the list of inputs; by default that library's own.
        options: those of `build` that determine images: size, fit, views, image_format, quality, leakage, seed; subset
            full or us.

    Raises:
        UserError: none of these sources is in the raw folder, or a record or an option is wrong.
    """

    def __init__(
        self, raw: str | Path, sources: Sequence[str] | None = None, cache_dir: str | None = None, **options: Any
    ):
        if others := sorted(options.keys() - {field.name for field in fields(Options)}):
            raise UserError(f"{others[0]} is no option of RawImages; biovfm build has it")
        shaping = BuildOptions(out=Path(), raw=Path(raw), **options).shaping
        chosen = [s for s in load_catalog() if s.in_paper] if sources is None else load_sources(sources)
        self._raw = Path(raw).resolve()
        name = hashlib.sha256(repr((self._raw, chosen, shaping)).encode()).hexdigest()[:16]
        folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "biovfm-inputs" / name
        self._plan = make_plan(chosen, self._raw, folder, shaping, f"biovfm {shaping.seed}")
        # Prepared data of `datasets` is valid only for the same inputs, options and software.
        listed = self._plan.items_path.read_bytes() + repr((shaping, software())).encode()
        super().__init__(
            cache_dir=cache_dir, dataset_name="biovfm_raw_images", hash=hashlib.sha256(listed).hexdigest()[:16]
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(ROWS))

    def _split_generators(self, _: Any) -> list[datasets.SplitGenerator]:
        shards = list(range(len(self._plan.shards)))
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs={"shards": shards})]

    def _generate_examples(self, shards: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in shards:
            reader = Reader(self._plan, self._raw, self._plan.whole(number))
            rows = (outcome.row for _, outcomes in reader.inputs() for outcome in outcomes)
            for at, row in enumerate(row for row in rows if row is not None):
                yield f"{number}-{at}", row
