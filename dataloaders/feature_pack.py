"""Packing features that were made elsewhere: a file of arrays for each video of a manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dataloaders.bad_questions import BadQuestion
from dataloaders.errors import DataError
from dataloaders.feature_info import Dtype, FeatureInfo
from dataloaders.features import SUFFIX, VideoFeatures, pack_features
from dataloaders.index import (
    DatasetIndex,
    ShardInfo,
    write_index,
)
from dataloaders.ingest import BadVideo, Clip, sample_key
from dataloaders.left_out import QUARANTINE_NAME, read_quarantine, write_quarantine
from dataloaders.manifest import Video
from dataloaders.out_folder import clear, reusable
from dataloaders.shard_writer import TarShardWriter
from dataloaders.shards import PackReport
from dataloaders.trust import name_fault

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", ".npz", ".safetensors")
_VERSION = 1


def pack_feature_files(
    videos: list[Video],
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    encoder: str,
    dtype: Dtype = "fp16",
    shard_bytes: int = 256 << 20,
    min_shards: int = 1,
    overwrite: bool = False,
    bad_questions: Sequence[BadQuestion] = (),
    progress: Callable[[int, int], object] | None = None,
) -> PackReport:
    """Write shards and index as ``dataloaders.shards.pack`` does, of features in place of clips.

    Args:
        videos: rows of a manifest, in the order they shall lie in.
        folder: has ``<id>.npy``, ``.npz`` or ``.safetensors`` for each: an array (T, D) or
            (T, L, D), of the latter two kinds under the name ``tokens``, beside it perhaps
            ``embeddings`` (T, E) and ``times`` (T,), seconds. Without times the frames are the
            middles of T equal parts of the row's duration.
        out: the folder to write.
        encoder: names what made them; kept in the index.
        dtype: what they are stored as.
        shard_bytes, min_shards, overwrite, bad_questions, progress: as for ``pack``.

    Returns:
        The report; videos whose file is missing or damaged are in ``bad`` and in
        ``quarantine.jsonl``.

    Raises:
        DataError: no videos, none usable, frames of several sizes, or a folder with other content.
    """
    folder, out = Path(folder), Path(out)
    files = {row.id: _file_of(folder, row.id) for row in videos}
    if len(files) < len(videos):
        raise DataError(f"{out}: a video id occurs twice; video ids are unique")
    sizes = [file.stat().st_size for file in files.values() if file is not None]
    if not sizes:
        raise DataError(
            f"{folder}: has no file for any of {len(videos)} videos; needs <id>{SUFFIXES[0]}, "
            f"{SUFFIXES[1]} or {SUFFIXES[2]}"
        )
    shard_bytes = min(shard_bytes, max(1, sum(sizes) // min_shards))
    fingerprint = _input_fingerprint(videos, files, [_VERSION, shard_bytes, encoder, dtype])
    done = reusable(out, fingerprint, overwrite)
    if done is not None:
        return PackReport(out, done.shards, *read_quarantine(out), True, 0, fingerprint)
    clear(out)
    shards, info, bad = _write_shards(files, videos, out, dtype, encoder, shard_bytes, progress)
    write_quarantine(out, bad, bad_questions)
    if info is None:
        raise DataError(
            f"{folder}: none of the {len(videos)} videos has usable features (first: "
            f"{bad[0].path}: {bad[0].reason}); see {out / QUARANTINE_NAME}"
        )
    write_index(out, DatasetIndex(tuple(shards), fingerprint, features=info))
    return PackReport(out, tuple(shards), tuple(bad), tuple(bad_questions), fingerprint=fingerprint)


def _write_shards(
    files: dict[str, Path | None],
    videos: list[Video],
    out: Path,
    dtype: Dtype,
    encoder: str,
    shard_bytes: int,
    progress: Callable[[int, int], object] | None,
) -> tuple[list[ShardInfo], FeatureInfo | None, list[BadVideo]]:
    """All shards, what their features are (None: there are none), and the videos left out."""
    writer, bad = TarShardWriter(out, shard_bytes), []
    info: FeatureInfo | None = None
    try:
        for done, row in enumerate(videos, start=1):
            file = files[row.id]
            try:
                video = _read(row, file)
                data = pack_features(video, dtype)
                info = _same_sizes(info, video, dtype, encoder)
            except DataError as error:
                logger.warning("left out %s: %s", row.id, error)
                bad.append(BadVideo(row.id, str(file or row.path), str(error), len(row.questions)))
            else:
                record = row.model_copy(update={"frame_count": row.frame_count or len(video.times)})
                writer.add(Clip(sample_key(row.id), SUFFIX, data, record))
            if progress is not None:
                progress(done, len(videos))
        writer.finish()
    finally:
        writer.abandon()
    return writer.shards, info, bad


def _file_of(folder: Path, video: str) -> Path | None:
    """The video's file: by its id, or its key where the id is no file name."""
    plain = [] if name_fault(video) else [video]  # an id may be anything, also ../../etc/x
    for name in (*plain, sample_key(video)):
        for suffix in SUFFIXES:
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return path
    return None


def _read(row: Video, file: Path | None) -> VideoFeatures:
    if file is None:
        raise DataError("no file of features")
    arrays = _arrays(file)
    unknown = sorted(set(arrays) - {"tokens", "embeddings", "times"})
    if "tokens" not in arrays or unknown:
        raise DataError(f"arrays {sorted(arrays)}: must be tokens, and embeddings and times if any")
    tokens = arrays["tokens"]
    if tokens.dim() == 2:
        tokens = tokens.unsqueeze(1)
    if tokens.dim() != 3 or 0 in tokens.shape or not tokens.is_floating_point():
        raise DataError(
            f"tokens: {tuple(arrays['tokens'].shape)}: must be floats (T, D) or (T, L, D)"
        )
    times = arrays.get("times")
    if times is None:
        if not row.duration:
            raise DataError("duration: not in the manifest, nor times in the file; give either")
        times = (torch.arange(len(tokens), dtype=torch.float64) + 0.5) / len(tokens) * row.duration
    return VideoFeatures(tokens, arrays.get("embeddings"), times)


def _arrays(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with file.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"tokens": torch.from_numpy(found)}
            return {name: torch.from_numpy(found[name]) for name in found.files}
    except (OSError, ValueError, EOFError, TypeError, SafetensorError, BadZipFile) as error:
        raise DataError(f"{file.name}: cannot be read ({error})") from None


def _same_sizes(
    info: FeatureInfo | None, video: VideoFeatures, dtype: Dtype, encoder: str
) -> FeatureInfo:
    """The data set's sizes, which the first usable video sets."""
    embeddings, (_, tokens, width) = video.embeddings, video.tokens.shape
    own = FeatureInfo(
        tokens=tokens,
        width=width,
        embedding_width=width if embeddings is None else embeddings.shape[1],
        dtype=dtype,
        encoder=encoder,
    )
    if info is not None and own != info:
        raise DataError(
            f"{own.tokens} tokens of {own.width} and an embedding of {own.embedding_width} a "
            f"frame: those before have {info.tokens} of {info.width} and {info.embedding_width}"
        )
    return own


def _input_fingerprint(videos: list[Video], files: dict[str, Path | None], how: list) -> str:
    """Of the rows and of the files' contents, not of time stamps."""
    digest = hashlib.sha256(json.dumps(how).encode())
    for row in videos:
        digest.update(row.model_dump_json().encode())
        file = files[row.id]
        digest.update(b"missing" if file is None else hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]
