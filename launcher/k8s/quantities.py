"""Amounts as Kubernetes writes them: ``500m``, ``2``, ``8Gi``."""

from __future__ import annotations

MIB = 2**20
GIB = 2**30
_UNITS = {
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
    "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
}  # fmt: skip


def quantity(text: str | int | float) -> float:
    """A quantity as a number: "500m" is 0.5, "1Gi" is 2**30.

    Raises:
        ValueError: it is none.
    """
    text = str(text)
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    return float(text)


def gibibytes(size: float) -> str:
    """Bytes, rounded up to whole GiB, as Kubernetes writes them."""
    return f"{-int(-size // GIB)}Gi"


def shown(size: float) -> str:
    """Bytes for a person to read: GiB with one decimal, as limits are given in them."""
    return f"{size / GIB:.1f} GiB"
