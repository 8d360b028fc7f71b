"""What is compared: one variant a line, each a few changes away from the published form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Head = Literal["gaussians", "frames"]
Target = Literal["points", "sorted", "matched", "soft"]


@dataclass(frozen=True)
class Variant:
    """One way to train and read the grounding module.

    ``inputs``: rows told to every frame (rows.py). ``head``: K Gaussians or a score a frame.
    ``target``: what L_reg asks for. ``labels``: label strategy (``NAME:KEY=VALUE``); ``common``:
    how much of the clip's mean row is taken off it; ``label_smooth`` in frames; ``temperature`` of
    the standardised label row (target ``soft``). ``contrastive``: weight of L_con;
    ``con_question``: how much of the question is taken off its text. ``widths``: learned sigma.
    ``sigma_from``: coarse-to-fine, falls to ``sigma``. ``span_head``: start and end predicted.
    ``fuse``: weight of the zero-shot similarity at evaluation. ``trained`` False: the rows
    themselves are the result.
    """

    inputs: tuple[str, ...] = ()
    head: Head = "gaussians"
    target: Target = "points"
    labels: str = "topk"
    common: float = 0.0
    label_smooth: float = 0.0
    temperature: float = 0.5
    regression: float = 5.0
    contrastive: float = 1.0
    con_question: float = 0.0
    sigma: float = 0.044
    sigma_from: float | None = None
    widths: bool = False
    span_head: bool = False
    fuse: float = 0.0
    trained: bool = True

    @property
    def needs_sentences(self) -> bool:
        """Whether it reads the sentences of captions, which the sample corpus has none of."""
        return self.labels == "sentences" or "sentences" in self.inputs


PUBLISHED = Variant()
SIMILARITY = replace(PUBLISHED, inputs=("question",))
SCORES = replace(SIMILARITY, head="frames", target="soft", regression=1.0)
ALONE = replace(SCORES, contrastive=0.0)
PLUS = replace(ALONE, labels="order")

VARIANTS: dict[str, Variant] = {
    "centre": Variant(trained=False, inputs=("centre",)),
    "zero-shot": Variant(trained=False, inputs=("question",)),
    "label": Variant(trained=False, inputs=("label",)),
    "label-order": Variant(trained=False, inputs=("label",), labels="order"),
    "published": PUBLISHED,
    "similarity": SIMILARITY,
    # One change to `similarity` each.
    "sorted": replace(SIMILARITY, target="sorted"),
    "matched": replace(SIMILARITY, target="matched"),
    "widths": replace(SIMILARITY, widths=True),
    "coarse-to-fine": replace(SIMILARITY, sigma_from=0.15),
    "soft": replace(SIMILARITY, target="soft", regression=1.0),
    "contrast-labels": replace(SIMILARITY, labels="contrast"),
    "no-lcon": replace(SIMILARITY, contrastive=0.0),
    "contrast-no-lcon": replace(SIMILARITY, labels="contrast", contrastive=0.0),
    "clauses": replace(SIMILARITY, inputs=("question", "asked", "dated")),
    "words": replace(SIMILARITY, inputs=("question", "words")),
    "span-head": replace(SIMILARITY, span_head=True),
    "fused": replace(SIMILARITY, fuse=1.0),
    # A score a frame, and then one change to `plus` each.
    "scores": SCORES,
    "scores-no-lcon": ALONE,
    "plus": PLUS,
    "plus-contrast": replace(PLUS, labels="contrast"),
    "plus-common": replace(PLUS, common=0.6),
    "plus-blind": replace(PLUS, inputs=()),
    "plus-lcon": replace(PLUS, contrastive=1.0),
    "plus-lcon-less-question": replace(PLUS, contrastive=1.0, con_question=0.4),
    "plus-options": replace(PLUS, inputs=("question", "options")),
    "plus-smooth": replace(PLUS, label_smooth=1.0),
    "plus-options-smooth": replace(PLUS, inputs=("question", "options"), label_smooth=1.0),
    "plus-sentences": replace(PLUS, inputs=("question", "sentences"), labels="sentences"),
    "plus-all": replace(
        PLUS, inputs=("question", "sentences", "options"), labels="sentences", common=0.6
    ),
}
"""Names stay: results are kept by name."""
