"""Pseudo-labels on disk: beside the shards, a file per shard, a row per question.

``<data>/labels/<name>/meta.json`` says what made them; it is written last, so a folder without it
is not a label set.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataloaders.errors import DataError
from dataloaders.manifest import describe
from dataloaders.storage.ahead import Ahead
from dataloaders.storage.folder import LocalFolder, open_folder
from dataloaders.storage.options import StorageOptions

LABELS_VERSION = 1
META_NAME = "meta.json"
_REMEDY = "make them with `gcg label`"
_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LabelMeta(BaseModel):
    """What a label set was made by and for.

    ``options`` are the strategy's, all of them; ``writer`` names what wrote the event descriptions;
    ``data`` is the fingerprint of the data set.
    """

    model_config = _FROZEN

    version: int = LABELS_VERSION
    encoder: str
    num_frames: int = Field(ge=1)
    num_moments: int = Field(ge=1)
    strategy: str
    options: dict[str, int | float] = {}
    writer: str
    data: str


class Label(BaseModel):
    """A question's label: the event description, K rising frame numbers in 0..T-1, and the row of
    T values they were chosen by (with ``topk`` the similarities of frames and description).

    ``rejected``: why the template wrote the description and not the label set's language model.
    """

    model_config = _FROZEN

    video: str
    question: str
    description: str = Field(min_length=1)
    moments: tuple[int, ...]
    similarity: tuple[float, ...]
    rejected: str | None = None


class ShardLabels(Mapping[tuple[str, str], Label]):
    """The labels of a shard by (video id, question id). Rows are kept as they lie on disk and
    parsed when asked for: parsed, T floats a question would be the bulk of a loader's memory."""

    def __init__(self, lines: dict[tuple[str, str], bytes]):
        self._lines = lines

    def __getitem__(self, key: tuple[str, str]) -> Label:
        return Label.model_validate_json(self._lines[key])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class LabelSet:
    """Reads a label set. Safe from several threads.

    Args:
        place: where ``meta.json`` lies, a path or a URL.
        storage: settings for a URL.
        max_shards: shards whose labels are kept in memory. A rank draws from its streams times
            ``block_shards`` shards at a time; keep more than that.

    Raises:
        DataError: no label set there, or one of another version.
        StorageError: its URL cannot be reached.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        storage: StorageOptions | None = None,
        *,
        max_shards: int = 256,
    ):
        self._folder = open_folder(place, storage)
        self.meta = self._read_meta()
        self._max_shards = max_shards
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, ShardLabels] = OrderedDict()
        self._ahead = Ahead(self.for_shard, 1, "labels")

    def _read_meta(self) -> LabelMeta:
        path = self._folder.at(META_NAME)
        try:
            meta = LabelMeta.model_validate_json(self._folder.read(META_NAME))
        except OSError:
            raise DataError(f"{path}: missing: not a label set; {_REMEDY}") from None
        except ValidationError as error:
            raise DataError(f"{path}: {describe(error)}; {_REMEDY}") from None
        if meta.version != LABELS_VERSION:
            raise DataError(
                f"{path}: version: {meta.version}: this release reads {LABELS_VERSION}; {_REMEDY}"
            )
        return meta

    def check(
        self,
        *,
        encoder: str | None = None,
        num_frames: int | None = None,
        num_moments: int | None = None,
        strategy: str | None = None,
        data: str | None = None,
    ) -> None:
        """Raise DataError unless the labels were made with these values (None: not checked)."""
        wanted = {
            "encoder": encoder,
            "num_frames": num_frames,
            "num_moments": num_moments,
            "strategy": strategy,
            "data": data,
        }
        for name, value in wanted.items():
            made_with = getattr(self.meta, name)
            if value is not None and value != made_with:
                raise DataError(
                    f"{self._folder.at(META_NAME)}: {name}: the labels were made with "
                    f"{made_with!r}, this run has {value!r}; {_REMEDY} again"
                )

    def for_shard(self, stem: str) -> ShardLabels:
        """The labels of a shard by (video id, question id).

        Raises:
            DataError: the file is missing, or a row breaks a rule (``file:line``).
        """
        with self._lock:
            if stem in self._shards:
                self._shards.move_to_end(stem)
                return self._shards[stem]
        labels = self._read_shard(f"{stem}.jsonl")
        with self._lock:
            self._shards[stem] = labels
            if len(self._shards) > self._max_shards:
                self._shards.popitem(last=False)
        return labels

    def find(self, stem: str, video: str, question: str) -> Label:
        """One question's label.

        Raises:
            DataError: it has none.
        """
        label = self.for_shard(stem).get((video, question))
        if label is None:
            raise DataError(
                f"{self._folder.at(stem)}.jsonl: video {video!r}, question {question!r}: no label; "
                f"every question that is trained on needs one; {_REMEDY} again"
            )
        return label

    def prefetch(self, stems: Sequence[str]) -> None:
        """Read these shards' labels in the background; nothing to do for a local folder."""
        if not isinstance(self._folder, LocalFolder):
            self._ahead.replace(stems)

    def close(self) -> None:
        """End the background thread; reading goes on working."""
        self._ahead.close()

    def _read_shard(self, name: str) -> ShardLabels:
        path = self._folder.at(name)
        rows: dict[tuple[str, str], bytes] = {}
        try:
            lines = self._folder.read(name).splitlines()
        except OSError as error:
            why = error.strerror or "missing"
            raise DataError(f"{path}: cannot be read ({why}); {_REMEDY}") from None
        for number, line in enumerate(lines, start=1):
            try:
                label = Label.model_validate_json(line)
            except ValidationError as error:
                raise DataError(f"{path}:{number}: {describe(error)}; {_REMEDY} again") from None
            check_label(label, self.meta, f"{path}:{number}")
            rows[label.video, label.question] = line
        return ShardLabels(rows)


def check_label(label: Label, meta: LabelMeta, where: str) -> None:
    """Raise DataError unless a label has K rising frames below T and T similarities."""
    moments = list(label.moments)
    rising = moments == sorted(set(moments))
    if len(moments) != meta.num_moments or not rising:
        raise DataError(
            f"{where}: moments: {moments}: must be {meta.num_moments} rising frame numbers"
        )
    if moments[0] < 0 or moments[-1] >= meta.num_frames:
        raise DataError(f"{where}: moments: {moments}: must lie in 0..{meta.num_frames - 1}")
    if len(label.similarity) != meta.num_frames:
        raise DataError(
            f"{where}: similarity: {len(label.similarity)} values: must be {meta.num_frames}"
        )


def write_labels(
    place: str | os.PathLike[str],
    meta: LabelMeta,
    rows_by_shard: Mapping[str, Iterable[Label]] | Iterable[tuple[str, Iterable[Label]]],
    storage: StorageOptions | None = None,
) -> int:
    """Write a label set; returns the number of labels.

    Args:
        place: a path or a URL that can be written to.
        rows_by_shard: shard stem -> labels, as a mapping or as pairs that may be made on the fly.

    Raises:
        DataError: a label that does not fit ``meta``, or a question labelled twice.
        StorageError: its URL cannot be reached or written to.
    """
    folder = open_folder(place, storage)
    folder.remove(META_NAME)
    pairs = rows_by_shard.items() if isinstance(rows_by_shard, Mapping) else rows_by_shard
    total = 0
    for stem, labels in pairs:
        path = folder.at(f"{stem}.jsonl")
        seen: set[tuple[str, str]] = set()
        lines = []
        for label in labels:
            where = f"{path}: video {label.video!r}, question {label.question!r}"
            check_label(label, meta, where)
            if (label.video, label.question) in seen:
                raise DataError(f"{where}: labelled twice; a question has one label")
            seen.add((label.video, label.question))
            lines.append(_dump(label))
        folder.write(f"{stem}.jsonl", "".join(lines).encode())
        total += len(lines)
    folder.write(META_NAME, f"{meta.model_dump_json(indent=1)}\n".encode())
    return total


def _dump(label: Label) -> str:
    row = label.model_dump(exclude_none=True)
    row["similarity"] = [round(value, 5) for value in label.similarity]
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
