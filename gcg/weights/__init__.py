"""Public checkpoints' weights under the model's own names, read a part at a time."""

from gcg.weights.mapping import weight_map
from gcg.weights.sources import fetch_sources
from gcg.weights.tensors import Weight

__all__ = ["Weight", "fetch_sources", "weight_map"]
