"""Policy for samples that cannot be read or decoded: note them, count them, stop past a budget."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from dataloaders.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadSample:
    """One failure and where it came from."""

    data: str
    shard: str
    key: str
    reason: str


class Budget(NamedTuple):
    """What may be bad of one data set: the largest share of visits, and the most in a row."""

    max_bad_share: float
    max_consecutive: int


class _Tally:
    """Visits of one data set."""

    def __init__(self) -> None:
        self.seen = self.bad = self.consecutive = 0


class Quarantine:
    """Records bad samples and enforces a budget for each data set. Counts are in visits, since the
    run began or resumed. Safe from several threads.

    Args:
        path: JSON Lines, one line per distinct sample, appended at once; None keeps no file.
            Give each rank a file of its own: appending is not atomic on network file systems.
        max_bad_share: the largest share of bad visits, 0..1.
        max_consecutive: the most bad visits in a row: a lost shard shows here first.
        min_seen: the share is taken of at least this many visits, so that one bad clip among the
            first few does not stop a run.
        budgets: of data sets, by name, that have budgets of their own.

    Raises:
        DataError: a budget that is not a number in its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_bad_share: float = 0.01,
        max_consecutive: int = 16,
        min_seen: int = 200,
        budgets: Mapping[str, Budget] | None = None,
    ):
        self._default = Budget(max_bad_share, max_consecutive)
        self._budgets = dict(budgets or {})
        for budget in (self._default, *self._budgets.values()):
            if not 0 <= budget.max_bad_share <= 1:
                raise DataError(
                    f"data.max_bad_share: {budget.max_bad_share}: must be a share, 0 to 1"
                )
            if budget.max_consecutive < 1:
                raise DataError(
                    f"data.max_consecutive: {budget.max_consecutive}: must be at least 1"
                )
        self.path = Path(path) if path is not None else None
        self.min_seen = min_seen
        self._lock = threading.Lock()
        self._tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._known = self._read_known()

    def _read_known(self) -> set[tuple[str, str, str]]:
        """What earlier attempts of the run wrote: a resumed run does not write it again."""
        known: set[tuple[str, str, str]] = set()
        if self.path is None or not self.path.exists():
            return known
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                known.add((row["data"], row["shard"], row["key"]))
            except (ValueError, KeyError, TypeError):
                continue  # the half line of a run that was killed
        return known

    def good(self, data: str) -> None:
        """Count a visit of data set ``data`` whose clip was fine."""
        with self._lock:
            tally = self._tallies[data]
            tally.seen += 1
            tally.consecutive = 0

    def bad(self, sample: BadSample) -> None:
        """Count and record a bad visit.

        Raises:
            DataError: the budget is spent; the message carries the last reason.
        """
        budget = self._budgets.get(sample.data, self._default)
        with self._lock:
            tally = self._tallies[sample.data]
            tally.seen += 1
            tally.bad += 1
            tally.consecutive += 1
            self._record(sample)
            share = tally.bad / max(tally.seen, self.min_seen)
            if tally.consecutive > budget.max_consecutive:
                what = f"{tally.consecutive} bad clips in a row, data.max_consecutive is "
                what += str(budget.max_consecutive)
            elif share > budget.max_bad_share:
                what = f"{tally.bad} of {tally.seen} clips are bad, data.max_bad_share is "
                what += str(budget.max_bad_share)
            else:
                return
        listed = f"; all are listed in {self.path}" if self.path else ""
        raise DataError(
            f"{sample.data}: {what} (last: {sample.shard}: {sample.key}: {sample.reason}){listed}; "
            "repair the data and run `gcg pack` again, or raise the budget"
        )

    def _record(self, sample: BadSample) -> None:
        identity = (sample.data, sample.shard, sample.key)
        if identity in self._known:
            return
        self._known.add(identity)
        logger.warning(
            "skipped %s in %s of %s: %s", sample.key, sample.shard, sample.data, sample.reason
        )
        if self.path is None:
            return
        try:
            _append(self.path, json.dumps(asdict(sample)).encode() + b"\n")
        except OSError as error:  # a storage that refuses must not end what only wants to note
            logger.warning("%s: %s is not listed: %s", self.path, sample.key, error)
            self._known.discard(identity)

    def counters(self) -> dict[str, int]:
        """For metrics: visits seen, bad visits, the longest row of bad visits that still goes on,
        distinct bad samples; of all data sets together."""
        with self._lock:
            tallies = list(self._tallies.values())
            return {
                "seen": sum(tally.seen for tally in tallies),
                "bad": sum(tally.bad for tally in tallies),
                "consecutive": max((tally.consecutive for tally in tallies), default=0),
                "distinct": len(self._known),
            }


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as out:
        # A half line left by a killed run must not swallow this one.
        if out.tell() and os.pread(out.fileno(), 1, out.tell() - 1) != b"\n":
            out.write(b"\n")
        out.write(line)
