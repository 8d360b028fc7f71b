"""Train one variant with one seed on frozen features, and measure it.

P = questions of a batch, V = their videos, T = frames, L = words, N = input rows, C = joint width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study.features import Features, held_out
from benchmarks.study.heads import NUM_MOMENTS, Gaussians, Scores, make_head, make_regression
from benchmarks.study.rows import Rows, standardise
from benchmarks.study.spans import EXTRACTIONS, judge
from benchmarks.study.variants import Variant
from gcg.contrast import Candidates, FrameContrast, Pairs
from gcg.generator import Located
from gcg.losses import Labels
from gcg.metrics import Span
from gcg.selection import hard_topk, perturbed_topk, seeded_noise

CONTRAST = FrameContrast(temperature=0.1, num_intra=8, num_inter=8)
NOISE_SAMPLES, NOISE_SCALE = 100, 0.05
WARMUP = 30
SPAN_SHARE = 0.25


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; the same for every variant of a data set."""

    steps: int = 400
    batch: int = 32
    lr: float = 1e-3


RECIPES = {"real": Recipe(), "sample": Recipe(steps=800, lr=3e-3)}


class Batch:
    """The tensors of some questions."""

    def __init__(self, rows: Rows, inputs_QTN: Tensor, picked: Tensor) -> None:
        self.picked = picked
        self.frames = rows.frames[rows.video[picked]]
        words = [rows.features.words[q] for q in picked.tolist()]
        self.words = nn.utils.rnn.pad_sequence(words, batch_first=True)
        lengths = torch.tensor([len(some) for some in words])
        self.mask = torch.arange(self.words.shape[1]) < lengths[:, None]
        self.rows = inputs_QTN[picked]

    def through(self, head: Gaussians | Scores) -> Located:
        return head(self.frames, self.words, self.mask, self.rows)


def train(
    rows: Rows, variant: Variant, seed: int, train_on: list[int], recipe: Recipe
) -> Gaussians | Scores:
    """The variant's head after ``recipe.steps`` steps of the grounding losses; no span is seen."""
    torch.manual_seed(seed)
    head = make_head(variant, rows.frames.shape[-1], rows.frames.shape[1]).train()
    regression = make_regression(variant)
    inputs, label_QT = rows.inputs(variant), rows.label(variant)
    moments_QK = hard_topk(label_QT, NUM_MOMENTS)
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.lr, weight_decay=0.02, fused=True)
    for step, picked in enumerate(_batches(train_on, recipe, seed)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _share(step, recipe.steps)
        if variant.sigma_from is not None and isinstance(head, Gaussians):
            fallen = min(1.0, step / (0.7 * recipe.steps))
            head.sigma = variant.sigma_from * (variant.sigma / variant.sigma_from) ** fallen
        batch = Batch(rows, inputs, picked)
        found = batch.through(head)
        labels = Labels(moments_QK[picked], label_QT[picked])
        loss = regression(found.centers, found.log_weights, labels).mean() * variant.regression
        if variant.contrastive:
            seeds = picked + 1_000_003 * (seed * recipe.steps + step)
            loss = loss + variant.contrastive * _contrast(rows, variant, batch, found, seeds)
        if isinstance(head, Gaussians) and head.end_logits is not None:
            loss = loss + _end_loss(head.end_logits, label_QT[picked])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    return head.eval()


def _batches(train_on: list[int], recipe: Recipe, seed: int) -> Iterator[Tensor]:
    """Batches of shuffled epochs, ``recipe.steps`` of them."""
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
    every = torch.tensor(train_on)
    for _ in range(recipe.steps):
        while len(order) < recipe.batch:
            order = torch.cat([order, every[torch.randperm(len(every), generator=generator)]])
        yield order[: recipe.batch]
        order = order[recipe.batch :]


def _share(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to 0."""
    done = max(0, step - WARMUP) / max(1, steps - WARMUP)
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))


def _contrast(
    rows: Rows, variant: Variant, batch: Batch, found: Located, seeds_P: Tensor
) -> Tensor:
    """L_con with the whole batch as one contrast group."""
    weights_PT = found.log_weights.exp()
    num_frames = weights_PT.shape[1]
    noise = seeded_noise(seeds_P, NOISE_SAMPLES, num_frames)
    indicator = perturbed_topk(weights_PT, noise, NUM_MOMENTS, NOISE_SCALE)
    videos, position = rows.video[batch.picked].unique(return_inverse=True)
    text = rows.description[batch.picked]
    text = text - variant.con_question * rows.pooled[batch.picked]
    pairs = Pairs(
        joint=batch.frames,
        positive=indicator @ batch.frames,
        weights=weights_PT,
        group=torch.zeros_like(position),
        position=position,
        seeds=seeds_P,
        description=text,
        answer=None,
        options=None,
        wrong=None,
    )
    nothing = torch.empty(0, dtype=torch.int64)
    candidates = Candidates(
        joint=rows.frames[videos],
        groups=torch.zeros(len(videos), dtype=torch.int64),
        positions=torch.arange(len(videos)),
        answers=None,
        answer_positions=nothing,
        answer_seeds=nothing,
    )
    return CONTRAST(pairs, candidates).mean()


def _end_loss(logits_PT2: Tensor, label_PT: Tensor) -> Tensor:
    """Cross-entropy of the ends of the label's best window, a quarter of the clip."""
    few = max(1, round(SPAN_SHARE * label_PT.shape[1]))
    first_P = label_PT.unfold(1, few, 1).sum(dim=2).argmax(dim=1)
    ends = torch.stack([first_P, first_P + few - 1], dim=1)
    return F.cross_entropy(logits_PT2, ends)


@torch.inference_mode()
def predict(
    rows: Rows, variant: Variant, head: Gaussians | Scores | None, asked: list[int]
) -> tuple[Tensor, list[Span] | None]:
    """log p (P, T) of some questions, and their spans where the variant predicts them itself."""
    chosen = torch.tensor(asked)
    if head is None:
        name = variant.inputs[0]
        row = rows.label(variant) if name == "label" else rows.row(name)
        return _log_weights(standardise(row[chosen])), None
    inputs, weights, ends = rows.inputs(variant), [], []
    for some in chosen.split(256):
        weights.append(Batch(rows, inputs, some).through(head).log_weights)
        if isinstance(head, Gaussians) and head.end_logits is not None:
            ends.append(head.end_logits)
    log_weights = torch.cat(weights)
    if variant.fuse:
        row = standardise(rows.row("question")[chosen])
        log_weights = _log_weights(standardise(log_weights) + variant.fuse * row)
    return log_weights, _end_spans(rows, chosen, torch.cat(ends)) if ends else None


def _log_weights(rows_PT: Tensor) -> Tensor:
    return rows_PT - rows_PT.amax(dim=1, keepdim=True)


def _end_spans(rows: Rows, asked: Tensor, logits_PT2: Tensor) -> list[Span]:
    """The likeliest pair of ends, the first not after the last."""
    start, end = logits_PT2.log_softmax(dim=1).unbind(dim=2)
    both_PTT = start[:, :, None] + end[:, None, :]
    num_frames = both_PTT.shape[1]
    ordered = torch.ones(num_frames, num_frames).triu().bool()
    best = both_PTT.masked_fill(~ordered, -math.inf).flatten(1).argmax(dim=1)
    first, last = best // num_frames, best % num_frames
    part = rows.features.durations[rows.video[asked]] / num_frames
    return list(zip((first * part).tolist(), ((last + 1) * part).tolist(), strict=True))


def right_answers(rows: Rows, asked: list[int], log_weights_PT: Tensor) -> npt.NDArray[np.bool_]:
    """Whether the K chosen frames are likest the question with the right option filled in."""
    chosen = hard_topk(log_weights_PT, NUM_MOMENTS)
    options_POT = rows.options()[asked]
    index = chosen.unsqueeze(1).expand(-1, options_POT.shape[1], -1)
    guess = options_POT.gather(2, index).mean(dim=2).argmax(dim=1)
    return (guess == rows.answer[asked]).numpy()


@dataclass(frozen=True)
class Prediction:
    """What a run says of the questions ``asked``: log p (P, T) and, of a span head, the spans."""

    asked: list[int]
    log_weights: Tensor
    spans: list[Span] | None


def measure(rows: Rows, said: Prediction) -> dict[str, dict[str, float]]:
    """Every extraction's figures; a span head's own spans as ``own``."""
    asked, log_weights_PT = said.asked, said.log_weights
    questions = [rows.features.questions[q] for q in asked]
    durations = [float(rows.features.durations[q.video]) for q in questions]
    right = right_answers(rows, asked, log_weights_PT)
    weights = log_weights_PT.exp().double().numpy()
    made = {
        name: [extract(row, d) for row, d in zip(weights, durations, strict=True)]
        for name, extract in EXTRACTIONS.items()
    }
    if said.spans is not None:
        made["own"] = said.spans
    return {n: asdict(judge(questions, durations, some, right)) for n, some in made.items()}


def run(rows: Rows, variant: Variant, seed: int, split: str) -> Prediction:
    """Train and ask. ``split`` "test": train on all training questions, ask the test's.
    "validation": two folds of the training videos, each asked after training on the other; for
    choosing settings."""
    recipe = RECIPES[rows.features.name]
    asked: list[int] = []
    weights: list[Tensor] = []
    spans: list[Span] = []
    for train_on, ask in _folds(rows.features, split):
        head = train(rows, variant, seed, train_on, recipe) if variant.trained else None
        log_p, own = predict(rows, variant, head, ask)
        asked, weights, spans = asked + ask, [*weights, log_p], spans + (own or [])
    return Prediction(asked, torch.cat(weights), spans or None)


def _folds(features: Features, split: str) -> list[tuple[list[int], list[int]]]:
    """Pairs of rows to train on and grounded rows to ask."""
    if split == "test":
        return [(features.splits["train"], features.splits["test"])]
    questions = features.questions
    videos = sorted({str(questions[q].video) for q in features.splits["train"]})
    half = held_out(videos, 0.5, "fold")
    parts: list[list[int]] = [[], []]
    for q in features.splits["train"]:
        parts[str(questions[q].video) in half].append(q)
    grounded = [[q for q in part if questions[q].spans] for part in parts]
    return [(parts[0], grounded[1]), (parts[1], grounded[0])]
