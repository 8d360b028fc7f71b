"""Draw a scene's frames: a textured background that drifts, and one event at a time on top."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from dataloaders.moments.scene import COLOURS, Event, Scene, rng_for
from dataloaders.moments.sprites import mask

_DRIFT = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
}


def frames(scene: Scene) -> Iterator[np.ndarray]:
    """Yield the clip's frames in order, uint8 (height, width, 3) RGB."""
    return frames_at(scene, ((i + 0.5) / scene.frame_rate for i in range(scene.num_frames)))


def frames_at(scene: Scene, times: Iterable[float]) -> Iterator[np.ndarray]:
    """Yield the frames at ``times`` (seconds), uint8 (height, width, 3) RGB."""
    texture, velocity = _background(scene)
    return (_draw(scene, time, texture, velocity) for time in times)


def _draw(scene: Scene, time: float, texture: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Compose background and event at ``time`` (seconds)."""
    room = np.array(texture.shape[:2]) - (scene.height, scene.width)
    # A triangle wave keeps the window inside the texture without a jump.
    shift = velocity * time % (2 * room)
    top, left = np.minimum(shift, 2 * room - shift).astype(int)
    canvas = texture[top : top + scene.height, left : left + scene.width].copy()
    event = scene.event_at(time)
    if event is not None:
        _draw_event(canvas, event, (time - event.start) / (event.end - event.start), scene.seed)
    return canvas


def _background(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """A smooth coloured texture larger than the frame, and its drift in pixels a second."""
    rng = rng_for("moments", scene.seed, scene.key, "background")
    margin = 48
    height, width = scene.height + margin, scene.width + margin
    tint = rng.uniform(60, 130, 3)
    texture = np.broadcast_to(tint, (height, width, 3)).copy()
    for cells, strength in ((4, 22.0), (11, 12.0), (29, 7.0)):
        coarse = rng.normal(0, strength, (cells, cells, 3))
        texture += _upsample(coarse, height, width)
    return np.clip(texture, 0, 255).astype(np.uint8), rng.uniform(-14, 14, 2)


def _upsample(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, (h, w, 3) → (height, width, 3)."""

    def along(values: np.ndarray, size: int) -> np.ndarray:
        at = np.linspace(0, len(values) - 1, size)
        low = np.minimum(at.astype(int), len(values) - 2)
        share = (at - low)[:, None, None]
        return values[low] * (1 - share) + values[low + 1] * share

    return along(along(coarse, height).swapaxes(0, 1), width).swapaxes(0, 1)


def _draw_event(canvas: np.ndarray, event: Event, phase: float, seed: int) -> None:
    """Draw ``event`` at ``phase`` in [0, 1); every action can be told from a single frame."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    radius = round(side * 0.17)
    colour = np.array(COLOURS[event.colour], np.float32)
    shape = mask(event.kind, radius)
    x, y = width / 2, height / 2
    if event.action in _DRIFT:
        dx, dy = _DRIFT[event.action]
        travel = (phase - 0.5) * 0.44 * side
        x, y = x + dx * travel, y + dy * travel
        # The streak behind a moving object: fading copies where it has been.
        for step, alpha in ((4, 0.22), (3, 0.3), (2, 0.38), (1, 0.46)):
            back = step * radius * 0.42
            _paste(canvas, shape, colour, x - dx * back, y - dy * back, alpha)
    elif event.action == "pulses":
        halo = mask("ring", round(radius * (1.25 + 0.45 * (phase * 4 % 1))))
        _paste(canvas, halo, np.array([20.0, 20, 20], np.float32), x, y, 0.75)
    elif event.action == "sparkles":
        _sparkle(canvas, event, phase, seed, x, y, radius)
    elif event.action == "splits in two":
        apart = radius * (0.75 + 0.5 * phase)
        _paste(canvas, shape, colour, x - apart, y, 1.0)
        x += apart
    elif event.action == "jumps over a bar":
        bar = np.ones((max(3, radius // 4), 4 * radius), np.float32)
        _paste(canvas, bar, np.array([25.0, 25, 25], np.float32), x, y + radius * 1.5, 0.9)
        y += radius * (0.35 - 1.4 * 4 * (phase % 1) * (1 - phase % 1) * 0.6)
    _paste(canvas, shape, colour, x, y, 1.0)


def _sparkle(
    canvas: np.ndarray, event: Event, phase: float, seed: int, x: float, y: float, radius: int
) -> None:
    rng = rng_for("moments", seed, event.sentence, int(phase * 8))
    dot = mask("cross", max(3, radius // 4))
    light = np.array([255.0, 250, 180], np.float32)
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(7) * 2 * np.pi / 7:
        reach = radius * rng.uniform(1.25, 1.6)
        _paste(canvas, dot, light, x + reach * np.cos(angle), y + reach * np.sin(angle), 1.0)


def _paste(
    canvas: np.ndarray, shape: np.ndarray, colour: np.ndarray, x: float, y: float, alpha: float
) -> None:
    """Blend ``colour`` through ``shape`` centred at (x, y), clipped at the border, in place."""
    height, width = shape.shape
    left, top = round(x - width / 2), round(y - height / 2)
    from_x, from_y = max(0, -left), max(0, -top)
    to_x, to_y = min(width, canvas.shape[1] - left), min(height, canvas.shape[0] - top)
    if from_x >= to_x or from_y >= to_y:
        return
    cover = shape[from_y:to_y, from_x:to_x, None] * alpha
    region = canvas[top + from_y : top + to_y, left + from_x : left + to_x]
    region[:] = region * (1 - cover) + colour * cover
