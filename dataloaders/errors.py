"""The errors that tell a user what is wrong with the data, and with the place they lie at."""

from __future__ import annotations

from dataloaders.trust import redacted


class DataError(ValueError):
    """A fault in the user's data: one line that says where, what value, which rule and the remedy.

    Line breaks in the message (FFmpeg's and pydantic's have some) are folded into spaces, so that a
    quarantine list, a log and a terminal each show one line. Credentials in URLs are left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(" ".join(message.split())))


class StorageError(DataError):
    """The place data lie at, or the cache for them, failed: no clip's fault, so no clip is skipped
    for it (which clips a run learns from must not depend on the network)."""


class DeniedError(StorageError):
    """The service says no. To who may not list a bucket it says so of a file that is not there."""
