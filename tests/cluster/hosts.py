"""Hosts with addresses of their own on one machine: network namespaces joined by a bridge.

Each has two interfaces besides its loopback: ``net0``, by which the others reach it, and ``idle0``,
which leads nowhere; and its own name stands for 127.0.1.1, as on many a Linux.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.ray_nodes import Host

_NETWORK = "10.213.77"


def why_not() -> str | None:
    """What keeps this machine from having such hosts."""
    if shutil.which("ip") is None:
        return "network namespaces: the command `ip` is absent"
    name = f"gcg-{os.getpid()}-try"
    tries = [
        ["ip", "netns", "add", name],
        ["ip", "-n", name, "link", "add", "br0", "type", "bridge"],
        ["ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two"],
        ["ip", "netns", "exec", name, "sh", "-c", "mount --bind /etc/hosts /etc/hosts"],
    ]
    try:
        for command in tries:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                return f"network namespaces: {' '.join(command)}: {done.stderr.strip()}"
        return None
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Hosts:
    """Called with a number from 0, gives a host."""

    def __init__(self, count: int, folder: Path) -> None:
        self._names = [f"gcg-{os.getpid()}-{number}" for number in range(count)]
        self._hub = f"gcg-{os.getpid()}-hub"
        self._hosts_file = folder / "etc-hosts"
        self._hosts_file.write_text(f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n")

    def __call__(self, number: int) -> Host:
        # The name of this machine means something else inside.
        enter = f'mount --bind {self._hosts_file} /etc/hosts && exec "$@"'
        inside = ("ip", "netns", "exec", self._names[number], "sh", "-c", enter, "sh")
        return Host(f"{_NETWORK}.{number + 1}", inside)

    def open(self) -> None:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "br0", "up")
        for number, name in enumerate(self._names):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "add", "idle0", "type", "bridge")
            _ip("-n", name, "addr", "add", "192.168.213.1/24", "dev", "idle0")
            _ip("-n", name, "link", "set", "idle0", "up")
            port = f"port{number}"
            _ip(
                "-n", name, "link", "add", "net0", "type", "veth",
                "peer", "name", port, "netns", self._hub,
            )  # fmt: skip
            _ip("-n", name, "addr", "add", f"{_NETWORK}.{number + 1}/24", "dev", "net0")
            _ip("-n", name, "link", "set", "net0", "up")
            _ip("-n", self._hub, "link", "set", port, "master", "br0")
            _ip("-n", self._hub, "link", "set", port, "up")

    def cut_off(self, number: int) -> None:
        """As if its cable were pulled: its processes go on, and reach nobody."""
        _ip("-n", self._hub, "link", "set", f"port{number}", "down")

    def close(self) -> None:
        for name in (*self._names, self._hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[Hosts]:
    found = Hosts(count, folder)
    try:
        found.open()
        yield found
    finally:
        found.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
