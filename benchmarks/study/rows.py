"""Rows over time, (Q, T): how like each frame is to some text of each question.

Q = questions, T = frames, O = options, S = sentences of a caption, C = joint width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.study.features import Features
from benchmarks.study.variants import Variant
from gcg.labels import Evidence, direction, parse_strategy


@dataclass
class Rows:
    """All rows of a data set, each computed when first asked for."""

    features: Features
    frames: Tensor = field(init=False)
    video: Tensor = field(init=False)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.frames = F.normalize(self.features.frames.float(), dim=-1)
        self.video = torch.tensor([q.video for q in self.features.questions])
        self.answer = torch.tensor([q.answer for q in self.features.questions])
        self.statements = F.normalize(self.features.statements.float(), dim=-1)
        self.pooled = F.normalize(self.features.pooled.float(), dim=-1)
        every = torch.arange(len(self.answer))
        self.description = self.statements[every, self.answer]

    def inputs(self, variant: Variant) -> Tensor:
        """Standardised rows (Q, T, N) that the variant's frames are told, N may be 0."""
        rows = [standardise(self.row(name)) for name in variant.inputs]
        if not rows:
            return torch.empty(len(self.video), self.frames.shape[1], 0)
        return torch.stack(rows, dim=-1)

    def label(self, variant: Variant) -> Tensor:
        """The row (Q, T) that the variant's pseudo-labels are chosen by. It sees the answer."""
        if variant.labels == "sentences":
            row = standardise(self.row("description")) + standardise(self.row("described"))
        else:
            evidence = Evidence(
                description=self.row("description"),
                question=self.row("question"),
                neighbours=torch.empty(0),
                direction=torch.tensor([direction(q.text) for q in self.features.questions]),
            )
            row = parse_strategy(variant.labels).row(evidence)
        if variant.label_smooth:
            row = smooth(row, variant.label_smooth)
        if variant.common:
            total = torch.zeros(len(self.frames), row.shape[1]).index_add_(0, self.video, row)
            count = self.video.bincount(minlength=len(self.frames)).clamp(min=1)
            row = row - variant.common * (total / count[:, None])[self.video]
        return row

    def row(self, name: str) -> Tensor:
        """A row by name, ``NAME@FRAMES`` smoothed over so many frames. Raises KeyError."""
        if name not in self.kept:
            base, _, width = name.partition("@")
            self.kept[name] = smooth(self.row(base), float(width)) if width else self._make(base)
        return self.kept[name]

    def _make(self, name: str) -> Tensor:
        clauses = self.features.clauses
        makers = {
            "question": lambda: self.like(self.pooled),
            "asked": lambda: self.like(clauses[:, 0]),
            "dated": lambda: self.like(clauses[:, 1]),
            "description": lambda: self.like(self.description),
            "options": lambda: self.options().mean(dim=1),
            "words": self._words,
            "sentences": lambda: self._sentences(self.pooled),
            "described": lambda: self._sentences(self.description),
            "centre": self._centre,
        }
        return makers[name]()

    def like(self, texts_QC: Tensor) -> Tensor:
        """Cosine of each question's text with the frames of its video, (Q, T)."""
        return torch.einsum("qtc,qc->qt", self.frames[self.video], F.normalize(texts_QC, dim=-1))

    def options(self) -> Tensor:
        """Cosine of the question with each option filled in, (Q, O, T). Sees no answer."""
        return torch.einsum("qtc,qoc->qot", self.frames[self.video], self.statements)

    def _words(self) -> Tensor:
        """Late interaction: the sum over the question's words of their cosine, (Q, T)."""
        rows = [
            F.normalize(self.frames[v], dim=-1) @ F.normalize(words, dim=-1).sum(dim=0)
            for v, words in zip(self.video.tolist(), self.features.words, strict=True)
        ]
        return torch.stack(rows)

    def _sentences(self, texts_QC: Tensor) -> Tensor:
        """The best sentence of each caption, (Q, T). Raises ValueError without sentences."""
        if self.features.sentences is None:
            raise ValueError(f"data set {self.features.name} has no sentences of captions")
        rows = []
        for start in range(0, len(texts_QC), 256):
            some = slice(start, start + 256)
            sentences = self.features.sentences[self.video[some]].float()
            rows.append(torch.einsum("qtsc,qc->qts", sentences, texts_QC[some]).amax(dim=-1))
        return torch.cat(rows)

    def _centre(self) -> Tensor:
        num_frames = self.frames.shape[1]
        middle = ((torch.arange(num_frames) + 0.5) / num_frames - 0.5).abs()
        return (-middle).expand(len(self.video), -1)


def standardise(rows_QT: Tensor) -> Tensor:
    """Zero mean and unit variance over time."""
    centred = rows_QT - rows_QT.mean(dim=-1, keepdim=True)
    return centred / centred.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-6)


def smooth(rows_QT: Tensor, width: float) -> Tensor:
    """Gaussian mean over time, its standard deviation in frames; ends are renormalised."""
    place = torch.arange(rows_QT.shape[-1], dtype=rows_QT.dtype)
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / width).square())
    return rows_QT @ (kernel / kernel.sum(dim=1, keepdim=True)).T
