"""A clip as a film strip: the frames a model read, where it looked, which it answered from."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from launcher.errors import UserError
from launcher.predict.predictor import Said
from launcher.predict.show import clock

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_HEIGHT, _MARGIN, _CURVE, _TEXT = 96, 8, 72, 20  # pixels
_INK, _CHOSEN, _SPAN, _LINE = "#202020", "#d55e00", "#f5e3d5", "#0072b2"  # Okabe and Ito's


def film_strip(said: Said) -> Image:
    """An RGB image: T frames side by side, the chosen ones framed, above the curve of weights.

    The curve goes from 0 to 1, the heaviest frame; what is shaded is the moment. The clip must have
    kept its frames.

    Raises:
        UserError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise UserError(
            "a film strip is drawn by Pillow, which is not installed: pip install 'gcg-train[plot]'"
        ) from None
    frames = said.clip.frames
    assert frames is not None
    tiles = [_tile(Image.fromarray(frame)) for frame in frames]
    width = max(tile.width for tile in tiles)
    top = _MARGIN + 2 * _TEXT
    under = top + _HEIGHT + _MARGIN
    size = (len(tiles) * width + 2 * _MARGIN, under + _CURVE + _TEXT + _MARGIN)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    _title(draw, said)
    _span(draw, said, len(tiles) * width, under)
    for number, tile in enumerate(tiles):
        left = _MARGIN + number * width
        image.paste(tile, (left + (width - tile.width) // 2, top))
        if number in said.prediction.selected:
            draw.rectangle((left, top, left + width - 1, top + _HEIGHT - 1), None, _CHOSEN, 4)
        draw.text((left + 2, under + _CURVE), clock(said.clip.times[number]), fill=_INK)
    points = [
        (_MARGIN + (i + 0.5) * width, under + _CURVE - weight * (_CURVE - 6) - 3)
        for i, weight in enumerate(said.prediction.weights)
    ]
    draw.line([xy for point in points for xy in point], fill=_LINE, width=3)
    for number in said.prediction.selected:
        x, y = points[number]
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=_CHOSEN)
    return image


def strip_png(said: Said) -> bytes:
    """:func:`film_strip` as a PNG file."""
    file = io.BytesIO()
    film_strip(said).save(file, "PNG")
    return file.getvalue()


def _tile(frame: Image) -> Image:
    width = max(1, round(frame.width * _HEIGHT / frame.height))
    return frame.resize((width, _HEIGHT))


def _title(draw: ImageDraw, said: Said) -> None:
    found = said.prediction
    draw.text((_MARGIN, _MARGIN), _drawable(said.asked.query.question), fill=_INK)
    sure = "" if np.isnan(found.confidence) else f"  ({100 * found.confidence:.0f} %)"
    text = f"{said.mode}: {found.answer}{sure}"
    draw.text((_MARGIN, _MARGIN + _TEXT), _drawable(text), fill=_CHOSEN)


def _span(draw: ImageDraw, said: Said, width: int, under: int) -> None:
    if said.prediction.span is None:
        return
    scale = width / said.clip.duration
    start, end = (_MARGIN + each * scale for each in said.prediction.span)
    draw.rectangle((start, under, end, under + _CURVE - 1), _SPAN)


def _drawable(text: str) -> str:
    """One line; Pillow's own font has most of the Latin letters, and boxes for the others."""
    return " ".join(text.split())[:300]
