"""What this machine's processor computes natively."""

from __future__ import annotations

import torch


def cpu_computes_fp16() -> bool:
    # What DeepSpeed asks of a CPU: torch can compute in fp16 on any, but slower than in fp32.
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def cpu_computes_bf16() -> bool:
    # oneDNN's own condition for its bf16 kernels (AVX-512); without them torch multiplies in a
    # plain loop.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
