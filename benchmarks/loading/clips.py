"""Test clips that cost what real ones do: texture, motion and sensor noise, in H.264."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dataloaders.container import probe

RATE = 25
_SIZES = {240: (424, 240), 480: (848, 480)}
_NOISE_LEVELS = 1.5


@dataclass(frozen=True)
class Recipe:
    """A clip to make: lines of height, seconds, frames between keyframes."""

    height: int
    seconds: int
    keyframes: int

    @property
    def name(self) -> str:
        return f"{self.height}p {self.seconds} s, keyframe each {self.keyframes}"


@dataclass(frozen=True)
class Clip:
    name: str
    path: Path
    frame_count: int


def make_clips(recipes: list[Recipe], folder: Path) -> list[Clip]:
    """Encode the clips that are not there yet. Clips of a height share one picture sequence."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for recipe in recipes:
        path = folder / f"{recipe.height}p-{recipe.seconds}s-{recipe.keyframes}.mp4"
        if not path.exists():
            partial = path.with_suffix(".partial")
            _encode(recipe, partial)
            partial.replace(path)
        clips.append(Clip(recipe.name, path, recipe.seconds * RATE))
    return clips


def given_clips(folder: Path) -> list[Clip]:
    """The readable clips of a folder."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".mkv", ".webm"))
    return [Clip(p.name, p, probe(p.read_bytes(), name=p.name).frame_count) for p in paths]


def _encode(recipe: Recipe, path: Path) -> None:
    width, height = _SIZES[recipe.height]
    options = {"preset": "fast", "crf": "26", "bf": "3", "threads": "1", "sc_threshold": "0"}
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=Fraction(RATE), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = recipe.keyframes
        for image in _pictures(width, height, recipe.seconds * RATE):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))


def _pictures(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """A camera that pans over a textured scene, objects that cross it, and noise.

    Texture has as much in each octave of size, as photographs have. The noise is one of 16 fields,
    at a random place, so that drawing costs less than encoding.
    """
    rng = np.random.default_rng(height)
    scene = _texture(rng, 2 * width, 2 * height)
    objects = [_texture(rng, width // 5, height // 3) for _ in range(4)]
    speeds = rng.uniform(-2.5, 2.5, (len(objects), 2)) * height / 240
    starts = rng.uniform(0, 1, (len(objects), 2)) * (width, height)
    fields = rng.normal(0, _NOISE_LEVELS, (16, height + 16, width + 16, 1)).astype(np.int16)
    for number in range(count):
        angle = 2 * np.pi * number / (40 * RATE)
        left = int((0.5 + 0.45 * np.sin(3 * angle)) * width)
        top = int((0.5 + 0.45 * np.sin(5 * angle)) * height)
        image = scene[top : top + height, left : left + width].copy()
        for shape, speed, start in zip(objects, speeds, starts, strict=True):
            x, y = (start + speed * number).astype(int) % (width, height)
            rows, columns = min(shape.shape[0], height - y), min(shape.shape[1], width - x)
            image[y : y + rows, x : x + columns] = shape[:rows, :columns]
        down, right = rng.integers(0, 16, 2)
        noise = fields[rng.integers(16), down : down + height, right : right + width]
        yield (image + noise).clip(0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    total = np.zeros((height, width, 3))
    cell = max(width, height) // 2
    while cell >= 2:
        coarse = rng.normal(0, 1, (height // cell + 2, width // cell + 2, 3))
        total += _smooth(coarse, height, width, cell)
        cell //= 2
    spread = total.std() or 1.0
    return (128 + 48 * total / spread).clip(0, 255).astype(np.int16)


def _smooth(coarse: np.ndarray, height: int, width: int, cell: int) -> np.ndarray:
    """Bilinear, one coarse value every ``cell`` pixels: (h, w, 3) -> (height, width, 3)."""
    for axis, length in ((0, height), (1, width)):
        at = np.arange(length) / cell
        low = at.astype(int)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        coarse = coarse.take(low, axis) * (1 - share) + coarse.take(low + 1, axis) * share
    return coarse
