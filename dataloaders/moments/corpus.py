"""Write the corpus: encoded clips, and one manifest for each split."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av

from dataloaders.errors import DataError
from dataloaders.manifest import Video, write_manifest
from dataloaders.moments.questions import NUM_OPTIONS, ask
from dataloaders.moments.render import frames
from dataloaders.moments.scene import Scene, make_scene

VERSION = 1
SPLITS = (("train", 0.70), ("val", 0.06), ("test", 0.24))
_CODECS = {
    # Three B-frames and a keyframe every four seconds or so: what cameras and sites deliver.
    # x264's macroblock tree depends on what lies in memory: without it, the same bytes every time.
    "h264": (
        "libx264",
        {
            "preset": "veryfast",
            "crf": "23",
            "bf": "3",
            "threads": "1",
            "x264-params": "mbtree=0",
        },
    ),
    "vp9": (
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0", "threads": "1"},
    ),
}


def make_corpus(
    folder: Path,
    *,
    seed: int = 0,
    num_videos: int = 200,
    questions_per_video: int = 16,
    on_clip: Callable[[str], object] = lambda key: None,
) -> dict[str, Path]:
    """Write ``folder/videos/*.mp4`` and ``folder/{train,val,test}.jsonl``; return the manifests.

    The same arguments give the same bytes (with the same encoder libraries). Clips that are there
    already are kept, so an interrupted call goes on; other arguments on the same folder are
    refused. ``on_clip`` is called with each clip's key, for a progress bar.

    Raises ``DataError`` for sizes that make no corpus or a folder made with other arguments.
    """
    if num_videos < len(SPLITS) or questions_per_video < 1:
        raise DataError(
            f"sample-data: videos = {num_videos}, questions-per-video = {questions_per_video}: "
            f"a corpus needs at least {len(SPLITS)} videos and 1 question each; raise them"
        )
    _claim(
        folder,
        {
            "version": VERSION,
            "seed": seed,
            "videos": num_videos,
            "questions_per_video": questions_per_video,
            "options": NUM_OPTIONS,
        },
    )
    keys = [f"moments-{seed}-{i:05d}" for i in range(num_videos)]
    workers = min(len(keys), os.cpu_count() or 1)
    jobs = [(folder, make_scene(seed, key)) for key in keys]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for key in pool.map(_write_clip, jobs, chunksize=4):
            on_clip(key)
    manifests = {}
    for split, members in _split(keys):
        manifests[split] = folder / f"{split}.jsonl"
        rows = (_row(make_scene(seed, key), split, questions_per_video) for key in members)
        write_manifest(manifests[split], rows)
    return manifests


def _claim(folder: Path, recipe: dict[str, int]) -> None:
    """Note what the folder is made from; refuse one that was made from something else."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    note = folder / "corpus.json"
    if note.exists():
        found = json.loads(note.read_text())
        if found != recipe:
            raise DataError(
                f"{note}: made with {found}, asked for {recipe}; choose another folder or "
                "delete this one"
            )
    note.write_text(json.dumps(recipe) + "\n")


def _split(keys: list[str]) -> list[tuple[str, list[str]]]:
    """Splits by video. Keys carry no order of content, so consecutive runs will do."""
    parts, start, share = [], 0, 0.0
    for position, (name, part) in enumerate(SPLITS):
        share += part
        last = position == len(SPLITS) - 1
        stop = len(keys) if last else max(start + 1, round(share * len(keys)))
        stop = min(stop, len(keys) - (len(SPLITS) - 1 - position))
        parts.append((name, keys[start:stop]))
        start = stop
    return parts


def _write_clip(job: tuple[Path, Scene]) -> str:
    folder, scene = job
    path = folder / "videos" / f"{scene.key}.mp4"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.part")
        encode(scene, partial)
        partial.replace(path)
    return scene.key


def encode(scene: Scene, path: Path) -> None:
    """Render ``scene`` into an mp4 file (H.264 with B-frames, or VP9), one encoder thread."""
    name, options = _CODECS[scene.codec]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(name, rate=Fraction(scene.frame_rate), options=options)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        stream.gop_size = 4 * scene.frame_rate
        for pixels in frames(scene):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _row(scene: Scene, split: str, questions_per_video: int) -> Video:
    return Video(
        id=scene.key,
        path=f"videos/{scene.key}.mp4",
        duration=scene.num_frames / scene.frame_rate,
        frame_count=scene.num_frames,
        width=scene.width,
        height=scene.height,
        rotation=0,
        codec=scene.codec,
        questions=ask(scene, questions_per_video, split),
    )
