"""What a rank really sends: its collectives, counted, and its sockets, as the kernel counts them.

gloo's pairs are TCP connections. ``tcpi_bytes_sent`` and ``tcpi_bytes_retrans`` of each
(``struct tcp_info``, linux/tcp.h, Linux 4.19) are the payload of this process alone, so neither
other processes on the machine nor headers are in it, and no privileges are needed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TCP_INFO = 11
# Offsets in struct tcp_info: it has eight bytes of flags and 24 u32, then u64 from byte 104 on.
_BYTES_SENT, _BYTES_RETRANSMITTED = 200, 208
# What each function of torch.distributed does, and which of its arguments is the whole tensor.
_COLLECTIVES = {
    "all_reduce": ("all-reduce", 0),
    "all_gather_into_tensor": ("all-gather", 0),
    "all_gather": ("all-gather", 0),
    "reduce_scatter_tensor": ("reduce-scatter", 1),
    "reduce_scatter": ("reduce-scatter", 1),
    "broadcast": ("broadcast", 0),
    "reduce": ("reduce", 0),
}


class Collectives:
    """Collective calls since :meth:`clear`: ``calls`` and ``bytes`` (of whole tensors) by kind."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def clear(self) -> None:
        self.calls.clear()
        self.bytes.clear()

    def add(self, kind: str, size: int) -> None:
        self.calls[kind] += 1
        self.bytes[kind] += size


@contextmanager
def counted() -> Iterator[Collectives]:
    """Count what goes through ``torch.distributed``; to be entered before DeepSpeed is imported,
    which takes some of its functions by value."""
    import torch.distributed as dist

    found = Collectives()
    before = {name: getattr(dist, name) for name in _COLLECTIVES}

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        kind, place = _COLLECTIVES[name]

        def through(*args: Any, **kwargs: Any) -> Any:
            whole = args[place] if len(args) > place else next(iter(kwargs.values()))
            tensors = whole if isinstance(whole, (list, tuple)) else [whole]
            found.add(kind, sum(tensor.numel() * tensor.element_size() for tensor in tensors))
            return call(*args, **kwargs)

        return through

    for name, call in before.items():
        setattr(dist, name, wrapped(name, call))
    try:
        yield found
    finally:
        for name, call in before.items():
            setattr(dist, name, call)


def bytes_sent() -> int:
    """Payload that this process has sent over the TCP connections it has open."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own descriptor is closed by now
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.type != socket.SOCK_STREAM or connection.family == socket.AF_UNIX:
                    continue
                info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 512)
                if len(info) >= _BYTES_RETRANSMITTED + 8:
                    sent, again = struct.unpack_from("=QQ", info, _BYTES_SENT)
                    total += sent - again
    return total
