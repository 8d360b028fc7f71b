"""What must be right before a worker starts: data, labels, storage, and the run's own past."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.labels import LabelSet
from dataloaders.location import is_url
from dataloaders.open_source import open_source
from dataloaders.source import Source
from gcg.build import encoder_fingerprint
from launcher.abilities import missing_abilities
from launcher.checkpoint import newest
from launcher.config import RunConfig, dump, fingerprint, load_run_config, trajectory
from launcher.data import build_plan, labels_folder, needs_labels
from launcher.errors import CheckpointError, ConfigError, PreflightError
from launcher.feature_check import frame_problems
from launcher.run_folder import RunFolder, read_json, write_json, write_text
from launcher.state import check_fits, versions


def preflight(config: RunConfig) -> None:
    """Check everything that can be checked without a worker.

    Raises:
        PreflightError: with every problem, a line each.
    """
    problems = [
        *missing_abilities(config),
        *_data(config),
        *_storage(config.folder),
        *_own_past(config),
    ]
    if problems:
        raise PreflightError(problems)


def claim(config: RunConfig) -> None:
    """Write the run's identity and resolved run file into its folder."""
    folder = RunFolder(config.folder)
    source = open_source(config.data.train)
    write_text(folder.config, dump(config))
    write_json(
        folder.identity,
        {"config": fingerprint(config), "data": source.fingerprint, "versions": versions()},
    )
    source.close()


def _data(config: RunConfig) -> Iterator[str]:
    for split in ("train", "val", "test"):
        folder: str | None = getattr(config.data, split)
        if folder is None:
            continue
        if not is_url(folder) and not Path(folder).is_dir():
            yield f"data.{split} = {folder}: no such folder; make it with `gcg pack`"
            continue
        try:
            source = open_source(folder)
        except DataError as error:
            yield f"data.{split} = {folder}: {error}"
            continue
        with source:
            if not source.shards:
                yield f"data.{split} = {folder}: has no shards; make some with `gcg pack`"
                continue
            yield from frame_problems(config.model, source, f"data.{split}")
            if split == "train":
                yield from _plan(config, source)
            if _split_needs_labels(config, split):
                yield from _labels(config, split, folder, source)


def _plan(config: RunConfig, source: Source) -> Iterator[str]:
    try:
        build_plan(config, source)
    except DataError as error:
        yield str(error)


def _split_needs_labels(config: RunConfig, split: str) -> bool:
    # The oracle peeks at labels when it is evaluated, too.
    return needs_labels(config.model) and (split == "train" or config.model.mode == "oracle")


def _labels(config: RunConfig, split: str, data: str, source: Source) -> Iterator[str]:
    folder = labels_folder(config, data)
    try:
        labels = LabelSet(folder)
    except DataError:
        yield (
            f"data.labels = {config.data.labels}: data.{split} = {data} has no such labels, and "
            f"model.mode = {config.model.mode} needs them; make them with `gcg label {data}`"
        )
        return
    wanted = {
        "encoder": encoder_fingerprint(config.model),
        "num_frames": config.model.num_frames,
        "num_moments": config.model.num_moments,
        "data": source.fingerprint,
    }
    for name, value in wanted.items():
        try:
            labels.check(**{name: value})  # type: ignore[arg-type]
        except DataError as error:
            yield str(error)


def _storage(folder: Path) -> Iterator[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        yield (
            f"run.storage = {folder.parent}: cannot be written to ({error.strerror}); choose a "
            "folder that every worker can write to"
        )


def _own_past(config: RunConfig) -> Iterator[str]:
    folder = RunFolder(config.folder)
    identity = read_json(folder.identity)
    if identity is not None and identity.get("config") != fingerprint(config):
        yield from _differences(config, folder)
        return
    checkpoint = newest(folder)
    if checkpoint is None:
        return
    try:
        data = open_source(config.data.train)
    except DataError:
        return  # reported already
    with data:
        try:
            check_fits(checkpoint, config, config.scale.num_workers, data.fingerprint)
        except CheckpointError as error:
            yield from error.lines


def _differences(config: RunConfig, folder: RunFolder) -> Iterator[str]:
    remedy = "restore it, or choose another run.name"
    try:
        before = trajectory(load_run_config(folder.config))
    except ConfigError:
        yield f"run.name = {config.run.name}: {folder.root} holds another run; {remedy}"
        return
    now = trajectory(config)
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) != now.get(path):
            yield (
                f"{path} = {now.get(path)}: the run in {folder.root} was begun with "
                f"{before.get(path)}; {remedy}"
            )
