"""Small real clips, manifests and packed data sets for the tests of the data path."""

from __future__ import annotations

import functools
import importlib.util
import io
from pathlib import Path

import av
import numpy as np
import pytest

from dataloaders.batch import Collator
from dataloaders.labels import Label, LabelMeta, write_labels
from dataloaders.manifest import Question, Video
from dataloaders.shards import PackReport, pack
from dataloaders.source import Source
from gcg.questions import PromptTemplate, QuestionEncoder
from gcg.text_codes import RoleTokens

WIDTH, HEIGHT = 48, 32
needs_mds = pytest.mark.skipif(
    importlib.util.find_spec("streaming") is None,
    reason="mosaicml-streaming is not installed; pip install 'gcg-train[mds]'",
)
FORMATS = ["wds", pytest.param("mds", marks=needs_mds)]


@functools.cache
def clip_bytes(seed: int, num_frames: int = 16) -> bytes:
    """H.264 in mp4: a grey that depends on the seed and rises frame by frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "8"}
        for i in range(num_frames):
            grey = (seed * 37 + i * 9) % 256
            pixels = np.full((HEIGHT, WIDTH, 3), grey, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def question(number: int, *, options: bool = True) -> Question:
    text = f"what happens at {number}"
    if not options:
        return Question(id=f"q{number}", question=text, answer=f"thing {number}", type="DO")
    choices = [f"thing {number + k}" for k in range(3)]
    index = number % 3
    return Question(
        id=f"q{number}",
        question=text,
        answer=choices[index],
        options=choices,
        answer_index=index,
        type="TN",
        spans=[(0.25, 1.0)],
    )


def video(number: int, num_questions: int = 2, *, options: bool = True) -> Video:
    questions = [question(i, options=options) for i in range(num_questions)]
    return Video(id=f"v{number:03d}", path=f"clips/v{number:03d}.mp4", questions=questions)


def write_clips(root: Path, videos: list[Video]) -> None:
    for number, row in enumerate(videos):
        path = root / row.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip_bytes(number))


def pack_clips(
    root: Path,
    question_counts: list[int],
    *,
    per_shard: int = 2,
    options: bool = True,
    first: int = 0,
    format: str = "wds",
) -> PackReport:
    """Pack one clip per entry, so many questions each, ``per_shard`` clips a shard; the videos are
    numbered from ``first`` on."""
    videos = [video(i, n, options=options) for i, n in enumerate(question_counts, start=first)]
    write_clips(root, videos)
    biggest = max(len(clip_bytes(i)) for i in range(len(videos)))
    limit = biggest * per_shard + 100
    return pack(videos, root / "packed", root=root, shard_bytes=limit, format=format)


def label_all(source: Source, num_frames: int, num_moments: int = 2) -> Path:
    """Label every question of a data set; returns the label folder."""
    folder = Path(source.name) / "labels" / "test"
    meta = LabelMeta(
        encoder="enc",
        num_frames=num_frames,
        num_moments=num_moments,
        strategy="topk",
        writer="template-1",
        data=source.fingerprint,
    )
    rows = {
        shard.stem: [
            Label(
                video=record.id,
                question=q.id,
                description=f"{q.answer} happens",
                moments=tuple(range(1, 1 + num_moments)),
                similarity=tuple(0.1 * t for t in range(num_frames)),
            )
            for entry in source.entries(number)
            for record in [source.read_record(number, entry)]
            for q in record.questions
        ]
        for number, shard in enumerate(source.shards)
    }
    write_labels(folder, meta, rows)
    return folder


def encode(texts: list[str]) -> list[list[int]]:
    """A character tokenizer: letters from 3 on."""
    return [[3 + ord(c) % 200 for c in text] for text in texts]


def collator(seed: int = 0, *, answer_texts: bool = False, **lengths: int) -> Collator:
    def tokens(name: str) -> RoleTokens:
        length = lengths.get(name, 256)
        return RoleTokens(encode, pad_id=0, max_length=length, prefix=(1,), suffix=(2,))

    encoder = QuestionEncoder(
        clip=tokens("clip"),
        qformer=tokens("qformer"),
        prompt=tokens("prompt"),
        answer=tokens("answer"),
        template=PromptTemplate(),
        answer_texts=answer_texts,
    )
    return Collator(encoder, seed)
