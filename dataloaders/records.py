"""Manifest rows for samples that lie in shards without them."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from dataloaders.errors import DataError
from dataloaders.index import sha256_of
from dataloaders.ingest import sample_key
from dataloaders.manifest import Video, describe, read_manifest


class Records:
    """Finds the manifest row of a sample by its key.

    Args:
        path: a manifest; without one, only what lies in the shards counts.

    Raises:
        DataError: the manifest cannot be read.
    """

    def __init__(self, path: Path | None):
        rows = list(read_manifest(path)) if path is not None else []
        self.fingerprint = sha256_of(path) if path is not None else ""
        # The surest name last, so that it wins.
        self._by_name = {
            **{Path(row.path).stem: row for row in rows},
            **{sample_key(row.id): row for row in rows},
            **{row.id: row for row in rows},
        }

    def find(self, key: str, text: bytes | None) -> Video:
        """The row for ``key``, or for its last part; else what ``text`` holds.

        Raises:
            DataError: neither is a row.
        """
        row = self._by_name.get(key) or self._by_name.get(key.rpartition("/")[2])
        if row is not None:
            return row
        rows = "no row in --records" if self._by_name else "no --records"
        if text is None:
            raise DataError(f"no record in the shard, and {rows}")
        try:
            return Video.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"the record in the shard is no manifest row ({describe(error)}), and {rows}"
            ) from None
