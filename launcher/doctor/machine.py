"""Cores, memory, shared memory, limits and clock, from the operating system alone."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.finding import Finding, Options

_MIB, _GIB = 1 << 20, 1 << 30
# Ray's object store and gloo live in 512 MiB (kubernetes/ gives that); NCCL adds buffers a GPU.
_LEAST_SHM = {"cpu": 512 * _MIB, "gpu": 2 * _GIB}
_LEAST_FILES, _ENOUGH_FILES = 1024, 16384
_STA_UNSYNC = 0x0040


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is handed to this process; looked up without touching the driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/proc/driver/nvidia/version").exists()


def cores(options: Options) -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    usable = usable or 1
    quota = _cpu_quota()
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1
    found = f"{usable} cores, {nodes} NUMA node{'s' * (nodes > 1)}, {platform.machine()}"
    if quota is not None and quota < usable:
        yield Finding(
            "cores",
            "warning",
            f"{found}; the container may use {quota:g} of them at a time",
            "Threads are made for the cores that are seen; with a smaller quota they are stopped "
            "in turns.",
            "set scale.cpus_per_worker and data.decode_threads for the quota, or raise the limit",
        )
    elif usable < 2:
        yield Finding(
            "cores",
            "warning",
            found,
            "Decoding and computing share a single core: the model waits for frames.",
            "use a machine with more cores",
        )
    else:
        yield Finding("cores", "ok", found)


def _cpu_quota() -> float | None:
    """Cores a control group allows; None without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        return limit / int((folder / "cpu.cfs_period_us").read_text()) if limit > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def memory(options: Options) -> Iterator[Finding]:
    facts = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts[name] = int(value.split()[0]) * 1024
    total, free = facts["MemTotal"], facts["MemAvailable"]
    for place in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path("/sys/fs/cgroup", place).read_text()))
        except (OSError, ValueError):
            continue
    found = f"{total / _GIB:.1f} GiB, {min(free, total) / _GIB:.1f} GiB free"
    if min(free, total) < 4 * _GIB:
        yield Finding(
            "memory",
            "warning",
            found,
            "A worker with libraries, clips and a small model takes 1 to 2 GiB; two of them and "
            "Ray's own processes need about 4.",
            "end what else runs here; `gcg plan` says what a run needs",
        )
    else:
        yield Finding("memory", "ok", found)


def shm(options: Options) -> Iterator[Finding]:
    try:
        facts = os.statvfs("/dev/shm")
    except OSError as error:
        yield _shm("failed", f"/dev/shm: {error.strerror}")
        return
    size, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
    found = f"/dev/shm has {size / _MIB:.0f} MiB, {free / _MIB:.0f} MiB free"
    if not os.access("/dev/shm", os.W_OK):
        yield _shm("failed", "/dev/shm cannot be written to")
    else:
        least = _LEAST_SHM["gpu" if options.gpu else "cpu"]
        yield _shm("ok" if size >= least and free >= least // 2 else "warning", found)


def _shm(state: str, found: str) -> Finding:
    return Finding(
        "/dev/shm",
        state,  # type: ignore[arg-type]
        found,
        "Ray's objects and NCCL's and DeepSpeed's buffers between the workers of a machine lie "
        "there; a container has 64 MiB unless it is told otherwise, and workers then die with "
        "SIGBUS.",
        "docker run --shm-size=16g; in Kubernetes an emptyDir with medium Memory at /dev/shm "
        "(kubernetes/ has it)",
    )


def limits(options: Options) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    state = "ok" if soft >= _ENOUGH_FILES else "failed" if soft < _LEAST_FILES else "warning"
    yield Finding(
        "open files",
        state,
        f"{_limit(soft)} allowed, at most {_limit(hard)}",
        "Every shard that is read, connection between workers and library is an open file; Ray "
        "alone opens thousands on a large cluster, and asks for 65536.",
        "ulimit -n 65536"
        + ("" if hard >= 65536 else "; the hard limit forbids it: raise it for the user or in")
        + ("" if hard >= 65536 else " the container's settings (docker run --ulimit nofile=65536)"),
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    infiniband = Path("/sys/class/infiniband")
    rdma = infiniband.is_dir() and any(infiniband.iterdir())
    bounded = soft != resource.RLIM_INFINITY
    yield Finding(
        "locked memory",
        "warning" if bounded and rdma else "ok",
        _limit(soft, 1024, " KiB") + ("" if rdma else "; no InfiniBand here that would need it"),
        "NCCL registers its buffers with the InfiniBand card as locked memory, and falls back to "
        "TCP or stops where it may not.",
        "ulimit -l unlimited; in a container --ulimit memlock=-1, capability IPC_LOCK",
    )


def _limit(value: int, unit: int = 1, suffix: str = "") -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value // unit}{suffix}"


def clock(options: Options) -> Iterator[Finding]:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    why = (
        "Certificates and signed requests to S3 are refused with a clock that is minutes off, and "
        "logs of several machines cannot be laid side by side."
    )
    remedy = "start chrony or systemd-timesyncd on the host; a container has the host's clock"
    if time.gmtime().tm_year < 2024:
        yield Finding("clock", "failed", f"{now}: in the past", why, remedy)
        return
    synchronised, bound_s = _kernel_clock()
    if synchronised is None:
        yield Finding("clock", "ok", f"{now}; the kernel does not say whether it is synchronised")
    elif synchronised:
        yield Finding("clock", "ok", f"{now}, synchronised to within {bound_s:.2g} s")
    else:
        yield Finding("clock", "warning", f"{now}, not synchronised to a time server", why, remedy)


def _kernel_clock() -> tuple[bool | None, float]:
    """What the kernel says of its clock: whether it is kept by NTP, and the error bound (s)."""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_long) != 8:
        return None, 0.0
    facts = (ctypes.c_long * 64)()  # struct timex; modes = 0 only reads
    try:
        if ctypes.CDLL(None).adjtimex(ctypes.byref(facts)) < 0:
            return None, 0.0
    except (OSError, AttributeError):
        return None, 0.0
    # modes (4 bytes and 4 of padding), offset, freq, maxerror in µs, esterror, status
    return not facts[5] & _STA_UNSYNC, facts[3] / 1e6
