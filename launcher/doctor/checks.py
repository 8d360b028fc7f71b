"""All checks, in the order in which they are told: from the machine up to the data."""

from __future__ import annotations

from launcher.doctor.isolate import Check

_HERE = "launcher.doctor"
CHECKS = (
    Check("packages", f"{_HERE}.software:packages"),
    Check("cores", f"{_HERE}.machine:cores"),
    Check("memory", f"{_HERE}.machine:memory"),
    Check("shm", f"{_HERE}.machine:shm"),
    Check("limits", f"{_HERE}.machine:limits"),
    Check("clock", f"{_HERE}.machine:clock"),
    Check("disk", f"{_HERE}.storage:disk", 120.0),
    Check("torch", f"{_HERE}.compute:torch_and_gpus", 180.0),
    Check("gloo", f"{_HERE}.links:gloo", 120.0),
    Check("nccl", f"{_HERE}.links:nccl", 180.0),
    Check("host", f"{_HERE}.video:host", 120.0),
    Check("nvdec", f"{_HERE}.video:nvdec", 180.0),
    Check("frames", f"{_HERE}.video:sample_corpus", 180.0),
    Check("data", f"{_HERE}.storage:data", 120.0),
    Check("imports", f"{_HERE}.software:imports", 600.0),
)
