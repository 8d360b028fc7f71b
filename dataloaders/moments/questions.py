"""Questions about a scene: one right answer and four wrong ones taken from the same clip first.

Types: ``what`` (an object's action), ``which`` (an action's object), ``after`` / ``before`` (the
neighbouring event), and ``after_unbalanced`` / ``before_unbalanced``, where the question names a
long event and the answer a short one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from dataloaders.manifest import Question
from dataloaders.moments.scene import ACTIONS, COLOURS, KINDS, Event, Scene, rng_for

NUM_OPTIONS = 5
BALANCED = ("what", "which", "after", "before")
UNBALANCED = ("after_unbalanced", "before_unbalanced")
# Shares a clip's questions are drawn with; unbalanced ones exist only beside a long event.
_WEIGHTS = {"what": 6.0, "which": 6.0, "after": 1.0, "before": 1.0, "unbalanced": 2.0}


def ask(scene: Scene, num_questions: int, split: str) -> list[Question]:
    """Up to ``num_questions`` different questions about ``scene``, in a seeded order."""
    rng = rng_for("moments", scene.seed, scene.key, "questions")
    candidates = list(_candidates(scene))
    weights = np.array([_weight(kind) for kind, *_ in candidates])
    order = np.argsort(-(np.log(weights) + rng.gumbel(size=len(weights))))
    chosen = [candidates[i] for i in order[:num_questions]]
    return [
        _question(f"{scene.key}-q{i}", split, rng, scene, *candidate)
        for i, candidate in enumerate(chosen)
    ]


def _weight(kind: str) -> float:
    return _WEIGHTS["unbalanced" if kind in UNBALANCED else kind]


def _candidates(scene: Scene) -> Iterator[tuple[str, str, str, Event]]:
    """Every (type, question, answer, event that answers it) the scene allows."""
    events = scene.events
    for event in events:
        yield "what", f"What does {event.actor} do?", event.action, event
        if sum(other.action == event.action for other in events) == 1:
            yield "which", f"Which object {event.action}?", event.actor, event
    for first, second in pairwise(events):
        after, before = "after", "before"
        if first.is_long != second.is_long:
            # Only the direction whose question names the long event is asked of such a pair.
            after, before = ("after_unbalanced", "") if first.is_long else ("", "before_unbalanced")
        if after:
            text = f"What happens right after {first.sentence}?"
            yield after, text, second.sentence, second
        if before:
            text = f"What happens right before {second.sentence}?"
            yield before, text, first.sentence, first


def _question(
    key: str,
    split: str,
    rng: np.random.Generator,
    scene: Scene,
    kind: str,
    text: str,
    answer: str,
    event: Event,
) -> Question:
    wrong = _distractors(rng, scene, kind, answer, asked=text)
    place = int(rng.integers(NUM_OPTIONS))
    return Question(
        id=key,
        question=text,
        answer=answer,
        options=[*wrong[:place], answer, *wrong[place:]],
        answer_index=place,
        type=kind,
        split=split,
        statement=None,
        spans=[(event.start, event.end)],
    )


def _distractors(
    rng: np.random.Generator, scene: Scene, kind: str, answer: str, asked: str
) -> list[str]:
    """Wrong options: what else the clip shows, then things it does not show."""
    shuffled = [scene.events[i] for i in rng.permutation(len(scene.events))]
    if kind == "what":
        shown = [event.action for event in shuffled]
        others = [ACTIONS[i] for i in rng.permutation(len(ACTIONS))]
    elif kind == "which":
        shown = [event.actor for event in shuffled]
        others = [_random_actor(rng) for _ in range(20)]
    else:
        # Never the event that the question itself names: it would be a giveaway.
        shown = [event.sentence for event in shuffled if event.sentence not in asked]
        others = [f"{_random_actor(rng)} {rng.choice(ACTIONS)}" for _ in range(20)]
        true_sentences = {event.sentence for event in scene.events}
        others = [text for text in others if text not in true_sentences]
    unique = list(dict.fromkeys([*shown, *others]))
    return [text for text in unique if text != answer][: NUM_OPTIONS - 1]


def _random_actor(rng: np.random.Generator) -> str:
    return f"the {rng.choice(list(COLOURS))} {rng.choice(list(KINDS))}"
