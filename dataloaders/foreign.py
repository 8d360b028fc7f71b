"""What is found in shards that others wrote, whatever their format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Some bytes of a shard file: what they are called, where they begin, how many they are."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class FoundSample:
    """A sample of a foreign shard: its clip and, if there is one, what may be its record.

    ``problem`` says why it cannot be used; then there may be no clip.
    """

    key: str
    video: Part | None = None
    record: Part | None = None
    problem: str = ""


@dataclass(frozen=True)
class Names:
    """What the user calls things: an MDS column, or a tar member's suffix. Empty: find out."""

    video: str = ""
    key: str = ""
    record: str = ""
