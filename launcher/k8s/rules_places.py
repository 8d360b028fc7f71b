"""Whether what a run reads and writes lies where every attempt finds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dataloaders.location import is_url
from launcher.k8s.objects import Manifest, RunObjects, mounts
from launcher.k8s.quantities import quantity
from launcher.k8s.sizing import Worker


def place_problems(run: RunObjects) -> Iterator[str]:
    """A retry is a new cluster: what is on no storage that outlives Pods is gone."""
    data, storage = run.config.data, str(run.config.run.storage)
    sets = [(f"data.mixture[{i}]", each.place) for i, each in enumerate(data.mixture)]
    places = [("run.storage", storage), ("data.train", data.train), ("data.val", data.val)]
    places += [("data.test", data.test), *sets]
    for where, place in places:
        if place is None or is_url(place):
            continue
        for group in run.groups:
            if not _lies_on(group.pod, Path(place), "persistentVolumeClaim"):
                yield (
                    f"{where} = {place}: lies on no PersistentVolumeClaim of the {group.name} "
                    "Pods; use a path below its mount, or a URL"
                )
                break
    if any(is_url(place) for _, place in places if place is not None):
        yield from _cache(run)


def _cache(run: RunObjects) -> Iterator[str]:
    data = run.config.data
    for group in run.workers:
        home = {v["name"]: v.get("value") for v in group.ray.get("env", [])}.get("HOME") or "/"
        place = data.cache_dir or Path(home) / ".cache"
        volume = _volume_at(group.pod, place)
        limit = quantity(volume.get("emptyDir", {}).get("sizeLimit", "0"))
        if "persistentVolumeClaim" not in volume and limit < data.cache_gb * 1e9:
            yield (
                f"data.cache_gb = {data.cache_gb:g}: {place} of the {group.name} Pods has room for "
                f"{limit / 1e9:.0f} GB; lower it, or set data.cache_dir to a larger volume"
            )


def scratch_problems(run: RunObjects, worker: Worker) -> Iterator[str]:
    """Going on at another number of workers converts a checkpoint: its fragments and what is merged
    from them lie in TMPDIR of the node of rank 0, and what is fetched of a bucket."""
    copies = 3 if is_url(str(run.config.run.storage)) else 2
    need = copies * 12 * worker.census.trained
    for group in run.workers:
        env = {v["name"]: v.get("value") for v in group.ray.get("env", [])}
        place = Path(env.get("TMPDIR") or "/tmp")
        volume = _volume_at(group.pod, place).get("emptyDir", {})
        limit = quantity(volume.get("sizeLimit", "0"))
        if volume and limit < need:
            yield (
                f"{group.name}: {place} of {limit / 1e9:.0f} GB is less than {copies} x the "
                f"checkpoint, {need / 1e9:.0f} GB, that converting one for other workers takes; "
                "use a larger volume, or TMPDIR on one"
            )


def _lies_on(pod: Manifest, place: Path, kind: str) -> bool:
    return place.is_absolute() and kind in _volume_at(pod, place)


def _volume_at(pod: Manifest, place: Path) -> Manifest:
    """The volume that a path is on: that of the longest mount above it."""
    found = [(path, volume) for path, volume in mounts(pod).items() if place.is_relative_to(path)]
    return max(found, key=lambda each: len(each[0]), default=("", {}))[1]
