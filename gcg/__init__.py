"""GCG, the model: choose the moments a question is about, then answer from them.

The modules in the order of the method's steps::

    vision, text → description, labels → generator → gaussian → selection → losses → answering

``model`` joins them, ``build`` makes one from a :class:`gcg.config.GCGConfig`, ``metrics`` scores
time spans. To use a trained one::

    from gcg import GCGModel, GCGProcessor

    model, processor = GCGModel.from_pretrained(place), GCGProcessor.from_pretrained(place)

Importing this package is cheap; torch and transformers come with the modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcg.answers import Answers
    from gcg.config import GCGConfig
    from gcg.model import GCGModel
    from gcg.processor import GCGProcessor, Prediction

__all__ = ["Answers", "GCGConfig", "GCGModel", "GCGProcessor", "Prediction"]

_MODULES = {
    "Answers": "gcg.answers",
    "GCGConfig": "gcg.config",
    "GCGModel": "gcg.model",
    "GCGProcessor": "gcg.processor",
    "Prediction": "gcg.processor",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gcg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
