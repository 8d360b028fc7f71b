"""How long a collective takes: what is sent over the slowest link, and a delay for every hop.

The delays are those that NCCL itself plans with (``src/graph/tuning.cc`` of NCCL 2.2x,
``baseLat`` and ``hwLat``): a start, and for each step of a ring or level of a tree one delay
inside a machine and another between machines. As NCCL does, each call takes the cheapest way. Rings
have as many steps as there are workers, so their delay grows with the cluster; trees serve
all-reduces alone. Newer ways (NVLS, PAT, switches that add up) are left out: they are
not there on every cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.planning.traffic import Collective


@dataclass(frozen=True)
class Way:
    """How a collective may run. ``start``, ``inside``, ``between``: seconds; ``rate``: the share of
    the links' bandwidth that it reaches."""

    shape: Literal["ring", "tree"]
    start: float
    inside: float
    between: float
    rate: float


# Protocol Simple, and LL for little data, which Hopper's table caps at 35 to 45 GB/s of its links.
NCCL = (
    Way("ring", 8.4e-6, 3.4e-6, 14.0e-6, 1.0),
    Way("ring", 6.6e-6, 0.6e-6, 2.7e-6, 0.1),
    Way("tree", 8.4e-6, 4.0e-6, 14.0e-6, 0.9),
    Way("tree", 6.8e-6, 0.6e-6, 5.0e-6, 0.1),
)


@dataclass(frozen=True)
class Cluster:
    """Workers on machines. ``bandwidth``: of a ring through all of them, bytes a second."""

    world: int
    nodes: int
    bandwidth: float
    ways: tuple[Way, ...] = NCCL


def wire_seconds(collectives: Sequence[Collective], cluster: Cluster) -> float:
    """One after the other."""
    return sum(seconds(each, cluster) for each in collectives)


def seconds(collective: Collective, cluster: Cluster) -> float:
    """All calls of a collective, each on the cheapest way."""
    ways = [way for way in cluster.ways if way.shape == "ring" or collective.kind == "all-reduce"]
    each = collective.sent(cluster.world) / collective.calls / cluster.bandwidth
    return collective.calls * min(delay(way, collective, cluster) + each / way.rate for way in ways)


def delay(way: Way, collective: Collective, cluster: Cluster) -> float:
    """Seconds of one call of no data."""
    rounds = 2 if collective.kind == "all-reduce" else 1
    if way.shape == "tree":
        inside = cluster.world // cluster.nodes - 1
        between = math.ceil(math.log2(cluster.nodes))
    else:
        between = cluster.nodes - 1
        inside = cluster.world - 1 - between
    return way.start + rounds * (inside * way.inside + between * way.between)
