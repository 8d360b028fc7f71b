"""Questions that cannot be asked: left out with file and line, up to a share of the file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from dataloaders.errors import DataError

logger = logging.getLogger(__name__)

MAX_BAD_QUESTIONS = 0.05
# The share is taken of at least so many: one bad question in a file of ten stops nothing.
_MIN_SEEN = 200


@dataclass(frozen=True)
class BadQuestion:
    """A question that was left out: where it stands (``file:line``), whose it is, and why."""

    place: str
    video: str
    question: str
    reason: str


class BadQuestions:
    """Collects the questions that a reader leaves out, and refuses a file that has too many.

    Args:
        max_share: the largest share of a file's questions that may be left out, 0..1.

    Raises:
        DataError: a share that is none.
    """

    def __init__(self, max_share: float = MAX_BAD_QUESTIONS):
        if not 0 <= max_share <= 1:
            raise DataError(f"max_bad_questions: {max_share}: must be a share, 0 to 1")
        self.max_share = max_share
        self.found: list[BadQuestion] = []

    def add(self, question: BadQuestion) -> None:
        logger.warning(
            "%s: left out question %s of %s: %s",
            question.place, question.question, question.video, question.reason,
        )  # fmt: skip
        self.found.append(question)

    def check(self, path: Path, total: int) -> None:
        """Call at the end of a file with the number of its questions, the bad ones included.

        Raises:
            DataError: too large a part of them was left out.
        """
        if len(self.found) > self.max_share * max(total, _MIN_SEEN):
            first = self.found[0]
            raise DataError(
                f"{path}: {len(self.found)} of {total} questions cannot be asked, "
                f"--max-bad-questions is {self.max_share:g} (first: {first.place}: {first.reason});"
                " correct the file, or allow a larger share"
            )
