"""What a fault of a soak did, as a row of a table; and the damage that a checkpoint gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .soak_draw import Fault


@dataclass(frozen=True)
class Outcome:
    """What a fault did, in seconds since it: until it was noticed, until the next attempt had its
    checkpoint, until that attempt had made an update; and how many steps were done again.

    ``at``: the step it came at; ``workers``: before and after it.
    """

    fault: Fault
    at: int
    noticed_s: float
    restored_s: float | None
    going_s: float
    lost: int
    workers: tuple[int, int]

    def __str__(self) -> str:
        restored = "–" if self.restored_s is None else f"{self.restored_s:.0f}"
        before, after = self.workers
        return (
            f"| {self.fault.kind} | {self.fault.step} | {self.at} | {self.noticed_s:.0f} | "
            f"{restored} | {self.going_s:.0f} | {self.lost} | {before} → {after} |"
        )


HEADER = (
    "| fault | drawn for step | came at step | noticed, s | restored, s | going on, s | "
    "steps lost | workers |\n|---|---|---|---|---|---|---|---|"
)


def damage(checkpoint: Path, files: list[str], choice: int) -> None:
    """Cut a file short, delete one, or flip a bit of one: which, and which file, by ``choice``."""
    path = checkpoint / files[choice // 3 % len(files)]
    if choice % 3 == 0:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    elif choice % 3 == 1:
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[choice % len(content)] ^= 1
        path.write_bytes(content)
