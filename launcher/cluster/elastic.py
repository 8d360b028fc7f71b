"""How many workers there is room for, at the start of an attempt and while it runs.

Ray Train gets a fixed number of workers for each attempt, the largest that both the cluster and the
batches allow. Its own elastic mode starts any number between its bounds, also one that does not
divide the streams, and stops workers in the middle of a step when it grows.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from launcher.checkpoints.fence import current_attempt
from launcher.cluster.departure import ClusterLostError
from launcher.config import RunConfig
from launcher.storage.places import fault_of
from launcher.storage.run_folder import RunFolder, write_text

logger = logging.getLogger(__name__)

_POLL_S = 0.5
# Without a head a call to Ray waits for a minute, then ends the process.
_HEAD_PATIENCE_S = 20.0


def worker_resources(config: RunConfig) -> dict[str, float]:
    """What one worker takes of its node."""
    gpus = {"GPU": 1.0} if config.scale.use_gpu else {}
    return {"CPU": float(config.scale.cpus_per_worker), **gpus}


def wait_for_room(config: RunConfig, is_over: Callable[[], bool]) -> int | None:
    """The number of workers to start with. Ray must be initialised.

    For a fixed number Ray waits. Where it may change: at once the most there may be, else, once the
    room has been the same for ``scale.settle_s``, the largest number that fits.

    Args:
        is_over: asked while waiting; when true, None is returned.

    Raises:
        ClusterLostError: Ray's head does not answer.
    """
    if not config.scale.is_elastic:
        return config.world_size
    seats, steady = _Seats(config, config.world_size), _Steady()
    warned = lost = False
    try:
        while not is_over():
            try:
                found = _answer(seats.count)
            except ClusterLostError:
                lost = True
                raise
            world = _largest(config, found)
            settled = steady.seconds(found) >= config.scale.settle_s
            if world is not None and (settled or world == config.world_size):
                logger.info("room for %d workers: starting %d", found, world)
                return world
            if settled and not warned:
                warned = True
                least = config.world_sizes[0]
                logger.warning("room for %d workers, %d needed: waiting for more", found, least)
            time.sleep(_POLL_S)
        return None
    finally:
        if not lost:
            seats.close()


class Growth:
    """Asks the workers to leave at their next checkpoint once there is room for more of them.

    The room is held meanwhile. If it goes before the checkpoint comes, the wish is taken back.

    Args:
        world: how many workers the attempt has.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, world: int) -> None:
        self._config, self._folder, self._world = config, folder, world
        self._before = current_attempt(folder)
        self._seats: _Seats | None = None
        self._steady = _Steady()
        self._wished: int | None = None
        self._looked_at = time.monotonic()
        self._looking: threading.Thread | None = None
        folder.grow.unlink(missing_ok=True)  # of a command that was killed

    def look(self) -> None:
        """Compare the room with the workers, now and then; called often, and never waits: whoever
        calls it must see that the head has gone, and without one a call to Ray hangs."""
        now = time.monotonic()
        if self._world == self._config.world_size or now - self._looked_at < _POLL_S:
            return
        if self._looking is not None and self._looking.is_alive():
            return
        self._looked_at = now
        self._looking = threading.Thread(target=self._compare, name="growth", daemon=True)
        self._looking.start()

    def _compare(self) -> None:
        if self._seats is None:
            # Only when the workers are there: seats taken before would be theirs.
            if current_attempt(self._folder) > self._before:
                self._seats = _Seats(self._config, self._config.world_size - self._world)
            return
        found = self._seats.count()
        larger = _largest(self._config, self._world + found)
        settled = self._steady.seconds(found) >= self._config.scale.settle_s
        if larger is None or larger <= self._world:
            self._wish(None)
        elif settled:
            self._wish(larger)

    def close(self) -> None:
        if self._looking is not None:
            self._looking.join()
        if self._seats is not None:
            self._seats.close()
        self._wish(None)

    def _wish(self, world: int | None) -> None:
        if world == self._wished:
            return
        grow = self._folder.grow
        if world is None:
            why = fault_of(lambda: grow.unlink(missing_ok=True))
        else:
            why = fault_of(lambda: write_text(grow, f"there is room for {world} workers\n"))
        if why is None:
            self._wished = world
        else:
            logger.warning("%s: %s; tried again soon", grow, why)


class _Seats:
    """Room for one worker each, asked of the cluster: what it cannot give now it gives later.

    Asking beats computing it: other jobs, nodes that are lost or about to go, and that a worker's
    CPUs and GPU must lie on one node, are all seen to by Ray. A cluster that grows by demand sees
    a demand.
    """

    def __init__(self, config: RunConfig, number: int) -> None:
        from ray.util import placement_group

        resources = worker_resources(config)
        self._groups = [placement_group([resources]) for _ in range(number)]

    def count(self) -> int:
        """How many are held now."""
        from ray.util import placement_group_table

        table: dict[str, Any] = placement_group_table()
        states = [table.get(group.id.hex(), {}).get("state") for group in self._groups]
        return states.count("CREATED")

    def close(self) -> None:
        from ray.util import remove_placement_group

        for group in self._groups:
            remove_placement_group(group)


class _Steady:
    """How long a number has been the same."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._since = 0.0

    def seconds(self, number: int) -> float:
        now = time.monotonic()
        if number != self._number:
            self._number, self._since = number, now
        return now - self._since


def _largest(config: RunConfig, room: int) -> int | None:
    return max((world for world in config.world_sizes if world <= room), default=None)


def _answer(call: Callable[[], int]) -> int:
    """What a call to Ray returns, if it does."""
    answers: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(call())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, name="room", daemon=True).start()
    try:
        answer = answers.get(timeout=_HEAD_PATIENCE_S)
    except queue.Empty:
        raise ClusterLostError("its head does not answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
