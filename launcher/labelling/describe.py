"""Event descriptions of a packed data set: by the template, or by an instruct language model.

The model's texts are kept in ``<data>/descriptions``; one that its checks refuse is written by the
template instead, and marked so in the label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.source import Source
from gcg.description import WRITER, describe
from gcg.description_check import CHECK_VERSION, Judged, Written, judge
from gcg.description_llm import DescriptionModel, find_writer, load_writer
from gcg.errors import ModelError
from launcher.errors import UserError
from launcher.labelling.description_cache import DescriptionCache

BATCH = 16
Pair = tuple[str, str]
OnQuestion = Callable[[int, int], object]  # so many more done, of so many in all


@dataclass(frozen=True)
class Description:
    """``text``: one sentence; ``rejected``: why the template wrote it instead of the model."""

    text: str
    rejected: str | None = None


class TemplateWriter:
    """Descriptions by the template of ``gcg.description``: no model, nothing to keep."""

    identity = WRITER

    def prepare(self, folder: Path, source: Source, on_question: OnQuestion) -> list[str]:
        """Nothing to prepare, nothing to say."""
        return []

    def __call__(self, question: str, answer: str) -> Description:
        return Description(describe(question, answer))


class LLMWriter:
    """Descriptions by an instruct language model, its checks, and the template where they fail.

    Args:
        name: folder, GGUF file or hub name. Nothing is loaded before something is to be written.
        batch: questions asked at a time.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, name: str, batch: int = BATCH) -> None:
        with _as_user_error():
            self._files = find_writer(name)
        self._batch = batch
        self._model: DescriptionModel | None = None
        self._judged: dict[Pair, Judged] = {}
        self.identity = f"llm:{self._files.identity}:{CHECK_VERSION}"

    def prepare(self, folder: Path, source: Source, on_question: OnQuestion) -> list[str]:
        """Write what is missing of a data set's descriptions, kept in ``folder``/descriptions;
        return lines that say how it went.

        Raises:
            DataError: another process is writing them, or the data cannot be read.
            UserError: the model cannot be loaded.
        """
        wanted = _pairs(source)
        stem = re.sub(r"[^\w.@-]+", "_", self._files.identity)
        path = folder / "descriptions" / f"{stem}.jsonl"
        with DescriptionCache(path, self._files.identity) as cache:
            self._fill(cache, wanted, on_question)
            texts = {pair: cache[pair] for pair in wanted}
        judged = {pair: judge(text, *pair) for pair, text in texts.items()}
        self._judged |= judged
        return _summary(texts, judged)

    def _fill(self, cache: DescriptionCache, wanted: list[Pair], on_question: OnQuestion) -> None:
        # Batches are cut from all questions, not from those that are missing: padding moves the
        # last bits of a sum, and a run that was stopped must write what it would have written.
        for start in range(0, len(wanted), self._batch):
            batch = wanted[start : start + self._batch]
            missing = [pair for pair in batch if pair not in cache]
            if missing:
                if self._model is None:
                    self._model = self._load()
                written = dict(zip(batch, self._model.write(batch), strict=True))
                cache.add((pair, written[pair]) for pair in missing)
            on_question(len(batch), len(wanted))

    def _load(self) -> DescriptionModel:
        with _as_user_error():
            return load_writer(self._files)

    def __call__(self, question: str, answer: str) -> Description:
        found = self._judged[question, answer]
        if found.reason is None:
            return Description(found.text)
        return Description(describe(question, answer), found.reason)


DescriptionWriter = TemplateWriter | LLMWriter


def make_writer(kind: str, llm: str | None) -> DescriptionWriter:
    """The writer of `gcg label --writer KIND --llm LLM`. Raises UserError where they do not fit."""
    if kind == "llm":
        if llm is None:
            raise UserError("--writer llm: needs --llm NAME_OR_FOLDER, the model that writes")
        return LLMWriter(llm)
    if llm is not None:
        raise UserError(f"--llm {llm}: the template writes without a model; add --writer llm")
    return TemplateWriter()


def _pairs(source: Source) -> list[Pair]:
    """Every question and answer that has no statement of its own, once, alike lengths together."""
    found: dict[Pair, None] = {}
    for number in range(len(source.shards)):
        for entry in source.entries(number):
            try:
                questions = source.read_record(number, entry).questions
            except DataError:
                continue  # a bad sample: it gets no labels, and labelling says so
            for question in questions:
                if not question.statement:
                    found[question.question, question.answer] = None
    return sorted(found, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))


def _summary(texts: dict[Pair, Written], judged: dict[Pair, Judged]) -> list[str]:
    """How many descriptions are the model's; why the others are not, with an example each."""
    refused: dict[str, list[Pair]] = {}
    for pair, found in judged.items():
        if found.reason is not None:
            refused.setdefault(found.reason, []).append(pair)
    used = len(judged) - sum(map(len, refused.values()))
    lines = [f"descriptions: {used} of {len(judged)} by the language model, the rest by template"]
    for reason, pairs in sorted(refused.items(), key=lambda item: -len(item[1])):
        question, answer = pairs[0]
        output = " ".join(texts[pairs[0]].output.split())
        shown = output if len(output) <= 80 else f"{output[:77]}..."
        lines.append(f"  {len(pairs)} {reason}: {question} | {answer} | {shown!r}")
    return lines


@contextmanager
def _as_user_error() -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise UserError(error.lines) from None
