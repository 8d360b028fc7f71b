"""The Gaussian generator: which K moments is this question about? (step 4)

P = question-video pairs, T = frames, L = question tokens, D_C = joint image-text width,
D_G = generator width, K = moments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcg.config import GroundingConfig

TEXT, VIDEO = 0, 1


class EncoderBlock(nn.Module):
    """Pre-norm Transformer block, FFN 4x, GELU.

    Four plain Linear modules, not ``nn.MultiheadAttention``: that one reads its output projection's
    weight without calling it, and ZeRO-3 gathers a weight only when its module is called.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-12)
        self.ffn_in, self.ffn_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_PSD: Tensor, visible_P11S: Tensor) -> Tensor:
        """(P, S, D_G) and a boolean mask (P, 1, 1, S), True where a token may be attended to."""
        normed = self.attention_norm(x_PSD)
        query, key, value = (
            part(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, visible_P11S, dropout_p=rate)
        x_PSD = x_PSD + self._drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return x_PSD + self._drop(self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x_PSD)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class GaussianGenerator(nn.Module):
    """Frames and question tokens in the joint space → K Gaussian centres in (0, 1)."""

    def __init__(
        self, config: GroundingConfig, joint_width: int, num_frames: int, num_moments: int
    ) -> None:
        super().__init__()
        width = config.width or joint_width // 4
        if width % config.num_heads:
            raise ValueError(
                f"model.grounding.width = {width}: must be a multiple of num_heads = "
                f"{config.num_heads}; change one of them"
            )
        self.num_frames = num_frames
        self.embed = nn.Linear(joint_width, width, bias=False)
        self.similarity = nn.Linear(1, width) if config.question_similarity else None
        self.kinds = nn.Embedding(2, width)
        self.positions = nn.Embedding(num_frames, width)
        with torch.no_grad():
            self.positions.weight.copy_(sinusoidal_table(num_frames, width))
        self.blocks = nn.ModuleList(
            EncoderBlock(width, config.num_heads, config.dropout) for _ in range(config.num_layers)
        )
        self.pool = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))
        self.centers = nn.Linear(width, num_moments)

    def forward(
        self, frames_PTC: Tensor, tokens_PLC: Tensor, mask_PL: Tensor, question_PC: Tensor
    ) -> Tensor:
        """C (P, T, D_C), Q (P, L, D_C) with its mask and pooled (P, D_C) → mu (P, K) in (0, 1).

        The pooled question is read only with ``question_similarity``.
        """
        dtype = self.embed.weight.dtype
        video = self.embed(table_scale(frames_PTC).to(dtype))
        if self.similarity is not None:
            likeness_PT = standardised_similarity(frames_PTC, question_PC)
            video = video + self.similarity(likeness_PT.unsqueeze(-1).to(dtype))
        text = self.embed(table_scale(tokens_PLC).to(dtype))
        steps_T = torch.arange(self.num_frames, device=video.device)
        kind_video, kind_text = self.kinds(torch.tensor([VIDEO, TEXT], device=video.device))
        x_PSD = torch.cat([video + kind_video + self.positions(steps_T), text + kind_text], dim=1)
        visible = F.pad(mask_PL.bool(), (self.num_frames, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            x_PSD = block(x_PSD, visible)
        video = x_PSD[:, : self.num_frames]
        pooled_PD = (self.pool(video).softmax(dim=1) * video).sum(dim=1)
        return self.centers(pooled_PD).float().sigmoid()


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
