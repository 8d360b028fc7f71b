"""Image side: one pass through a frozen trunk gives both the frame tokens and the joint [CLS].

N = frames, N_I = tokens per frame incl. [CLS], D_I = vision width, D_C = joint image-text width.
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
        # Its annotation names the whole model's configuration; it reads the vision part's fields.
        self.block = InstructBlipEncoderLayer(config)  # pyright: ignore[reportArgumentType]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, joint_width)

    def forward(self, hidden_NID: Tensor) -> Tensor:
        """(N, N_I, D_I) un-normed trunk output → (N, D_C), not normalised."""
        block_ND = self.block(hidden_NID, attention_mask=None)[:, 0]
        return self.projection(self.norm(block_ND))


class VisionTower(nn.Module):
    """Trunk and joint head. Frozen in GCG; its outputs carry no gradient there."""

    def __init__(self, config: InstructBlipVisionConfig, joint_width: int) -> None:
        super().__init__()
        self.trunk = InstructBlipVisionModel(config)
        self.joint_head = JointHead(config, joint_width)

    def forward(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) normalised pixels → E (N, N_I, D_I) normed, C (N, D_C) not normalised."""
        output = self.trunk(pixel_values=pixels_NCHW, output_hidden_states=True)
        assert output.hidden_states is not None
        return output.last_hidden_state, self.joint_head(output.hidden_states[-1])


def frames_through(tower: VisionTower, pixels_VTCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Frozen pass of V clips: → E (V, T, N_I, D_I), C (V, T, D_C), without gradient."""
    num_videos, num_frames = pixels_VTCHW.shape[:2]
    with torch.no_grad():
        tokens, joint = tower(pixels_VTCHW.flatten(0, 1))
    return (
        tokens.unflatten(0, (num_videos, num_frames)),
        joint.unflatten(0, (num_videos, num_frames)),
    )
