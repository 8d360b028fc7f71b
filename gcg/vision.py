"""Image side: one pass through a shared trunk gives both the frame tokens and the joint [CLS].

N = frames, N_I = tokens per frame incl. [CLS], D_I = vision width, D_C = joint image-text width,
V = videos, T = frames of a video.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel
from transformers.models.instructblip.modeling_instructblip import InstructBlipEncoderLayer


class JointHead(nn.Module):
    """Last block, norm and projection of the CLIP image tower, on top of the shared trunk.

    InstructBLIP's vision tower is EVA-CLIP without its last block; that block, run on the trunk's
    *un-normed* output, gives the [CLS] that image-text similarity needs (method.md, step 1).
    """

    def __init__(self, config: InstructBlipVisionConfig, joint_width: int) -> None:
        super().__init__()
        if config._attn_implementation is None:  # the trunk's constructor says so, if it ran first
            config._attn_implementation = "sdpa"
        # Its annotation names the whole model's configuration; it reads the vision part's fields.
        self.block = InstructBlipEncoderLayer(config)  # pyright: ignore[reportArgumentType]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, joint_width)

    def forward(self, hidden_NID: Tensor) -> Tensor:
        """(N, N_I, D_I) un-normed trunk output → (N, D_C), not normalised."""
        block_ND = self.block(hidden_NID, attention_mask=None)[:, 0]
        return self.projection(self.norm(block_ND))


class VisionTower(nn.Module):
    """Trunk and joint head: EVA-CLIP's image tower, and InstructBLIP's, in one pass."""

    def __init__(self, config: InstructBlipVisionConfig, joint_width: int) -> None:
        super().__init__()
        self.trunk = InstructBlipVisionModel(config)
        self.joint_head = JointHead(config, joint_width)

    def forward(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) normalised pixels → E (N, N_I, D_I) normed, C (N, D_C) not normalised."""
        # The trunk's own forward returns what is un-normed only among the outputs of all its
        # layers, which would keep 39 of them in memory. Its parts are called as modules, so that
        # gradient checkpointing and ZeRO-3 act on them as ever.
        hidden_NID = self.trunk.embeddings(pixels_NCHW)
        hidden_NID = self.trunk.encoder(inputs_embeds=hidden_NID).last_hidden_state
        return self.trunk.post_layernorm(hidden_NID), self.joint_head(hidden_NID)


def frames_through(
    tower: VisionTower,
    pixels_VTCHW: Tensor,
    *,
    frames_per_pass: int | None = None,
    train: bool = False,
) -> tuple[Tensor, Tensor]:
    """All frames of V clips through the tower: → E (V, T, N_I, D_I), C (V, T, D_C).

    ``frames_per_pass``: so many frames at a time, which bounds the memory of the pass, not of its
    result; None: all at once. The number of passes must be the same on all ranks under ZeRO-3.
    ``train``: let gradients through; else there are none (config.vision).
    """
    shape = pixels_VTCHW.shape[:2]
    frames_NCHW = pixels_VTCHW.flatten(0, 1)
    with torch.set_grad_enabled(train and torch.is_grad_enabled()):
        if frames_per_pass is None or frames_per_pass >= len(frames_NCHW):
            tokens, joint = tower(frames_NCHW)
        else:
            tokens, joint = _in_passes(tower, frames_NCHW.split(frames_per_pass), train)
    return tokens.unflatten(0, shape), joint.unflatten(0, shape)


def _in_passes(tower: VisionTower, parts: tuple[Tensor, ...], train: bool) -> tuple[Tensor, Tensor]:
    if train:
        tokens, joint = zip(*(tower(part) for part in parts), strict=True)
        return torch.cat(tokens), torch.cat(joint)
    # Written where they stay: joining the passes' results would hold all of them twice.
    num_frames, first = sum(len(part) for part in parts), 0
    results: list[Tensor] = []
    for part in parts:
        outputs = tower(part)
        if not results:
            results = [output.new_empty(num_frames, *output.shape[1:]) for output in outputs]
        for result, output in zip(results, outputs, strict=True):
            result[first : first + len(part)] = output
        first += len(part)
    return results[0], results[1]
