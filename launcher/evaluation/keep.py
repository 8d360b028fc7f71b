"""What was answered stays in the run's folder: the rows, with the split's pseudo-labels."""

from __future__ import annotations

import logging

from dataloaders.errors import DataError
from dataloaders.labels import LabelSet
from dataloaders.shard_source import ShardSource
from gcg.profiles import resolve_profile
from launcher.config import RunConfig
from launcher.config.data import TrainSet
from launcher.evaluation.evaluate import Split
from launcher.evaluation.rows import Header, Row, rows_path, write_rows
from launcher.export.run import TrainedRun
from launcher.storage.places import fault_of
from launcher.training.data import labels_folder, open_set, storage_options

log = logging.getLogger(__name__)


def keep_rows(run: TrainedRun, split: Split, rows: list[Row]) -> None:
    """Write the rows into the run's folder; where that cannot be done, the figures still count."""
    config, folder = run.config, run.folder.root
    place: str = getattr(config.data, split)
    step = run.meta.get("step")
    with open_set(config, TrainSet(place=place)) as source:
        found = pseudo_labels(config, source, place)
        header = header_of(config, split, source.fingerprint, len(rows), run.weights, step)
    add_moments(rows, found)
    why = fault_of(lambda: write_rows(folder, header, rows))
    if why is not None:
        log.warning(
            "%s: cannot be written (%s); gcg report lacks it", rows_path(folder, split), why
        )


def add_moments(rows: list[Row], found: dict[tuple[str, str], list[int]]) -> None:
    """Put the pseudo-labels that were found into the rows of their questions."""
    for row in rows:
        moments = found.get((row["video"], row["question"]))
        if moments is not None and "skipped" not in row:
            row["moments"] = moments


def header_of(
    config: RunConfig,
    split: Split,
    fingerprint: str,
    questions: int,
    weights: str,
    step: int | None = None,
) -> Header:
    """What goes before the rows of a run."""
    profile, frames = resolve_profile(config.model), config.model.num_frames
    return Header(
        split=split,
        mode=config.model.mode,
        weights=weights,
        step=step,
        seed=config.run.seed,
        data=str(getattr(config.data, split)),
        fingerprint=fingerprint,
        sigma=profile.sigma,
        grid=[round(x, 5) for x in profile.timeline.positions(frames).tolist()],
        questions=questions,
    )


def pseudo_labels(
    config: RunConfig, source: ShardSource, place: str
) -> dict[tuple[str, str], list[int]]:
    """The pseudo-label frames of a split by (video, question); none where it has no labels, or
    labels that this run cannot read."""
    try:
        labels = LabelSet(labels_folder(config, place), storage_options(config))
        labels.check(data=source.fingerprint, num_frames=config.model.num_frames)
        shards = [labels.for_shard(shard.stem) for shard in source.shards]
    except DataError as error:
        log.info("no pseudo-labels to show: %s", error)
        return {}
    return {key: list(shard[key].moments) for shard in shards for key in shard}
