"""The Gaussian generator: which K moments is this question about? (step 4)

P = question-video pairs, T = frames, L = question tokens, D_C = joint image-text width,
D_G = generator width, K = moments.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcg.config import GroundingConfig
from gcg.gaussian import Timeline, mixture_log_weights

TEXT, VIDEO = 0, 1


class EncoderBlock(nn.Module):
    """Pre-norm Transformer block, FFN 4x, GELU.

    Four plain Linear modules, not ``nn.MultiheadAttention``: that one reads its output projection's
    weight without calling it, and ZeRO-3 gathers a weight only when its module is called.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-12)
        self.ffn_in, self.ffn_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        # Modules, each of its own: their masks are seeded by sample and by the module's name.
        self.attention_drop, self.ffn_drop = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x_PSD: Tensor, visible_P11S: Tensor) -> Tensor:
        """(P, S, D_G) and a boolean mask (P, 1, 1, S), True where a token may be attended to."""
        normed = self.attention_norm(x_PSD)
        query, key, value = (
            part(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, visible_P11S)
        x_PSD = x_PSD + self.attention_drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return x_PSD + self.ffn_drop(self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x_PSD)))))


class Located(NamedTuple):
    """Where the K moments are: ``centers`` mu (P, K) in (0, 1), empty (P, 0) where there are no
    Gaussians, and ``log_weights`` log p (P, T), 0 at each pair's heaviest frame."""

    centers: Tensor
    log_weights: Tensor


class MomentEncoder(nn.Module):
    """Frames and text of the joint space through one small Transformer, for the heads below.

    ``scale_inputs`` brings joint-space vectors to the position table's magnitude; the released code
    feeds CLIP's vectors as they are, through a dropout. ``question_similarity`` tells each frame
    how like the pooled question it is.
    """

    def __init__(
        self,
        config: GroundingConfig,
        joint_width: int,
        num_frames: int,
        *,
        scale_inputs: bool,
        question_similarity: bool,
    ) -> None:
        super().__init__()
        width = config.width or joint_width // 4
        if width % config.num_heads:
            raise ValueError(
                f"model.grounding.width = {width}: must be a multiple of num_heads = "
                f"{config.num_heads}; change one of them"
            )
        self.num_frames, self.scale_inputs = num_frames, scale_inputs
        self.embed = nn.Linear(joint_width, width, bias=False)
        self.input_drop = nn.Dropout(0.0 if scale_inputs else config.dropout)
        self.similarity = nn.Linear(1, width) if question_similarity else None
        self.kinds = nn.Embedding(2, width)
        self.positions = nn.Embedding(num_frames, width)
        with torch.no_grad():
            self.positions.weight.copy_(sinusoidal_table(num_frames, width))
        self.blocks = nn.ModuleList(
            EncoderBlock(width, config.num_heads, config.dropout) for _ in range(config.num_layers)
        )

    def encode(
        self, frames_PTC: Tensor, texts_PLC: Tensor, mask_PL: Tensor, question_PC: Tensor
    ) -> Tensor:
        """→ (P, T, D_G), what the Transformer makes of each frame."""
        dtype = self.embed.weight.dtype
        video, text = self._embed(frames_PTC, dtype), self._embed(texts_PLC, dtype)
        if self.similarity is not None:
            video = video + self.similarity(self.likeness(frames_PTC, question_PC).to(dtype))
        kinds = self.kinds(torch.arange(2, device=video.device))
        kind_video, kind_text = kinds[VIDEO], kinds[TEXT]
        x_PSD = torch.cat([video + kind_video + self.table(), text + kind_text], dim=1)
        visible = F.pad(mask_PL.bool(), (self.num_frames, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            x_PSD = block(x_PSD, visible)
        return x_PSD[:, : self.num_frames]

    def likeness(self, frames_PTC: Tensor, question_PC: Tensor) -> Tensor:
        """What ``similarity`` reads of each frame, (P, T, 1). benchmarks/study tries others."""
        return standardised_similarity(frames_PTC, question_PC).unsqueeze(-1)

    def table(self) -> Tensor:
        """The position table (T, D_G)."""
        return self.positions(torch.arange(self.num_frames, device=self.embed.weight.device))

    def _embed(self, joint: Tensor, dtype: torch.dtype) -> Tensor:
        scaled = table_scale(joint) if self.scale_inputs else joint
        return self.embed(self.input_drop(scaled.to(dtype)))


class GaussianGenerator(MomentEncoder):
    """K Gaussian centres, attention-pooled from the frames, and their mixture (steps 4 and 5).

    ``timeline`` and ``sigma``: the grid and the width of the Gaussians; ``reposition`` adds the
    position table again after the Transformer (profile ``released``).
    """

    def __init__(
        self,
        config: GroundingConfig,
        joint_width: int,
        num_frames: int,
        num_moments: int,
        *,
        timeline: Timeline,
        sigma: float,
        scale_inputs: bool = True,
        reposition: bool = False,
    ) -> None:
        super().__init__(
            config,
            joint_width,
            num_frames,
            scale_inputs=scale_inputs,
            question_similarity=config.question_similarity,
        )
        self.timeline, self.sigma, self.reposition = timeline, sigma, reposition
        width = self.embed.out_features
        self.pool = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))
        self.centers = nn.Linear(width, num_moments)

    def forward(
        self, frames_PTC: Tensor, texts_PLC: Tensor, mask_PL: Tensor, question_PC: Tensor
    ) -> Located:
        """C (P, T, D_C), L texts (P, L, D_C) with their mask, pooled question (P, D_C).

        The texts are the question's words (``paper``) or the pooled question and options
        (``released``). The pooled question is read only with ``question_similarity``.
        """
        video_PTD = self.encode(frames_PTC, texts_PLC, mask_PL, question_PC)
        if self.reposition:
            video_PTD = video_PTD + self.table()
        pooled_PD = (self.pool(video_PTD).softmax(dim=1) * video_PTD).sum(dim=1)
        centers_PK = self.centers(pooled_PD).float().sigmoid()
        grid_T = self.timeline.positions(self.num_frames, centers_PK.device)
        return Located(centers_PK, mixture_log_weights(centers_PK, self.sigma, grid_T))


class FrameScorer(MomentEncoder):
    """A score for every frame instead of K Gaussians (profile ``plus``, ours).

    The score begins as the frame's standardised similarity to the question, and the Transformer
    learns what to add: log p = score - max score. Gaussians forget how peaked the evidence was, and
    moments that lie apart compete for K centres; docs/grounding.md has the measurements.
    """

    def __init__(self, config: GroundingConfig, joint_width: int, num_frames: int) -> None:
        super().__init__(
            config, joint_width, num_frames, scale_inputs=True, question_similarity=True
        )
        self.score = nn.Linear(self.embed.out_features, 1)
        self.gain = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        nn.init.ones_(self.gain.weight)

    def forward(
        self, frames_PTC: Tensor, texts_PLC: Tensor, mask_PL: Tensor, question_PC: Tensor
    ) -> Located:
        """As :class:`GaussianGenerator`; there are no centres."""
        video_PTD = self.encode(frames_PTC, texts_PLC, mask_PL, question_PC)
        prior_PT1 = self.gain(self.likeness(frames_PTC, question_PC).to(video_PTD.dtype))
        score_PT = (self.score(video_PTD) + prior_PT1).squeeze(-1).float()
        log_weights = score_PT - score_PT.amax(dim=1, keepdim=True)
        return Located(log_weights.new_empty(len(log_weights), 0), log_weights)


def table_scale(joint: Tensor) -> Tensor:
    """Give joint-space vectors unit variance per component, the position table's magnitude.

    Fed unit-norm vectors, the generator sees the table and hardly anything else, and does not
    learn (docs/log.md has the measurement).
    """
    return F.normalize(joint.float(), dim=-1) * math.sqrt(joint.shape[-1])


def standardised_similarity(frames_PTC: Tensor, question_PC: Tensor) -> Tensor:
    """Cosine of each frame with the question, zero mean and unit variance over time, (P, T)."""
    frames, question = (
        F.normalize(frames_PTC.float(), dim=-1),
        F.normalize(question_PC.float(), dim=-1),
    )
    cosine_PT = torch.einsum("ptc,pc->pt", frames, question)
    centred = cosine_PT - cosine_PT.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)


def sinusoidal_table(length: int, width: int) -> Tensor:
    """The fixed table of "Attention Is All You Need", float32 (length, width)."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(1e4) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : width // 2]
    return table
