"""The one error that tells a user what is wrong with the data."""

from __future__ import annotations


class DataError(ValueError):
    """A fault in the user's data: one line that says where, what value, which rule and the remedy.

    Line breaks in the message (FFmpeg's and pydantic's have some) are folded into spaces, so that a
    quarantine list, a log and a terminal each show one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
