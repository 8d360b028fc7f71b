"""Dropout that belongs to the sample: its mask is a hash, not a draw from a running generator.

Whether an element is dropped depends on the pair's noise seed, the module's name and the element's
coordinates inside the pair, and on nothing else. So a pair loses the same elements on any rank, in
any micro-batch, however far its neighbours are padded, on a CPU as on a GPU, and when activation
checkpointing computes a block a second time.

P = question-video pairs, N = rows of a tensor, P·r: each pair's r rows one after another.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from gcg.host import beside

logger = logging.getLogger(__name__)

# Rows are worked off so many elements at a time: the 64-bit hashes are larger than the activation.
_CHUNK = 1 << 22
# Odd numbers: products with them are bijections of 64-bit integers, which wrap around alike on
# every device. The first two are splitmix64's (Steele, Lea and Flood 2014).
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_ROW = 0x9E3779B97F4A7C15 - 2**64
_AXES = (
    0xD1B54A32D192ED03 - 2**64,
    0xABC98388FB8FAC03 - 2**64,
    0x8CB92BA72F3D8DD7 - 2**64,
    0xDB4F0B9175AE2165 - 2**64,
    0xBBE0563303A4615F - 2**64,
)
_LOW_HALF = 0xFFFFFFFF


class DropoutSeeds:
    """The seeds of the micro-batch at hand: one object, shared by all dropouts of a model.

    No tensor of the model: it is in no state dict, and a deep copy is the object itself.
    """

    def __init__(self) -> None:
        self._seeds_P: Tensor | None = None
        self._rows: dict[tuple[int, torch.device], Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> DropoutSeeds:
        return self

    def set(self, seeds_P: Tensor) -> None:
        self._seeds_P = seeds_P.detach()
        self._rows = {}

    def rows(self, num_rows: int, device: torch.device) -> Tensor:
        """A hash (N,) of each row's seed and its number inside the pair.

        Raises:
            ValueError: there are no seeds yet, or they do not fit the rows.
        """
        if self._seeds_P is None:
            raise ValueError(
                "dropout in training needs the pairs' noise seeds: call dropout_seeds(model, "
                "noise_seeds) before the forward pass"
            )
        key = (num_rows, device)
        if key not in self._rows:
            self._rows[key] = row_hashes(self._seeds_P.to(device, non_blocking=True), num_rows)
        return self._rows[key]


class SampleDropout(nn.Module):
    """As ``nn.Dropout``, with a mask that is a hash of each pair's seed.

    Args:
        p: the share of elements that become 0 in training; the others are scaled by 1 / (1 - p).

    The name, and with it the mask, comes from :func:`install_sample_dropout`. Called twice in a
    forward pass, a module drops the same coordinates twice.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout = {p}: must be at least 0 and less than 1")
        self.p = p
        self.name = ""
        self._salt = 0
        self._seeds = DropoutSeeds()

    def attach(self, name: str, seeds: DropoutSeeds) -> None:
        """Take a place in a model: its name there, and the seeds it shares with the others."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        self.name, self._seeds = name, seeds
        self._salt = int.from_bytes(digest, "little", signed=True)

    def set_seeds(self, seeds_P: Tensor) -> None:
        """Set the seeds (P,) int64, for all dropouts that share them."""
        self._seeds.set(seeds_P)

    def forward(self, x: Tensor, seeds_P: Tensor | None = None) -> Tensor:
        """Drop elements of x (N, ...), N a multiple of P; x itself while not training.

        ``seeds_P`` int64 replaces the shared seeds for this call, where the rows are not those of
        the micro-batch.

        Raises:
            ValueError: there are no seeds, or N is no multiple of their number.
        """
        if not self.training or self.p == 0:
            return x
        with torch.no_grad():
            if seeds_P is None:
                rows_N = self._seeds.rows(len(x), x.device)
            else:
                rows_N = row_hashes(beside(x, seeds_P), len(x))
            dropped = dropped_mask(rows_N ^ self._salt, x.shape, self.p)
        return x.masked_fill(dropped, 0.0) * (1.0 / (1.0 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}, name={self.name!r}"


def install_sample_dropout(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` of a model, and name those that are ours already.

    Some Hugging Face attention modules hold a probability instead (T5's ``dropout``, Llama's
    ``attention_dropout``) and drop inside a fused function, from the device's own generator. That
    follows the rank, so those are set to 0: attention weights of such an LLM are not dropped.
    Call it after adapters are added, and before the model is wrapped for training.
    """
    seeds = DropoutSeeds()
    new: dict[int, SampleDropout] = {}  # a module in two places stays one module
    for path, module in list(model.named_modules()):
        prefix = f"{path}." if path else ""
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                if id(child) not in new:
                    new[id(child)] = SampleDropout(child.p).train(child.training)
                    new[id(child)].attach(prefix + name, seeds)
                setattr(module, name, new[id(child)])
            elif isinstance(child, SampleDropout):
                if id(child) not in new:
                    new[id(child)] = child
                    child.attach(prefix + name, seeds)
            elif isinstance(child, _DropoutNd):
                logger.warning(
                    "%s%s: %s follows the rank, not the sample: losses will depend on the number "
                    "of workers", prefix, name, type(child).__name__,
                )  # fmt: skip
        _silence_probabilities(path, module)


def dropout_seeds(model: nn.Module, seeds_P: Tensor) -> None:
    """Set the seeds (P,) int64 of the micro-batch whose forward and backward pass comes next.

    ``model`` may be the wrapped one. Without dropouts of ours in it nothing happens.
    """
    for module in model.modules():
        if isinstance(module, SampleDropout):
            module.set_seeds(seeds_P)
            return


def _silence_probabilities(path: str, module: nn.Module) -> None:
    for name, value in list(vars(module).items()):
        if isinstance(value, float) and "drop" in name and value > 0:
            logger.debug("%s.%s: %g set to 0, it cannot be seeded by sample", path, name, value)
            setattr(module, name, 0.0)


def row_hashes(seeds_P: Tensor, num_rows: int) -> Tensor:
    """Seeds (P,) int64 and N = P·r rows → (N,) int64, from a pair's seed and 0..r-1.

    Raises:
        ValueError: N is no multiple of P.
    """
    num_pairs = len(seeds_P)
    if not num_pairs or num_rows % num_pairs:
        raise ValueError(
            f"dropout: {num_rows} rows for the seeds of {num_pairs} pairs: must be a multiple; "
            "rows must be each pair's, one after another"
        )
    numbers = torch.arange(num_rows // num_pairs, device=seeds_P.device) * _ROW
    return _mix(_mix(seeds_P.clone())[:, None] ^ numbers).flatten()


def dropped_mask(rows_N: Tensor, shape: torch.Size, p: float) -> Tensor:
    """True, with probability ``p``, on the elements to drop; boolean of ``shape`` (N, ...).

    An element's fate is a hash of its row's and of its other coordinates, so a longer axis, padded,
    changes nothing for the elements before.
    """
    axes = [
        torch.arange(size, device=rows_N.device) * odd
        for size, odd in zip(shape[1:], _AXES, strict=False)
    ]
    assert len(axes) == len(shape) - 1, shape
    threshold = round(p * 2.0**64) - 2**63
    if len(axes) < 1:
        return _mix(rows_N.clone()) < threshold
    state = _mix(rows_N.clone())
    for axis in axes[:-1]:
        state = state.unsqueeze(-1) ^ axis
    dropped = torch.empty(shape, dtype=torch.bool, device=rows_N.device)
    step = max(1, _CHUNK // max(1, dropped[0].numel()))
    for first in range(0, shape[0], step):
        part = slice(first, first + step)
        torch.lt(_mix(state[part].unsqueeze(-1) ^ axes[-1]), threshold, out=dropped[part])
    return dropped


def _mix(z: Tensor) -> Tensor:
    """Scramble int64 values in place so that each bit of a value reaches the highest ones."""
    z.mul_(_MIX_1)
    z ^= (z >> 32).bitwise_and_(_LOW_HALF)
    return z.mul_(_MIX_2)
