"""What must be right before a worker starts: data, labels, storage, and the run's own past."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dataloaders.errors import DataError, StorageError
from dataloaders.labels import LabelSet
from dataloaders.location import is_url
from dataloaders.mixture import MixturePlan
from dataloaders.plan import Plan
from dataloaders.shard_source import ShardSource
from dataloaders.source import Source
from dataloaders.storage.check import check_reachable
from dataloaders.storage.remote import credentials
from gcg.build import encoder_fingerprint
from gcg.errors import ModelError
from launcher.checkpoints.find import newest
from launcher.checkpoints.fits import check_fits, versions
from launcher.checks.abilities import missing_abilities, too_few_gpus
from launcher.checks.features import frame_problems
from launcher.checks.model import from_setting
from launcher.config import RunConfig, dump, fingerprint, load_run_config, trajectory
from launcher.config.data import TrainSet
from launcher.errors import CheckpointError, ConfigError, PreflightError
from launcher.observe.events import EventFile
from launcher.storage.places import create, is_remote, refused
from launcher.storage.run_folder import RunFolder, read_json, write_json, write_text
from launcher.training.data import (
    build_plan,
    labels_folder,
    needs_labels,
    open_set,
    open_train,
    storage_options,
)


def preflight(config: RunConfig) -> None:
    """Check everything that can be checked without a worker.

    Raises:
        PreflightError: with every problem, a line each.
    """
    problems = [
        *missing_abilities(config),
        *too_few_gpus(config),
        *_data(config),
    ]
    unusable = list(_storage(config))
    problems += unusable or _own_past(config)
    if problems:
        raise PreflightError(list(dict.fromkeys(problems)))  # of a mixture's sets all may lack one


def claim(config: RunConfig) -> None:
    """Write the run's identity and resolved run file into its folder.

    Raises:
        PreflightError: the folder cannot be written to.
    """
    folder = RunFolder(config.folder)
    with open_train(config) as source:
        identity = {"config": fingerprint(config), "data": source.fingerprint}
    try:
        write_text(folder.config, dump(config))
        write_json(folder.identity, {**identity, "versions": versions()})
    except Exception as error:
        raise PreflightError(_unwritable(config.folder, error)) from None
    EventFile(folder.events).add("launch")


def _data(config: RunConfig) -> Iterator[str]:
    whole = True
    for where, each in _places(config):
        place = f"{where} = {each.place}"
        if not is_url(each.place) and not _is_dir(Path(each.place)):
            whole = False
            yield f"{place}: no such folder; make it with `gcg pack`"
            continue
        try:
            source = open_set(config, each)
        except DataError as error:
            whole = False
            text = str(error)
            yield text if text.startswith("data.") else f"{place}: {text}"  # of its cache
            continue
        with source:
            yield from _reach(config, where, source)
            try:
                yield from frame_problems(config.model, source, where)
                if _needs_labels(config, where):
                    yield from _labels(config, where, each, source)
            except ModelError as error:  # of an encoder that is not here nothing can be compared
                yield from (from_setting(line, config.model) for line in error.lines)
    if whole:
        yield from _plan(config)


def _places(config: RunConfig) -> Iterator[tuple[str, TrainSet]]:
    """Every data set of the run, with the field that names it."""
    data = config.data
    for number, each in enumerate(data.sets):
        yield f"data.mixture[{number}]" if data.mixture else "data.train", each
    for split in ("val", "test"):
        if (place := getattr(data, split)) is not None:
            yield f"data.{split}", TrainSet(place=place)


def _reach(config: RunConfig, where: str, source: ShardSource) -> Iterator[str]:
    try:
        check_reachable(source, storage_options(config))
    except DataError as error:
        yield f"{where} = {source.name}: {error}"


def _plan(config: RunConfig) -> Iterator[str]:
    try:
        with open_train(config) as source:
            plan = build_plan(config, source)
            if any(is_url(each.place) for each in config.data.sets):
                yield from _cache(config, source, plan)
    except DataError as error:
        yield str(error)


def _cache(config: RunConfig, source: Source, plan: Plan | MixturePlan) -> Iterator[str]:
    """A node's cache must hold what its workers read from at the same time; how many share a node
    is not known here, so this is what one needs."""
    world = config.world_sizes[0]  # the fewest workers read from the most shards each
    windows = [plan.shards_at(0, 0, rank, world)[0] for rank in range(world)]
    need = max(sum(source.shards[i].bytes for i in window) for window in windows) / 1e9
    if need > config.data.cache_gb:
        yield (
            f"data.cache_gb = {config.data.cache_gb:g}: a worker reads from {len(windows[0])} "
            f"shards at a time, {need:.3g} GB, and the cache must hold those of all workers on a "
            "node; raise it, or lower data.block_shards"
        )


def _needs_labels(config: RunConfig, where: str) -> bool:
    # The oracle peeks at labels when it is evaluated, too.
    held_out = where in ("data.val", "data.test")
    return needs_labels(config.model) and (not held_out or config.model.mode == "oracle")


def _labels(config: RunConfig, where: str, each: TrainSet, source: Source) -> Iterator[str]:
    folder = labels_folder(config, each.place, each.labels)
    try:
        labels = LabelSet(folder, storage_options(config))
    except StorageError as error:
        yield f"data.labels = {each.labels or config.data.labels}: {error}"
        return
    except DataError:
        yield (
            f"data.labels = {each.labels or config.data.labels}: {where} = {each.place} has no "
            f"such labels, and model.mode = {config.model.mode} needs them; make them with "
            f"`gcg label {each.place}`"
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
            yield f"data.labels = {each.labels or config.data.labels}: {error}"


def _storage(config: RunConfig) -> Iterator[str]:
    """Whether the run's folder can be made and written to. What is made to see it goes again."""
    try:
        folder = config.folder
    except StorageError as error:
        yield f"run.storage = {error}"
        return
    yield from _bucket(folder) if is_remote(folder) else _folder(folder)


def _bucket(folder: Path) -> Iterator[str]:
    probe = folder / f".write-test.{os.getpid()}"
    try:
        create(probe, "")
        twice = create(probe, "")
        probe.unlink()
    except Exception as error:
        yield _unwritable(folder, error)
        return
    if twice:
        yield (
            f"run.storage = {folder.parent}: must refuse to create an object that is there "
            "(If-None-Match: *), or two attempts could take the run for their own; use AWS S3, a "
            "store that does, or a shared folder"
        )


def _folder(folder: Path) -> Iterator[str]:
    made: list[Path] = []
    probe = folder / f".write-test.{os.getpid()}"
    try:
        for place in (*reversed(folder.parents), folder):
            if not _is_dir(place):
                place.mkdir()
                made.append(place)
        with probe.open("wb") as file:  # a full disk takes an empty file
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield _unwritable(folder, error)
    finally:
        with suppress(OSError):
            probe.unlink()
        for place in reversed(made):
            with suppress(OSError):  # another run may have begun below it
                place.rmdir()


def _is_dir(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:  # a name too long, a folder that may not be looked into
        return False


def _unwritable(folder: Path, error: Exception) -> str:
    """A line for what a storage refuses; any other error is raised."""
    why = refused(error)
    if why is None:
        raise error
    remedy = "a folder that every worker can write to"
    if is_remote(folder):
        remedy = f"a bucket that exists, or {credentials(str(folder))}"
    return f"run.storage = {folder.parent}: {folder} cannot be written to ({why}); choose {remedy}"


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
        data = open_train(config)
    except DataError:
        return  # reported already
    with data:
        try:
            check_fits(checkpoint, config, data.fingerprint)
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
            shown = re.sub(r"\.(\d+)\b", r"[\1]", path)
            yield (
                f"{shown} = {now.get(path)}: the run in {folder.root} was begun with "
                f"{before.get(path)}; {remedy}"
            )
