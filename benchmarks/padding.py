"""How much of a micro-batch's texts is padding, and how much less of it visits of like length have.

    python -m benchmarks.padding --work DIR [--json FILE]

Real questions (NExT-QA val, in ``$GCG_SHARED/annotations``) in the tokens of T5 and BERT
(``$GCG_SHARED/tokenizers``), cut into visits of four, shuffled, and dealt into micro-batches as the
loader does (`dataloaders.bucketing`). Where these files are absent: the sample corpus' questions,
in the tokens of preset tiny. Counted are all positions of the rows that the LLM and the Q-Former
read, soft-prompt tokens included. Only the copy of the frames that another order costs is timed.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import Ratio, Result, Table, interleaved, machine, main
from dataloaders.bucketing import deal

QUESTIONS, MOMENTS, QUERIES = 4, 4, 32
FRAMES, SIZE = 32, 224
MICRO = (1, 2, 4, 8)
PARTS = (16, 64)  # visits of a step on a rank
GROUPS = (1, 4)
WITH_OPTIONS = "Question: {question} Options: {options} Answer:"
SHARED = Path(os.environ.get("GCG_SHARED", Path(__file__).parents[2] / "shared"))

Tokens = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Question:
    """As :class:`gcg.questions.Answered` has it."""

    question: str
    options: Sequence[str] | None
    answer: str
    answer_index: int | None


@dataclass(frozen=True)
class Rows:
    """A reader's rows: ``soft`` positions that all have, and each question's own tokens."""

    soft: int
    lengths: Sequence[int]


def measure(work: Path, quick: bool) -> Result:
    """Padding, with and without visits of like length side by side."""
    where, videos = questions()
    asked = [question for video in videos for question in video]
    visits = _visits([len(video) for video in videos])
    readers = _readers(asked)
    prompt = readers["prompt"]
    found = [
        (reader, part, group, {n: _padding(rows, visits, part, n, group, prompt) for n in MICRO})
        for reader, rows in readers.items()
        for part in PARTS
        for group in GROUPS
    ]
    copied, computed = copying(2 if quick else 9)
    table = Table(
        f"Share of padding in the rows of {where}, {QUESTIONS} questions a visit: with visits in "
        "their order → with those of like length together",
        ("rows of", "visits of a rank", "contrast group", *(f"micro-batch {n}" for n in MICRO)),
        tuple(_row(*each) for each in found),
    )
    share = Ratio.of(copied, computed)
    return Result(
        title="Padded tokens",
        tables=(table,),
        notes=(
            f"{len(asked)} questions, {len(visits)} visits; the prompt alone is what an "
            "encoder-decoder LLM reads (T5), prompt and answer a decoder-only one. Where a "
            "micro-batch is one visit or one contrast group nothing can be dealt; a group that "
            "does not fit one is dealt visit by visit.",
            f"Another order costs a copy of the frames, {1000 * statistics.median(copied):.1f} ms "
            f"a visit of {FRAMES} frames of {SIZE} pixels: {share} of what bringing them to size "
            f"took ({machine()}). It is made in the loader's thread, under the step.",
        ),
        data={"padding": found, "copy_s": copied, "preprocess_s": computed},
    )


def questions() -> tuple[str, list[list[Question]]]:
    """What they are, and the questions of each video."""
    file = SHARED / "annotations" / "nextqa" / "val.csv"
    if not file.is_file():
        from dataloaders.moments.questions import ask
        from dataloaders.moments.scene import make_scene

        scenes = [make_scene(0, f"moments-0-{number:05d}") for number in range(400)]
        found = [[_question(q) for q in ask(scene, 8, "train")] for scene in scenes]
        return f"the sample corpus' questions ({file} is absent)", found
    from dataloaders.importers.asked import Files
    from dataloaders.importers.nextqa import read_rows

    videos: dict[str, list[Question]] = {}
    for each in read_rows(Files(file)):
        videos.setdefault(each.video, []).append(_question(each))
    return "NExT-QA's val questions", list(videos.values())


def _question(each: Any) -> Question:
    return Question(each.question, each.options, each.answer, each.answer_index)


def _readers(asked: Sequence[Question]) -> dict[str, Rows]:
    """The rows that each reader makes of the questions; ``prompt`` of the default prompt."""
    from gcg.config import LLMConfig
    from gcg.questions import PromptTemplate

    llm, qformer = tokenizers()
    soft, plain = MOMENTS * QUERIES, LLMConfig().prompt
    templates = {
        "prompt": PromptTemplate(multiple_choice=plain, open_ended=plain),
        "prompt with options": PromptTemplate(WITH_OPTIONS, "Question: {question} Answer:"),
    }
    answers = llm([PromptTemplate().right(question) for question in asked])
    rows = {}
    for name, template in templates.items():
        lengths = llm([template.prompt(question) for question in asked])
        rows[name] = Rows(soft, lengths)
        both = [length + answer for length, answer in zip(lengths, answers, strict=True)]
        rows[f"{name}, and answer"] = Rows(soft, both)
    del rows["prompt, and answer"], rows["prompt with options"]
    rows["Q-Former"] = Rows(QUERIES, qformer([question.question for question in asked]))
    return rows


def tokenizers() -> tuple[Tokens, Tokens]:
    """Texts to their numbers of tokens: as the LLM and as the Q-Former count."""
    from gcg.config import GCGConfig
    from gcg.tokens import load_tokens

    folder = SHARED / "tokenizers"
    if not folder.is_dir():
        tokens = load_tokens(GCGConfig())
        return (
            lambda texts: [len(row) for row in tokens.prompt.rows(texts)],
            lambda texts: [len(row) for row in tokens.qformer.rows(texts)],
        )
    from transformers import AutoTokenizer

    def count(tokenizer: Any, texts: Sequence[str]) -> list[int]:
        return [len(row) for row in tokenizer(list(texts))["input_ids"]]

    t5, bert = (AutoTokenizer.from_pretrained(folder / n) for n in ("t5", "bert-uncased"))
    return partial(count, t5), partial(count, bert)


def _visits(counts: Sequence[int]) -> list[list[int]]:
    """The questions of each visit, by number, in a random order, as the plan has them."""
    draw, first = random.Random(0), 0
    visits = []
    for count in counts:
        own = list(range(first, first + count))
        first += count
        draw.shuffle(own)
        visits += [own[i : i + QUESTIONS] for i in range(0, count, QUESTIONS)]
    draw.shuffle(visits)
    return visits


def _padding(
    rows: Rows, visits: Sequence[list[int]], part: int, size: int, group: int, key: Rows
) -> dict[str, int]:
    """Positions of all rows: those with a token in them, in the order of the visits, by length.

    The Q-Former's rows lie as the LLM's lengths have them dealt.
    """
    by = key if rows.soft == QUERIES else rows
    needed = in_order = by_length = 0
    for start in range(0, len(visits) - part + 1, part):
        own = visits[start : start + part]
        longest = [max(by.lengths[q] for q in visit) for visit in own]
        plain = [list(range(i, i + size)) for i in range(0, part, size)]
        needed += sum(rows.soft + rows.lengths[q] for visit in own for q in visit)
        in_order += _positions(rows, own, plain)
        by_length += _positions(rows, own, deal(longest, size, group if size % group == 0 else 1))
    return {"needed": needed, "in_order": in_order, "by_length": by_length}


def _positions(rows: Rows, visits: Sequence[list[int]], parts: list[list[int]]) -> int:
    total = 0
    for part in parts:
        lengths = [rows.lengths[q] for k in part for q in visits[k]]
        total += len(lengths) * (rows.soft + max(lengths))
    return total


def _row(
    reader: str, part: int, group: int, by_size: Mapping[int, Mapping[str, int]]
) -> tuple[str, ...]:
    cells = []
    for found in by_size.values():
        before, after = (1 - found["needed"] / found[way] for way in ("in_order", "by_length"))
        cells.append(f"{before:.1%} → {after:.1%}" if after < before else f"{before:.1%}")
    return reader, str(part), str(group), *cells


def copying(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds a visit: gathering four visits' frames anew, and bringing one's to size, by turns."""
    import torch

    from dataloaders.frame_memory import FrameMemory
    from dataloaders.transform import preprocess

    torch.set_num_threads(1)
    memory, size = FrameMemory(), (MICRO[2], FRAMES, 3, SIZE, SIZE)
    room = memory.take(size).zero_()
    raw = torch.zeros((FRAMES, 240, 320, 3), dtype=torch.uint8)

    def gather() -> float:
        began = time.perf_counter()
        out = memory.take(size)
        torch.stack([room[k] for k in (3, 1, 0, 2)], out=out)
        return (time.perf_counter() - began) / len(room)

    def resize() -> float:
        began = time.perf_counter()
        preprocess(raw, SIZE, out=room[0])
        return time.perf_counter() - began

    found = interleaved({"gather": gather, "resize": resize}, rounds)
    return found["gather"], found["resize"]


if __name__ == "__main__":
    raise SystemExit(main(measure))
