"""Reading frame features where a clip would be decoded."""

from __future__ import annotations

import numpy as np
import torch

from dataloaders.errors import DataError
from dataloaders.feature_info import FeatureInfo
from dataloaders.features import FrameFeatures, mean_embeddings, unpack_features
from dataloaders.fetch import Frames
from dataloaders.frames import uniform_indices
from dataloaders.source import Source


def feature_info(source: Source) -> FeatureInfo | None:
    """What features a data set holds; None: it holds clips."""
    return getattr(source, "features", None)


class FeatureReader:
    """A ``ClipDecoder`` for data sets of features.

    Of a video with as many frames as are asked for all are taken, of another the middles of as many
    equal parts, as of a clip.

    Args:
        info: what the data set's index says of its features; a sample of other sizes is a bad one.
    """

    def __init__(self, info: FeatureInfo):
        self._info = info

    def __call__(self, data: bytes, indices: np.ndarray, *, frame_count: int, name: str) -> Frames:
        """Features (T, L, D) and (T, E), T as many as ``indices``: these count a clip's frames,
        and are not read otherwise.

        Raises:
            DataError: no features, or not what the index says.
        """
        video = unpack_features(data)
        embeddings = video.embeddings
        if embeddings is None:
            embeddings = mean_embeddings(video.tokens)
        info = self._info
        found = (*video.tokens.shape[1:], embeddings.shape[1])
        if found != (info.tokens, info.width, info.embedding_width):
            raise DataError(
                f"{name}: {found[0]} tokens of {found[1]} and an embedding of {found[2]} a frame, "
                f"the index says {info.tokens} of {info.width} and {info.embedding_width}"
            )
        if info.num_frames not in (None, len(video.times)):
            raise DataError(f"{name}: {len(video.times)} frames, the index says {info.num_frames}")
        if len(video.times) == len(indices):
            return Frames(None, video.times, FrameFeatures(video.tokens, embeddings))
        chosen = torch.from_numpy(uniform_indices(len(video.times), len(indices)))
        features = FrameFeatures(video.tokens[chosen], embeddings[chosen])
        return Frames(None, video.times[chosen], features)
