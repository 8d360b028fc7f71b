"""What an interrupted pack has finished: its whole shards, after which the next attempt goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dataloaders.errors import DataError
from dataloaders.index import ShardInfo, read_entries, sha256_of, write_atomic
from dataloaders.ingest import BadVideo

JOURNAL_NAME = "pack.journal.jsonl"


@dataclass
class Finished:
    """The shards that are whole, how many rows of the input they account for, and the clips among
    those rows that were left out."""

    shards: list[ShardInfo] = field(default_factory=list)
    rows: int = 0
    bad: list[BadVideo] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)  # of the journal, which say so


class Journal:
    """Appended to after each shard. Its first line says which input it is about."""

    def __init__(self, out: Path, fingerprint: str):
        self._path = out / JOURNAL_NAME
        self._fingerprint = fingerprint

    def read(self) -> Finished:
        """What can be kept: the shards up to the first that is not as it was written.

        Reads those shards whole. Nothing is kept of another input's pack.
        """
        found = Finished()
        lines = self._lines()
        if not lines or lines[0] != {"input": self._fingerprint}:
            return found
        for line in lines[1:]:
            try:
                counts = {int(n): times for n, times in line["shard"]["question_counts"].items()}
                shard = ShardInfo(**{**line["shard"], "question_counts": counts})
                bad = [BadVideo(**row) for row in line["bad"]]
                if not _as_written(self._path.parent, shard):
                    break
                found.rows = int(line["rows"])
            except (KeyError, TypeError, ValueError, AttributeError):
                break
            found.shards.append(shard)
            found.bad += bad
            found.lines.append(line)
        return found

    def _lines(self) -> list[dict[str, Any]]:
        """Up to the half line that a killed process may leave."""
        lines = []
        try:
            for line in self._path.read_text(encoding="utf-8").splitlines():
                lines.append(json.loads(line))
        except (OSError, ValueError):
            pass
        return lines

    def begin(self, kept: Finished) -> None:
        """Start the file anew with what is kept."""
        lines = [{"input": self._fingerprint}, *kept.lines]
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    def add(self, shard: ShardInfo, rows: int, bad: Sequence[BadVideo]) -> None:
        """Note a shard that is whole: ``rows`` rows are done, ``bad`` are new since the last."""
        self._append({"shard": asdict(shard), "rows": rows, "bad": [asdict(b) for b in bad]})

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _as_written(out: Path, shard: ShardInfo) -> bool:
    path = out / shard.name
    try:
        if path.stat().st_size != shard.bytes:
            return False
        digest = sha256_of(path)
        read_entries(out, shard)
    except (OSError, DataError):
        return False
    return digest == shard.sha256
