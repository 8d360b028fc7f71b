"""How free answers are compared where no benchmark says otherwise."""

from __future__ import annotations

import re


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(word for word in words if word not in {"a", "an", "the"})
