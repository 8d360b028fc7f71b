"""The sample corpus through the tiny encoder: clips with one known event a question.

``gcg sample-data DIR --videos 220 --questions-per-video 16`` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from benchmarks.study.features import NUM_FRAMES, Encoder, Features, Question, assemble
from dataloaders.container import probe
from dataloaders.decode import decode_frames
from dataloaders.frames import uniform_indices
from dataloaders.manifest import read_manifest
from dataloaders.transform import preprocess
from gcg.build import build_encoders
from gcg.config import GCGConfig
from gcg.presets import resolve_preset
from gcg.text import TextTower
from gcg.tokens import clip_tokens
from gcg.vision import frames_through

# The corpus has few validation clips: train on train + val, select nothing on it.
SPLITS = {"train": "train", "val": "train", "test": "test"}


def build(folder: Path) -> Features:
    """Decode and encode all clips of the corpus at ``folder``, about two minutes on one core.

    Raises FileNotFoundError where there is no such corpus.
    """
    if not (folder / "train.jsonl").exists():
        raise FileNotFoundError(
            f"{folder}: holds no train.jsonl; make it with `gcg sample-data {folder} --videos 220 "
            "--questions-per-video 16`"
        )
    config = GCGConfig(num_frames=NUM_FRAMES)
    vision, text = build_encoders(config)
    assert vision is not None
    size = resolve_preset(config).image_size
    frames: list[Tensor] = []
    durations: list[float] = []
    questions: list[Question] = []
    splits: dict[str, list[int]] = {"train": [], "test": []}
    for name, split in SPLITS.items():
        for video in read_manifest(folder / f"{name}.jsonl"):
            data = (folder / video.path).read_bytes()
            indices = uniform_indices(probe(data).frame_count, NUM_FRAMES)
            pixels = preprocess(decode_frames(data, indices).frames, size)
            with torch.inference_mode():
                joint = frames_through(vision, pixels[None])[1][0]
            frames.append(F.normalize(joint.float(), dim=-1).clone())
            for asked in video.questions:
                splits[split].append(len(questions))
                questions.append(
                    Question(
                        video=len(durations),
                        id=f"{video.id}/{asked.id}",
                        type=asked.type,
                        text=asked.question,
                        options=tuple(asked.options or [asked.answer]),
                        answer=asked.answer_index or 0,
                        spans=tuple((a, b) for a, b in asked.spans or []),
                    )
                )
            assert video.duration is not None, video.id  # `gcg sample-data` writes it
            durations.append(video.duration)
    assert isinstance(text, TextTower)
    encode = text_encoder(config, text)
    return assemble(
        "sample", torch.stack(frames), torch.tensor(durations), questions, encode, splits
    )


def text_encoder(config: GCGConfig, tower: TextTower) -> Encoder:
    """The text tower as an encoder: the words' vectors and the pooled one, of unit length."""
    coder = clip_tokens(config)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        different = sorted(set(texts))
        words: dict[str, Tensor] = {}
        pooled: dict[str, Tensor] = {}
        for start in range(0, len(different), 256):
            some = different[start : start + 256]
            rows = [torch.tensor(row) for row in coder.rows(some)]
            ids = pad_sequence(rows, batch_first=True, padding_value=coder.pad_id)
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            tokens, means = tower(ids, mask)
            for text, row, mean, source in zip(
                some, tokens, F.normalize(means.float(), dim=-1), rows, strict=True
            ):
                words[text], pooled[text] = row[: len(source)].clone(), mean.clone()
        return [words[text] for text in texts], torch.stack([pooled[text] for text in texts])

    return encode
