"""torch and the GPU: what is there, and that it computes what it should."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from launcher.doctor.finding import Finding, Options

_GIB = 1 << 30
_CPU_ONLY = (
    "Models of real size train on GPUs; on a CPU the sample corpus, the tests and small models do."
)


def torch_and_gpus(options: Options) -> Iterator[Finding]:
    """torch, each GPU with a product whose result is known, peer access, precisions, attention."""
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    threads = torch.get_num_threads()
    yield Finding("torch", "ok", f"{torch.__version__}, {built}; threads: {threads}")
    if torch.cuda.is_available():
        yield from _gpus(torch)
        yield from _peers(torch)
    else:
        yield _no_cuda(torch, options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in ("bf16", "fp16"):
        yield from _precision(torch, name, device)
    yield from _attention(torch, device)


def _no_cuda(torch: Any, options: Options) -> Finding:
    if not options.gpu:
        return Finding(
            "gpu", "missing", "no NVIDIA GPU here", _CPU_ONLY, "take a machine with GPUs to train"
        )
    if torch.version.cuda is None:
        return Finding(
            "gpu",
            "failed",
            "there is a GPU, but torch is built without CUDA",
            "Training would run on the CPU.",
            "install torch from PyPI or from the CUDA index, not the +cpu build",
        )
    return Finding(
        "gpu",
        "failed",
        f"there is a GPU, but torch (CUDA {torch.version.cuda}) cannot use it; {_driver()}",
        "Training would run on the CPU.",
        "see whether nvidia-smi answers; the driver must be new enough for torch's CUDA, and a "
        "container needs --gpus all or the nvidia runtime class",
    )


def _driver() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "the driver's version is unknown"
    numbers = [word for word in first.split() if word.count(".") >= 1 and word[0].isdigit()]
    return f"driver {numbers[0]}" if numbers else "the driver's version is unknown"


def _gpus(torch: Any) -> Iterator[Finding]:
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        name = f"gpu {number}"
        text = (
            f"{facts.name}, {total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB free, capability "
            f"{facts.major}.{facts.minor}, {_driver()}"
        )
        # Whole numbers small enough that every precision gives the same sum.
        left = torch.arange(64 * 64, dtype=torch.float32).reshape(64, 64) % 7
        right = left.t().contiguous() % 5
        if not torch.equal((left.to(number) @ right.to(number)).cpu(), left @ right):
            yield Finding(
                name,
                "failed",
                f"{text}: a product of two small matrices comes out wrong",
                "Nothing that this GPU computes can be trusted.",
                "look for Xid errors in the kernel's log and take the card out of service",
            )
        elif free < 0.9 * total:
            yield Finding(
                name,
                "warning",
                text,
                "Another process holds a part of its memory; `gcg plan` counts on all of it.",
                "see nvidia-smi for what runs there, and end it or use another GPU",
            )
        else:
            yield Finding(name, "ok", text)


def _peers(torch: Any) -> Iterator[Finding]:
    count = torch.cuda.device_count()
    apart = [
        f"{a}-{b}"
        for a in range(count)
        for b in range(a + 1, count)
        if not torch.cuda.can_device_access_peer(a, b)
    ]
    yield Finding(
        "gpu to gpu",
        "warning" if apart else "ok",
        f"no direct access between {', '.join(apart)}"
        if apart
        else f"{count} GPUs reach each other directly" * (count > 1) or "a single GPU",
        "Gradients and ZeRO-3's weights then go through the host's memory, many times slower.",
        "see `nvidia-smi topo -m`; in virtual machines and with IOMMU peer access is often off",
    )


def _precision(torch: Any, name: str, device: str) -> Iterator[Finding]:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    native = _is_native(torch, name, device)
    ratio = _time_of_product(torch, dtype, device) / _time_of_product(torch, torch.float32, device)
    found = (
        f"{'native' if native else 'emulated'} on the {'GPU' if device == 'cuda' else 'CPU'}; a "
        f"product takes {ratio:.2g} times as long as in fp32"
    )
    yield Finding(
        name,
        "ok" if native else "warning",
        found,
        f"engine.precision: {name} then computes more slowly than fp32"
        + (", and training in fp16 on a CPU is refused." if name == "fp16" else "."),
        "use engine.precision=fp32 here",
    )


def _is_native(torch: Any, name: str, device: str) -> bool:
    if device == "cuda":
        # Tensor cores take fp16 from Volta (7.0) on, bf16 from Ampere (8.0) on.
        least = (7, 0) if name == "fp16" else (8, 0)
        return torch.cuda.get_device_capability() >= least
    from launcher.checks.arithmetic import cpu_computes_bf16, cpu_computes_fp16

    return cpu_computes_bf16() if name == "bf16" else cpu_computes_fp16()


def _time_of_product(torch: Any, dtype: Any, device: str) -> float:
    """Seconds of the faster of a few products after a first one that warms up."""
    size = 4096 if device == "cuda" else 256
    left = torch.ones(size, size, dtype=dtype, device=device)
    times = []
    for _ in range(4):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        _ = left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _attention(torch: Any, device: str) -> Iterator[Finding]:
    """Which of torch's attention kernels run here and agree with the plain one."""
    from torch.nn.attention import SDPBackend

    kinds = ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    states = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 128, 64, generator=states).to(device, dtype)
    plain = _attend(torch, query, SDPBackend.MATH)
    if plain is None:
        raise RuntimeError("torch's plain attention does not run")
    runs, wrong = [], []
    for kind in kinds:
        result = _attend(torch, query, getattr(SDPBackend, kind, None))
        if result is None:
            continue
        name = kind.removesuffix("_ATTENTION").lower()
        # bf16 keeps 8 bits: two kernels that sum in another order differ by about 2^-7.
        (runs if (result - plain).abs().max() < 0.05 else wrong).append(name)
    package = "there" if find_spec("flash_attn") else "not installed"
    found = f"{', '.join(runs)} in {'bf16' if device == 'cuda' else 'fp32'}; flash-attn {package}"
    fused = {"flash", "efficient", "cudnn"} & set(runs)
    yield Finding(
        "attention",
        "failed" if wrong else "ok" if fused else "warning",
        found + (f"; wrong results: {', '.join(wrong)}" if wrong else ""),
        "Without a fused kernel attention keeps a matrix of tokens by tokens in memory.",
        "use model.llm.attention=sdpa with a GPU of capability 8.0 or more",
    )


def _attend(torch: Any, query: Any, backend: Any) -> Any:
    """Self-attention by one kernel, float32 on the CPU; None where the kernel does not run."""
    from torch.nn.attention import sdpa_kernel

    if backend is None:
        return None
    try:
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")
            result = torch.nn.functional.scaled_dot_product_attention(query, query, query)
            return result.float().cpu()
    except RuntimeError:
        return None
