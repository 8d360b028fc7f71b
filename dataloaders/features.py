"""One video's frame features as bytes: a safetensors file, a shard's member in place of the clip.

T = frames, L = tokens of a frame, D = their width, E = width of a frame's joint embedding.

``tokens`` (T, L, D) and ``times`` (T,) float64 seconds are always there. ``embeddings`` (T, E), by
which frames are compared with texts, are left out where they are the mean of a frame's tokens. A
clip that could not be read when its features were made has ``unreadable`` alone, the reason: the
sample keeps its place, so that the plan is the clips' plan, and is a bad sample in both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dataloaders.errors import DataError
from dataloaders.feature_info import Dtype

SUFFIX = "safetensors"
DTYPES: dict[Dtype, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}
_FLOATS = tuple(DTYPES.values())


class FrameFeatures(NamedTuple):
    """What an encoder made of frames: ``tokens`` (T, L, D), ``embeddings`` (T, E)."""

    tokens: Tensor
    embeddings: Tensor


class VideoFeatures(NamedTuple):
    """A video's features and the seconds of its frames, ``times`` (T,) float64."""

    tokens: Tensor
    embeddings: Tensor | None
    times: Tensor


def pack_features(video: VideoFeatures, dtype: Dtype) -> bytes:
    """A video's features as bytes, cast to ``dtype``.

    Raises:
        DataError: shapes that do not fit each other, or values that are not finite in ``dtype``.
    """
    tensors = {"tokens": video.tokens.to(DTYPES[dtype])}
    if video.embeddings is not None:
        tensors["embeddings"] = video.embeddings.to(DTYPES[dtype])
    for name, values in tensors.items():
        if not values.isfinite().all():
            source = getattr(video, name)
            remedy = "use --dtype fp32" if source.isfinite().all() else "make the features again"
            raise DataError(f"{name}: values that are not finite in {dtype}; {remedy}")
    tensors["times"] = video.times.to(torch.float64)
    _check_shapes(tensors)
    return save({name: values.contiguous() for name, values in tensors.items()})


def pack_unreadable(reason: str) -> bytes:
    """The member of a video that has no features, since its clip cannot be read."""
    return save({"unreadable": torch.tensor(list(reason.encode()), dtype=torch.uint8)})


def unpack_features(data: bytes) -> VideoFeatures:
    """A video's features.

    Raises:
        DataError: bytes that are no such features, or the reason why there are none.
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise DataError(f"not frame features ({error}); make them again") from None
    if "unreadable" in tensors:
        reason = bytes(tensors["unreadable"].tolist()).decode(errors="replace")
        raise DataError(f"no features, the clip could not be read: {reason}")
    _check_shapes(tensors)
    return VideoFeatures(tensors["tokens"], tensors.get("embeddings"), tensors["times"])


def mean_embeddings(tokens_TLD: Tensor) -> Tensor:
    """A frame's embedding where none is given: the mean of its tokens, (T, D)."""
    if tokens_TLD.shape[1] == 1:
        return tokens_TLD[:, 0]
    return tokens_TLD.float().mean(dim=1).to(tokens_TLD.dtype)


def _check_shapes(tensors: dict[str, Tensor]) -> None:
    tokens, times = tensors.get("tokens"), tensors.get("times")
    embeddings = tensors.get("embeddings")
    if tokens is None or times is None:
        raise DataError(
            f"tensors {', '.join(sorted(tensors)) or 'none'}: needs tokens and times; make the "
            "features again"
        )
    if tokens.dim() != 3 or 0 in tokens.shape or tokens.dtype not in _FLOATS:
        raise DataError(f"tokens: {_shown(tokens)}: must be (T, L, D) of fp16 or fp32, none 0")
    if times.shape != tokens.shape[:1]:
        raise DataError(f"times: {_shown(times)}: must be the {len(tokens)} frames' seconds")
    if embeddings is not None and (
        embeddings.dim() != 2
        or len(embeddings) != len(tokens)
        or embeddings.shape[1] == 0
        or embeddings.dtype not in _FLOATS
    ):
        raise DataError(f"embeddings: {_shown(embeddings)}: must be ({len(tokens)}, E)")


def _shown(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
