"""What a data set of frame features holds, and what made them: ``features`` in ``index.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["fp16", "fp32"]


class FeatureInfo(BaseModel):
    """A frame is ``tokens`` vectors of ``width``, and one of ``embedding_width`` to compare with
    texts.

    ``num_frames``: of every video; None: as many as each has, T of them are then taken as from a
    clip. ``encoder`` names what made the features. Of features that `gcg extract` made, ``preset``,
    ``image_size`` (pixels) and ``precision`` say how, and ``source`` is the clips' fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(ge=1)
    width: int = Field(ge=1)
    embedding_width: int = Field(ge=1)
    dtype: Dtype
    num_frames: int | None = Field(default=None, ge=1)
    encoder: str
    preset: str | None = None
    image_size: int | None = None
    precision: str | None = None
    source: str | None = None

    def sample_bytes(self, num_frames: int) -> int:
        """Bytes of one video's tensors."""
        element = 2 if self.dtype == "fp16" else 4
        frame = self.tokens * self.width + self.embedding_width
        return num_frames * (frame * element + 8)
