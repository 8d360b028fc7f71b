"""All randomness of the data path: keyed hashes of what a thing *is*, never of rank or time."""

from __future__ import annotations

import hashlib
import json

import numpy as np

Part = int | str


def digest(*parts: Part, size: int = 16) -> bytes:
    """``size`` bytes of BLAKE2b over the parts; ("a", "bc") and ("ab", "c") differ."""
    text = json.dumps(parts, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def int63(*parts: Part) -> int:
    """A non-negative number below 2**63, which fits a torch int64."""
    return int.from_bytes(digest(*parts, size=8), "little") >> 1


def permutation(length: int, *parts: Part) -> np.ndarray:
    """(length,) int64: a uniformly random order of 0..length-1.

    Raw Philox bits are sorted, since NumPy promises the bit stream across versions but not what
    ``Generator.permutation`` makes of it: a run must continue the same after an upgrade.
    """
    key = int.from_bytes(digest(*parts, size=16), "little")
    bits = np.random.Philox(key=key).random_raw(length)
    return np.argsort(np.asarray(bits, dtype=np.uint64), kind="stable").astype(np.int64)


def noise_seed(run_seed: int, epoch: int, video: str, question: str) -> int:
    """The int63 seed of a question's noise in an epoch (the perturbed top-K draws)."""
    return int63("noise", run_seed, epoch, video, question)
