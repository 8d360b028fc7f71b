"""Memory for decoded frames that is used again once nobody holds the frames any more.

A step's frames are tens of megabytes, which the C library takes from the system anew each time:
touching fresh pages costs three to four times as much as writing to pages touched before.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor


class FrameMemory:
    """Gives out float32 tensors; their memory comes back when the last view of them is gone.

    Also a view that a decoder still holds that was given up counts: what it may yet write to is
    never given out again. Keeps at most as much as was in use at one time. Safe from several
    threads.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], deque[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A contiguous tensor of this shape with arbitrary content."""
        free = self._free.setdefault(shape, deque())
        try:
            memory = free.popleft()
        except IndexError:
            memory = np.empty(shape, dtype=np.float32)
        # The tensor's storage, which all views of it share, keeps this one object alive.
        lent = memory.view()
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent)
