"""What `gcg index` has done so far: a line a shard, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataloaders.index import ShardInfo, sha256_of
from dataloaders.index_shard import BadFound, Done, ShardFile

JOURNAL_NAME = "gcg.index.journal.jsonl"
_VERSION = 2
__all__ = ["JOURNAL_NAME", "Done", "Journal"]


@dataclass(frozen=True)
class _Line:
    size: int
    mtime_ns: int
    done: Done
    entries_sha256: str


class Journal:
    """Shards that are done, by name, as far as they were indexed with the same options.

    Args:
        folder: of the shards.
        options: a hash of all that the result depends on besides the shard.
    """

    def __init__(self, folder: Path, options: str):
        self._folder = folder
        self._path = folder / JOURNAL_NAME
        self._options = options
        self._lines: dict[str, _Line] = {}
        if self._path.exists():
            for text in self._path.read_text(encoding="utf-8").splitlines():
                self._read(text)

    def _read(self, text: str) -> None:
        try:
            row = json.loads(text)
            if (row["version"], row["options"]) != (_VERSION, self._options):
                return
            shard = _shard(row["shard"])
            bad = tuple(BadFound(**each) for each in row["bad"])
            done = Done(shard, bad, tuple(row["videos"]))
            line = _Line(row["size"], row["mtime_ns"], done, row["entries_sha256"])
            self._lines[row["name"]] = line
        except (ValueError, KeyError, TypeError):
            return  # the half line of a run that was killed

    def find(self, file: ShardFile) -> Done | None:
        """What was found in a shard, if it and its sidecars are still what they were then."""
        line = self._lines.get(file.name)
        if line is None or line.size != file.size:
            return None
        shard = line.done.shard
        if shard is not None and not self._as_written(shard, line.entries_sha256):
            return None
        if line.mtime_ns == file.mtime_ns:
            return line.done
        # Copied or touched: the same if its bytes are.
        if shard is not None and file.path == self._folder / shard.name:
            return line.done if sha256_of(file.path) == shard.sha256 else None
        return None

    def _as_written(self, shard: ShardInfo, entries_sha256: str) -> bool:
        """Whether what lies beside a shard is what was written."""
        files = {shard.entries_name: entries_sha256}
        if shard.records_sha256:
            files[shard.records_name] = shard.records_sha256
        try:
            return all(sha256_of(self._folder / name) == sha for name, sha in files.items())
        except OSError:
            return False

    def add(self, file: ShardFile, done: Done) -> None:
        """Note a shard as done; its sidecars are written."""
        row: dict[str, Any] = {
            "version": _VERSION,
            "options": self._options,
            "name": file.name,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "shard": asdict(done.shard) if done.shard is not None else None,
            "bad": [asdict(each) for each in done.bad],
            "videos": done.videos,
            "entries_sha256": sha256_of(self._folder / done.shard.entries_name)
            if done.shard is not None
            else "",
        }
        with self._path.open("a", encoding="utf-8") as out:
            # Begins with a line end: what a killed run left half written must not swallow this.
            out.write(f"\n{json.dumps(row)}\n")


def _shard(row: dict[str, Any] | None) -> ShardInfo | None:
    if row is None:
        return None
    counts = {int(number): times for number, times in row["question_counts"].items()}
    return ShardInfo(**{**row, "question_counts": counts})
