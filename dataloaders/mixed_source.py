"""Several packed data sets as one source: their shards, numbered through."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Sequence

from dataloaders.errors import DataError
from dataloaders.feature_info import FeatureInfo
from dataloaders.index import SampleEntry, ShardInfo
from dataloaders.manifest import Video
from dataloaders.source import Sample, Source


class MixedSource:
    """The parts one after another, in the order given. It owns them: closing it closes them.

    The same video may be in several parts; it is then as many samples.

    Raises:
        DataError: some parts hold clips and some features, or features of different kinds.
    """

    def __init__(self, parts: Sequence[Source]):
        self.parts = tuple(parts)
        self._features = _common_features(self.parts)
        self._shards = [shard for part in parts for shard in part.shards]
        counts = [len(part.shards) for part in parts]
        self.first = [sum(counts[:i]) for i in range(len(counts))]
        text = json.dumps([part.fingerprint for part in parts])
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @property
    def shards(self) -> Sequence[ShardInfo]:
        return self._shards

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def features(self) -> FeatureInfo | None:
        """What features all parts hold; None: clips."""
        return self._features

    def locate(self, shard: int) -> tuple[int, int]:
        """The part a shard is of, and its number there."""
        part = bisect.bisect_right(self.first, shard) - 1
        return part, shard - self.first[part]

    def own_shards(self, part: int, shards: Sequence[int]) -> list[int]:
        """Those of ``shards`` that are of one part, by its own numbers."""
        located = map(self.locate, shards)
        return [own for number, own in located if number == part]

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        for number, part in enumerate(self.parts):
            part.prefetch(self.own_shards(number, current), self.own_shards(number, upcoming))

    def entries(self, shard: int) -> Sequence[SampleEntry]:
        part, own = self.locate(shard)
        return self.parts[part].entries(own)

    def read(self, shard: int, entry: SampleEntry) -> Sample:
        part, own = self.locate(shard)
        return self.parts[part].read(own, entry)

    def read_record(self, shard: int, entry: SampleEntry) -> Video:
        part, own = self.locate(shard)
        return self.parts[part].read_record(own, entry)

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def __enter__(self) -> MixedSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _common_features(parts: Sequence[Source]) -> FeatureInfo | None:
    infos: list[FeatureInfo | None] = [getattr(part, "features", None) for part in parts]
    for part, info in zip(parts, infos, strict=True):
        if (theirs := _kind(info)) != (first := _kind(infos[0])):
            names = [name for name in {**first, **theirs} if first.get(name) != theirs.get(name)]
            differences = ", ".join(f"{n} {theirs.get(n)}, not {first.get(n)}" for n in names)
            raise DataError(
                f"data.mixture: {part.name}: holds other frames than {parts[0].name}: "
                f"{differences}; mix clips with clips, and features made in the same way"
            )
    return infos[0] if infos else None


def _kind(info: FeatureInfo | None) -> dict[str, object]:
    """What features must have in common; the clips they are of may differ."""
    if info is None:
        return {"holds": "clips"}
    return {"holds": "features", **info.model_dump(exclude={"source"})}
