"""The pictures of a results folder, and of the models that were probed."""

from biovfm_hf.results.record import Record

from ..encoders.device import default_device
from ..encoders.embed import embed_summaries
from ..encoders.encoder import Encoder
from ..encoders.load import load_encoder, split_label
from ..encoders.pooling import case_features
from ..encoders.processes import ProcessGroup
from ..pictures.encoders import draw_attention, draw_boxes, draw_embedding, draw_masks, draw_patch_colours
from ..pictures.figure import discard, figure_path
from ..pictures.scores import draw_all, figure_blocks
from ..statistics.kinds import DETECTION, SEGMENTATION
from ..tasks import Task
from .probe_options import RunOptions


def draw(options: RunOptions, tasks: list[Task], records: list[Record]) -> None:
    """Draw every picture of the results folder; pictures that need the model are drawn only if they are missing."""
    draw_all(options.out, records)
    by_name = {task.name: task for task in tasks}
    for kind, prefix, picture in ((SEGMENTATION, "masks", draw_masks), (DETECTION, "boxes", draw_boxes)):
        drawn = [record for record in records if record.kind == kind and record.task in by_name]
        for record in drawn:
            discard(options.out, prefix, record.model, record.task)
        for name, group in figure_blocks(drawn):
            for record in group:
                picture(options.out, record, by_name[record.task], name)
    for model in options.model:
        label = split_label(model)[0]
        own_records = {record.task: record for record in records if record.model == label}
        undrawn = [
            t for t in tasks if t.name in own_records and not figure_path(options.out, "pca", label, t.name).exists()
        ]
        if undrawn:
            encoder = load_encoder(
                model, options.device or default_device(), precision=options.precision,
                trust_remote_code=options.trust_remote_code,
            )  # fmt: skip
            for task in undrawn if encoder.network is None else []:
                draw_model(options, encoder, task, own_records[task.name])


def draw_model(options: RunOptions, encoder: Encoder, task: Task, record: Record) -> None:
    """Draw pictures of a model on a task: its attention, a map of its features, and the colours of its patches."""
    draw_attention(options.out, encoder, task)
    split = task.splits["test"]
    if split.labels is not None and split.labels.ndim == 1:
        label = f"{encoder.name} {task.name} test"
        stored = embed_summaries(
            encoder, split.images, options.features_folder, None, options.batch_size, label, ProcessGroup()
        )
        features = case_features(stored["mean"], split.case_of_image)
        draw_embedding(options.out, record, features, split.labels, list(task.record.classes))
    draw_patch_colours(options.out, encoder, task)
