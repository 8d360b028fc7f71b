"""What a language model wrote, kept beside the shards: a row for each question and answer.

``<data>/descriptions/<model>.jsonl`` is only ever appended to, so a stopped run goes on where it
was. Rows hold what the model wrote as it is; whether it can be used is decided when it is read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from dataloaders.errors import DataError
from gcg.description_check import Written

log = logging.getLogger(__name__)


class DescriptionCache:
    """Texts by the hash of model, prompt, question and answer; a context manager.

    Args:
        path: the file; made if need be.
        identity: of the model, its weights and the prompt (``WriterFiles.identity``).

    One process at a time writes: entering raises ``DataError`` while another does. A row that was
    cut short by a kill is dropped; rows that cannot be read are counted, logged and written again.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._rows: dict[str, Written] = {}
        self._file: BinaryIO

    def __enter__(self) -> DescriptionCache:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise DataError(
                f"{self._path}: another process is writing it; wait until that has finished"
            ) from None
        self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return self._key(*pair) in self._rows

    def __getitem__(self, pair: tuple[str, str]) -> Written:
        return self._rows[self._key(*pair)]

    def add(self, rows: Iterable[tuple[tuple[str, str], Written]]) -> None:
        """Append rows and see them onto the disk."""
        lines = []
        for (question, answer), written in rows:
            key = self._key(question, answer)
            self._rows[key] = written
            row = {"key": key, "question": question, "answer": answer}
            row |= {"output": written.output, "ended": written.ended}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._file.truncate(len(whole))  # else the next row would be glued onto the torn one
        bad = 0
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                self._rows[str(row["key"])] = Written(str(row["output"]), bool(row["ended"]))
            except (ValueError, KeyError, TypeError):
                bad += 1
        if bad:
            log.warning("%s: %d rows cannot be read; they are written again", self._path, bad)

    def _key(self, question: str, answer: str) -> str:
        asked: list[Any] = [self._identity, question, answer]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
