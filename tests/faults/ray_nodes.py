"""A Ray cluster of several nodes on loopback, whose nodes can be lost one by one."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.launcher.test_ray_job import BIN, PATIENCE_S, free_port, wait_for

_MEMORY = 100 * 2**20


@dataclass(frozen=True)
class Host:
    """Where a node runs: its address, and the command that others are started by there."""

    address: str
    enter: tuple[str, ...] = ()


def loopback(number: int) -> Host:
    """This machine, with an address for each node."""
    return Host(f"127.0.0.{number + 1}")


class Nodes:
    """Nodes of a CPU or more each, every one with an address of its own.

    Args:
        folder: for Ray's sockets, whose paths may not be long.
        environment: of the nodes and of whatever joins them.
        cpus: of each node.
        memory: of each node's object store, in bytes.
        with_dashboard: also the job API, at ``dashboard``.
        hosts: where the nodes run, by number; the head has 0, and who asks it is there, too.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        cpus: int = 1,
        memory: int = _MEMORY,
        with_dashboard: bool = False,
        hosts: Callable[[int], Host] = loopback,
    ) -> None:
        self._hosts = hosts
        self._folder, self.environment = folder, environment
        self._size = (f"--num-cpus={cpus}", f"--object-store-memory={memory}")
        self.address = f"{hosts(0).address}:{free_port()}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.split(":")[1]
        dashboard = ["--include-dashboard=false"]
        if with_dashboard:
            at = free_port()
            dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={at}"]
            self.dashboard = f"http://127.0.0.1:{at}"
        self._start("--head", f"--port={port}", *dashboard, f"--temp-dir={folder}")

    def add(self, **changes: str) -> str:
        """Start one more node; returns Ray's id of it once it is alive.

        ``changes``: of its environment.
        """
        known = self.alive()
        self._start(f"--address={self.address}", **changes)
        wait_for(lambda: len(self.alive() - known) == 1, "another node")
        (new,) = self.alive() - known
        return new

    @property
    def last(self) -> int:
        """The number of the node that was started last."""
        return len(self._nodes) - 1

    def alive(self) -> set[str]:
        """Ray's ids of the nodes that it takes to be alive."""
        script = (
            "import sys; from ray._raylet import GcsClient; "
            "nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=30).values(); "
            "print(*(n.node_id.hex() for n in nodes if n.state == 0))"
        )
        done = subprocess.run(
            [*self._hosts(0).enter, sys.executable, "-c", script, self.address],
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        return set(done.stdout.split()) if done.returncode == 0 else set()

    def drain(self, node: str, seconds: int) -> None:
        """Tell Ray that a node is taken away in so many seconds."""
        subprocess.run(
            [
                *self._hosts(0).enter, str(BIN / "ray"), "drain-node",
                f"--address={self.address}", f"--node-id={node}",
                "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken away",
                f"--deadline-remaining-seconds={seconds}",
            ],
            env=self.environment, check=True, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip

    def raylet(self, number: int) -> psutil.Process:
        """The raylet of the node that was started as number so and so, from 0."""
        (found,) = self._processes(number, "raylet/raylet")
        return found

    def workers(self, number: int) -> list[psutil.Process]:
        """The training workers on a node."""
        found = []
        for process in self.family(number):
            try:
                if any("RayTrainWorker" in word for word in process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def gcs(self) -> psutil.Process:
        (found,) = self._processes(0, "gcs/gcs_server")
        return found

    def family(self, number: int) -> list[psutil.Process]:
        """All processes of a node, the workers among them."""
        root = psutil.Process(self._nodes[number].pid)
        return [*root.children(recursive=True), root]

    def close(self) -> None:
        """Stop what was started here, by process id."""
        for number, node in enumerate(self._nodes):
            if node.poll() is None:
                for process in self.family(number):
                    kill(process)
            node.wait()

    def _start(self, *options: str, **changes: str) -> None:
        host = self._hosts(len(self._nodes))
        command = [*host.enter, str(BIN / "ray"), "start", "--block", *self._size]
        self._nodes.append(
            subprocess.Popen(
                [
                    *command,
                    f"--node-ip-address={host.address}",
                    # Without it, and so without jobs, where another cluster has Ray's own port.
                    f"--dashboard-agent-listen-port={free_port()}",
                    *options,
                ],
                env={**self.environment, **changes},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def _processes(self, number: int, program: str) -> list[psutil.Process]:
        found = []
        for process in self.family(number):
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if words and words[0].endswith(program):
                found.append(process)
        return found


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


@contextmanager
def ray_nodes(environment: dict[str, str], **settings: Any) -> Iterator[Nodes]:
    """A head node, which has CPUs for workers as well. ``settings``: of :class:`Nodes`."""
    folder = tempfile.mkdtemp(prefix="gcg-", dir="/tmp")
    nodes = Nodes(Path(folder), environment, **settings)
    try:
        wait_for(lambda: len(nodes.alive()) == 1, "the head node")
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


def ray_environment() -> dict[str, str]:
    """Of a cluster with a token of its own, whose workers are not made to wait for others and hear
    soon that a node is taken away."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    }
