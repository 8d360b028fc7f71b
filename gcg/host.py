"""Small tensors that both the host and the device read: which video, which seed, how long a prompt.

A training step must not make the host wait for the device: each wait leaves the device idle until
the next kernels are launched. So these tensors stay on the host, and copies are sent along.
"""

from __future__ import annotations

from torch import Tensor

# Of a batch's tensors, those that the host reads.
HOST_INPUTS = frozenset({"video_index", "noise_seeds", "prompt_mask"})


def beside(other: Tensor, small: Tensor) -> Tensor:
    """``small`` on the device of ``other``; the host does not wait for that."""
    return small.to(other.device, non_blocking=True)
