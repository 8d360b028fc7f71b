"""Does to a run what a soak has drawn, and notes what came of it.

Everything is waited for by what the run writes: the run is at the step that the draw names, the
newest attempt has made an update, a checkpoint has been committed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from launcher.checkpoints.commit import COMMIT
from launcher.checkpoints.fence import current_attempt
from launcher.checkpoints.find import newest
from launcher.cluster.departure import EXIT_RESUME
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from tests.conftest import ROOT
from tests.launcher.test_kill_resume import last_step, saved_step

from .ray_nodes import Nodes, kill
from .refusing import refusing
from .soak_draw import Fault
from .soak_outcome import Outcome, damage

PATIENCE_S = 300
_POLL_S = 0.05


@dataclass
class Soak:
    """A run on a cluster of two nodes, and who may be harmed in it.

    Args:
        nodes: the cluster; its head is never harmed.
        path: the run file.
        folder: the run's folder.
        said: file that the command's words go to, all attempts one after the other.
    """

    nodes: Nodes
    path: Path
    folder: RunFolder
    said: Path
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._add_node()
        self.start()

    def start(self) -> None:
        """Start the training command."""
        with self.said.open("a") as said:
            self.command = subprocess.Popen(
                [sys.executable, "-m", "launcher.train", "--config", str(self.path)],
                cwd=ROOT,
                env={**self.nodes.environment, "RAY_ADDRESS": self.nodes.address},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def close(self) -> None:
        if self.command.poll() is None:
            self.command.kill()
        self.command.wait()

    def harm(self, fault: Fault) -> None:
        """Wait for its step, let a fault come, and wait until the run goes on."""
        self._wait(lambda: last_step(self.folder) >= fault.step, f"step {fault.step}")
        self._wait(self._is_stepping, "an update")
        if fault.kind in ("a worker stopped", "a node lost", "a node drained"):
            self._wait(lambda: self._world() == 2 and self._is_stepping(), "two workers")
        world, attempt = self._world(), current_attempt(self.folder)
        since, reached, noticed = self._ACTIONS[fault.kind](self, fault.choice)
        restored = None
        if fault.kind == "the storage refuses":
            lost = 0
            saved = saved_step(self.folder)
            self._wait(lambda: saved_step(self.folder) > saved, "a checkpoint after it")
            going = time.time()
        else:
            self._wait(lambda: self._start()["attempt"] > attempt, "another attempt")
            first = self._start()
            self._wait(
                lambda: self._is_stepping() or self._start()["attempt"] > first["attempt"],
                "its first update",
            )
            going = time.time()
            restored, lost = first["time"] - since, max(0, reached - first["step"])
        outcome = Outcome(
            fault, reached, noticed - since, restored, going - since, lost, (world, self._world())
        )
        self.outcomes.append(outcome)
        print(outcome, flush=True)  # noqa: T201
        self._afterwards(fault)

    def finish(self) -> None:
        """Until the run is complete."""
        code = self.command.wait(timeout=PATIENCE_S)
        assert code == 0, self._tail()

    # What the faults are. Each returns when it came, the step the run was at, and when the command
    # noticed, or whoever else had to.

    def _a_worker_killed(self, choice: int) -> tuple[float, int, float]:
        return self._struck(lambda: self._one_of(choice).kill())

    def _all_workers_killed(self, choice: int) -> tuple[float, int, float]:
        return self._struck(lambda: [kill(worker) for worker in self._workers()])

    def _a_worker_asked(self, choice: int) -> tuple[float, int, float]:
        return self._left(lambda: self._one_of(choice).send_signal(signal.SIGTERM))

    def _a_worker_stopped(self, choice: int) -> tuple[float, int, float]:
        return self._struck(lambda: self._one_of(choice).send_signal(signal.SIGSTOP))

    def _a_node_lost(self, choice: int) -> tuple[float, int, float]:
        self._is_back_later = bool(choice % 2)
        found = self._struck(lambda: self.nodes.raylet(self._node).kill())
        if not self._is_back_later:
            self._add_node()
        return found

    def _a_node_drained(self, choice: int) -> tuple[float, int, float]:
        gone = self._node
        found = self._left(lambda: self.nodes.drain(self._node_id, seconds=120))
        for process in self.nodes.family(gone):
            kill(process)
        self._add_node()
        return found

    def _the_command_killed(self, choice: int) -> tuple[float, int, float]:
        since, reached = time.time(), last_step(self.folder)
        self.command.kill()
        self.command.wait()
        noticed = time.time()
        self.start()
        return since, reached, noticed

    def _the_command_asked(self, choice: int) -> tuple[float, int, float]:
        since = time.time()
        self.command.send_signal(signal.SIGTERM)
        code = self.command.wait(timeout=PATIENCE_S)
        assert code == EXIT_RESUME, self._tail()
        noticed, reached = time.time(), last_step(self.folder)
        self.start()
        return since, reached, noticed

    def _checkpoint_damaged(self, choice: int) -> tuple[float, int, float]:
        workers = self._workers()
        self._wait(lambda: newest(self.folder) is not None, "a checkpoint")
        for worker in workers:
            worker.suspend()  # no other checkpoint becomes the newest meanwhile
        checkpoint = newest(self.folder)
        assert checkpoint is not None
        damage(checkpoint.path, sorted(checkpoint.files), choice)
        return self._struck(lambda: [kill(worker) for worker in workers])

    def _killed_in_a_save(self, choice: int) -> tuple[float, int, float]:
        workers = self._workers()
        while True:
            self._wait(self._unfinished, "a save")
            for worker in workers:
                worker.suspend()
            if self._unfinished():
                return self._struck(lambda: [kill(worker) for worker in workers])
            for worker in workers:
                worker.resume()  # too late: it has been committed

    def _storage_refuses(self, choice: int) -> tuple[float, int, float]:
        since, failed = time.time(), len(self._rows("save_failed"))
        reached = last_step(self.folder)
        with refusing(self.folder.checkpoints):
            self._wait(lambda: len(self._rows("save_failed")) > failed, "a save that failed")
            return since, reached, time.time()

    _ACTIONS: ClassVar[dict[str, Any]] = {
        "a worker killed": _a_worker_killed,
        "all workers killed": _all_workers_killed,
        "a worker asked to leave": _a_worker_asked,
        "a worker stopped": _a_worker_stopped,
        "a node lost": _a_node_lost,
        "a node drained": _a_node_drained,
        "the command killed": _the_command_killed,
        "the command asked to leave": _the_command_asked,
        "the newest checkpoint damaged, all workers killed": _checkpoint_damaged,
        "all workers killed in a save": _killed_in_a_save,
        "the storage refuses": _storage_refuses,
    }

    def _struck(self, action: Callable[[], object]) -> tuple[float, int, float]:
        """The command counts that workers were lost."""
        before = self._said_times("workers were lost")
        since, reached = time.time(), last_step(self.folder)
        action()
        self._wait(lambda: self._said_times("workers were lost") > before, "the loss noticed")
        return since, reached, time.time()

    def _left(self, action: Callable[[], object]) -> tuple[float, int, float]:
        """All workers leave after a step, with a checkpoint."""
        before, since = len(self._rows("left")), time.time()
        action()
        self._wait(lambda: len(self._rows("left")) > before, "leaving")
        return since, self._rows("left")[-1]["step"], time.time()

    def _afterwards(self, fault: Fault) -> None:
        if fault.kind == "a node lost" and self._is_back_later:
            (worker,) = self._workers()
            worker.suspend()  # the pace of this machine decides nothing
            self._add_node()
            worker.resume()

    def _add_node(self) -> None:
        self._node_id = self.nodes.add()
        self._node = self.nodes.last

    def _workers(self) -> list[psutil.Process]:
        """Of all nodes that are up, in an order that is always the same."""
        found = [w for number in (0, self._node) for w in self.nodes.workers(number)]
        assert found
        return found

    def _one_of(self, choice: int) -> psutil.Process:
        workers = self._workers()
        return workers[choice % len(workers)]

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in read_metrics(self.folder.metrics) if row["kind"] == kind]

    def _start(self) -> dict[str, Any]:
        return (self._rows("start") or [{"attempt": 0, "step": 0, "world_size": 0}])[-1]

    def _world(self) -> int:
        return self._start()["world_size"]

    def _is_stepping(self) -> bool:
        """Whether the newest attempt has made an update."""
        start = self._start()
        is_newest = start["attempt"] == current_attempt(self.folder)
        return is_newest and last_step(self.folder) > start["step"]

    def _unfinished(self) -> bool:
        """Whether the newest attempt is writing a checkpoint."""
        attempt = current_attempt(self.folder)
        folders = self.folder.checkpoints.glob(f"step-*.attempt-{attempt}")
        return any(not (folder / COMMIT).exists() for folder in folders)

    def _said_times(self, words: str) -> int:
        return self.said.read_text(errors="replace").count(words)

    def _tail(self) -> str:
        return self.said.read_text(errors="replace")[-4000:]

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            ended = self.command.poll()
            assert ended is None, f"{what}: the command ended with {ended}: {self._tail()}"
            assert time.monotonic() < deadline, f"{what}: not in {PATIENCE_S} s: {self._tail()}"
            time.sleep(_POLL_S)
