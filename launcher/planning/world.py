"""How many workers on how many machines, whether the run's batches can be dealt to them, and what
part of the data each machine reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.layout import contrast_groups
from dataloaders.location import is_url
from dataloaders.source import Source
from launcher.config import RunConfig, cross_check
from launcher.errors import ConfigError, UserError
from launcher.planning.shapes import CLIP_SIZE
from launcher.training.data import build_plan, open_train

# GPUs of a machine where --nodes does not say.
_PER_NODE = 8


@dataclass(frozen=True)
class World:
    """``config`` with the planned number of workers; ``notes``: what was changed to make it fit."""

    config: RunConfig
    nodes: int
    notes: tuple[str, ...]

    @property
    def gpus(self) -> int:
        return self.config.world_size

    @property
    def per_node(self) -> int:
        return self.gpus // self.nodes


@dataclass(frozen=True)
class EpochData:
    """What an epoch reads. ``shards_per_node`` and ``bytes_per_node``: fewest and most of a
    machine; ``pairs_per_visit``: the mean; ``clip``: width and height of the first clip."""

    samples: int
    questions: int
    visits: int
    steps: int
    shards: int
    bytes: int
    shards_per_node: tuple[int, int]
    bytes_per_node: tuple[int, int]
    pairs_per_visit: float
    clip: tuple[int, int]


def fit_world(config: RunConfig, gpus: int | None = None, nodes: int | None = None) -> World:
    """The run at ``gpus`` workers on ``nodes`` machines; by default ``scale.num_workers`` of them,
    the most where that is a range.

    Where the world does not divide the run's batches, the nearest number of micro-batches a step is
    taken, so the global batch changes, and streams that it divides.

    Raises:
        UserError: numbers that no run can have.
    """
    gpus = config.world_size if gpus is None else gpus
    nodes = _nodes(gpus) if nodes is None else nodes
    for name, value in (("--gpus", gpus), ("--nodes", nodes)):
        if value < 1:
            raise UserError(f"{name} {value}: must be at least 1")
    if gpus % nodes:
        raise UserError(
            f"--nodes {nodes}: must divide --gpus {gpus}, machines are alike; --gpus is their total"
        )
    notes: list[str] = []
    data, micro = config.data, config.engine.micro_batch
    batch, streams, group = data.global_batch, data.streams, data.contrast_group
    if batch % (gpus * micro):
        steps = max(1, round(batch / (gpus * micro)))
        batch = gpus * micro * steps
        notes.append(
            f"data.global_batch = {data.global_batch} is not {micro} (micro-batch) × accumulation "
            f"× {gpus} (workers); planned with accumulation {steps}, global_batch {batch}"
        )
    if streams % gpus or batch % streams:
        streams = gpus
        notes.append(
            f"data.streams = {data.streams} does not go with {gpus} workers and a global batch of "
            f"{batch}; planned with streams {streams}"
        )
    if group not in contrast_groups(streams, batch):
        group = max(size for size in contrast_groups(streams, batch) if size <= group)
        notes.append(f"data.contrast_group = {data.contrast_group}: planned with {group}")
    fitted = _with(config, gpus, batch, streams, group)
    problems = list(cross_check(fitted))
    if problems:
        raise ConfigError(problems)
    return World(fitted, nodes, tuple(notes))


def _nodes(gpus: int) -> int:
    return gpus // _PER_NODE if gpus > _PER_NODE and gpus % _PER_NODE == 0 else 1


def _with(config: RunConfig, gpus: int, batch: int, streams: int, group: int) -> RunConfig:
    data = config.data.model_copy(
        update={"global_batch": batch, "streams": streams, "contrast_group": group}
    )
    return config.at_world_size(gpus).model_copy(update={"data": data})


def epoch_data(world: World) -> EpochData | str:
    """What an epoch reads of ``data.train``, from its index alone; or why that is not known."""
    for each in world.config.data.sets:
        if not is_url(each.place) and not Path(each.place).is_dir():
            return f"data.train = {each.place}: not here"
    try:
        with open_train(world.config) as source:
            return _read(world, source)
    except DataError as error:
        return str(error)


def _read(world: World, source: Source) -> EpochData:
    plan = build_plan(world.config, source)
    streams = plan.stream_shards(0)
    nodes: list[list[int]] = [[] for _ in range(world.nodes)]
    for stream, shards in enumerate(streams):
        nodes[stream % world.gpus // world.per_node] += shards
    counts = sorted(len(shards) for shards in nodes)
    sizes = sorted(sum(source.shards[i].bytes for i in shards) for shards in nodes)
    questions = sum(shard.num_questions for shard in source.shards)
    clip = CLIP_SIZE
    if not is_url(source.name):  # a record of a URL would cost a whole shard
        record = source.read_record(0, source.entries(0)[0])
        clip = (record.width or CLIP_SIZE[0], record.height or CLIP_SIZE[1])
    return EpochData(
        samples=sum(shard.num_samples for shard in source.shards),
        questions=questions,
        visits=plan.total_visits,
        steps=plan.steps_per_epoch(0),
        shards=len(source.shards),
        bytes=sum(shard.bytes for shard in source.shards),
        shards_per_node=(counts[0], counts[-1]),
        bytes_per_node=(sizes[0], sizes[-1]),
        pairs_per_visit=questions / plan.total_visits,
        clip=clip,
    )
