"""What is asked of `gcg k8s render`, and whether it can be had with the run file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataloaders.location import is_url
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.k8s.parts import GPU, MODELS, STORAGES, components

_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
# A RayJob's name may have 47 characters, and ours ends in -gcg-train.
_MAX_NAME = 37
# Where the base mounts the storage.
_MOUNT = "/mnt/gcg"


@dataclass(frozen=True)
class Wish:
    """A run on ``nodes`` machines. ``node_memory``: bytes that a Pod may have of one, and
    ``node_cpus`` CPUs; None: as many as it needs."""

    config: RunConfig
    nodes: int
    gpus_per_node: int
    image: str
    name: str
    namespace: str | None
    asked: tuple[str, ...]
    claim: str | None
    gpu_product: str | None
    node_memory: float | None
    node_cpus: float | None

    @property
    def per_node(self) -> int:
        """Workers of a node."""
        return self.config.scale.bounds[1] // self.nodes

    @property
    def components(self) -> list[str]:
        """In the order that they are laid over the base."""
        storage = "storage-s3" if is_url(str(self.config.run.storage)) else "storage-pvc"
        own = [storage, *([GPU] if self.config.scale.use_gpu else [])]
        return [*own, *(name for name in self.asked if name not in own)]


def check_wish(wish: Wish, parts: Path) -> None:
    """
    Raises:
        UserError: with a line for everything that cannot be had.
    """
    found = [
        *_numbers(wish),
        *_names(wish),
        *_places(wish.config),
        *_components(wish, components(parts)),
    ]
    if found:
        raise UserError(found)


def _numbers(wish: Wish) -> Iterator[str]:
    if wish.nodes < 1:
        yield f"--nodes {wish.nodes}: must be at least 1; give a number of machines"
        return
    scale = wish.config.scale
    most = scale.bounds[1]
    if not scale.use_gpu:
        if most % wish.nodes:
            yield (
                f"--nodes {wish.nodes}: must divide scale.num_workers = {most}, Pods are alike; "
                "give a divisor of it"
            )
        return
    if wish.gpus_per_node < 1:
        yield f"--gpus-per-node {wish.gpus_per_node}: must be at least 1; give what a node has"
        return
    world = wish.nodes * wish.gpus_per_node
    if most != world:
        yield (
            f"scale.num_workers = {most}: --nodes {wish.nodes} of {wish.gpus_per_node} GPUs are "
            f"{world}; use {', or '.join(_remedies(wish, most, world))}"
        )


def _remedies(wish: Wish, most: int, world: int) -> Iterator[str]:
    """Ways to have as many workers as GPUs; more of them must fit the batches."""
    config = wish.config
    if most % wish.gpus_per_node == 0:
        yield f"--nodes {most // wish.gpus_per_node}"
    elif most % wish.nodes == 0:
        yield f"--gpus-per-node {most // wish.nodes}"
    data = config.data
    if data.streams % world == 0 and data.global_batch % (world * config.engine.micro_batch) == 0:
        scale = config.scale
        workers = f"[{scale.bounds[0]},{world}]" if scale.is_elastic else str(world)
        yield f"--set scale.num_workers={workers}"
    yield f"GPUs that divide data.streams = {data.streams}"


def _names(wish: Wish) -> Iterator[str]:
    if not _DIGEST.fullmatch(wish.image):
        yield (
            f"--image {wish.image}: must name a digest, since a tag may be moved under a run; use "
            "name@sha256:… (`docker inspect --format '{{index .RepoDigests 0}}' NAME`)"
        )
    names = (("--name", wish.name), ("--namespace", wish.namespace), ("--claim", wish.claim))
    for flag, name in names:
        if name is not None and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            yield (
                f"{flag} {name}: must be lower-case letters, digits and '-', the first a letter; "
                "choose such a name"
            )
        elif name is not None and len(name) > _MAX_NAME:
            yield f"{flag} {name}: has {len(name)} characters, at most {_MAX_NAME}; shorten it"


def _places(config: RunConfig) -> Iterator[str]:
    data = config.data
    places = [("run.storage", str(config.run.storage))]
    places += [(f"data.{name}", getattr(data, name)) for name in ("train", "val", "test")]
    places += [(f"data.mixture[{i}]", each.place) for i, each in enumerate(data.mixture)]
    for where, place in places:
        if place is None or is_url(place) or Path(place).is_relative_to(_MOUNT):
            continue
        yield (
            f"{where} = {place}: lies outside of {_MOUNT}, where Pods have the storage that "
            "outlives them; use a path below it, or a URL"
        )


def _components(wish: Wish, known: list[str]) -> Iterator[str]:
    config = wish.config
    for name in wish.asked:
        if name not in known:
            yield f"--component {name}: there is none; choose of {', '.join(known)}"
        elif name in MODELS:
            yield f"--component {name}: the run file names the model; set it there"
        elif name in STORAGES and name not in wish.components[:1]:
            place = f"folder below {_MOUNT}" if name == "storage-pvc" else "URL"
            yield (
                f"--component {name}: run.storage = {config.run.storage} is kept by "
                f"{wish.components[0]}; use a {place} there"
            )
        elif name in (GPU, "rdma") and not config.scale.use_gpu:
            yield f"--component {name}: needs scale.use_gpu=true; set it, or leave this out"
    if "spot" in wish.asked and not config.scale.is_elastic:
        yield (
            f"--component spot: scale.num_workers = {config.scale.num_workers} is fixed, and waits "
            "for a node that was taken away; use [least, most]"
        )
    if wish.claim is not None and "storage-s3" in wish.components:
        yield f"--claim {wish.claim}: run.storage is a URL and has no claim; leave it out"
    if wish.gpu_product is not None and not config.scale.use_gpu:
        yield f"--gpu-product {wish.gpu_product}: scale.use_gpu = false; leave it out"
