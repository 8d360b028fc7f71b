"""The packages that ours are measured against, each in a folder of its own.

decord and decord2 exclude each other, and none of them belongs into the environment that trains.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Folder -> what pip puts there, without what it would bring along.
PEERS = {
    "torchcodec": ("torchcodec==0.17.*",),
    "decord": ("decord==0.6.*",),
    "decord2": ("decord2==3.4.*",),
}


def install(sites: Path) -> list[str]:
    """Install what is not there yet into folders below ``sites``; lines about what could not be."""
    failed = []
    for name, packages in PEERS.items():
        place = sites / name
        if (place / "done").exists():
            continue
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--target", str(place), *packages],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["said nothing"]
            failed.append(f"{name} could not be installed: {said[-1][:200]}")
        else:
            (place / "done").touch()
    return failed
