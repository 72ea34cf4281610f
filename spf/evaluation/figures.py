"""Contact sheets, strips and curves, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _GRID, _PAPER = (30, 30, 34), (216, 216, 222), (255, 255, 255)
COLOURS = ((38, 92, 166), (206, 95, 30), (46, 125, 80), (130, 76, 150))
_GAP = 4  # pixels between pictures
_TEXT = 13  # pixels, height of a letter


def sheet(pictures: Sequence[Sequence[np.ndarray]], columns: Sequence[str], rows: Sequence[str], captions_above: bool = True
          ) -> Image.Image:
    """Pictures (H, W, 3) uint8 in a grid; `columns` stand above them, `rows` above each row, wrapped to its width."""
    height, width = pictures[0][0].shape[:2]
    font = ImageFont.load_default(_TEXT)
    across = len(columns) * (width + _GAP) + _GAP
    heads = [_wrapped(text, font, width) for text in columns]
    head = max(map(len, heads)) * (_TEXT + 3) + _GAP
    labels = [_wrapped(text, font, across - 2 * _GAP) for text in rows]
    band = max(map(len, labels)) * (_TEXT + 3) + _GAP if captions_above else 0
    image = Image.new("RGB", (across, head + len(rows) * (height + band + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(image)
    for index, lines in enumerate(heads):
        _write(draw, (_GAP + index * (width + _GAP), 2), lines, font)
    for row, (line, label) in enumerate(zip(pictures, labels, strict=True)):
        top = head + row * (height + band + _GAP)
        if captions_above:
            _write(draw, (_GAP, top), label, font)
        for column, picture in enumerate(line):
            image.paste(Image.fromarray(picture), (_GAP + column * (width + _GAP), top + band))
    return image


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font) -> None:
    for index, line in enumerate(lines):
        draw.text((place[0], place[1] + index * (_TEXT + 3)), line, _INK, font)


def _wrapped(text: str, font, width: float) -> list[str]:
    """The words of a text in lines of at most `width` pixels; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


@dataclass(frozen=True)
class Curve:
    """One quantity over the values of a setting; None where it was not measured."""

    title: str
    values: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]


def plot(setting: str, at: Sequence[float], curves: Sequence[Curve], size: tuple[int, int] = (440, 230)) -> Image.Image:
    """Curves below each other, each with its 95 % intervals as bars and its own scale, over the same values of a setting."""
    image = Image.new("RGB", (size[0], size[1] * len(curves)), _PAPER)
    for index, curve in enumerate(curves):
        panel = _panel(setting, at, curve, size, COLOURS[index % len(COLOURS)])
        image.paste(panel, (0, index * size[1]))
    return image


def _panel(setting: str, at: Sequence[float], curve: Curve, size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    left, right, top, bottom = 62, size[0] - 18, 28, size[1] - 40
    image, font = Image.new("RGB", size, _PAPER), ImageFont.load_default(_TEXT)
    draw = ImageDraw.Draw(image)
    draw.text((left, 6), curve.title, _INK, font)
    shown = [value for values in (curve.values, curve.low, curve.high) for value in values if value is not None]
    if not shown:
        draw.text((left, (top + bottom) // 2), "not measured", _INK, font)
        return image
    low, high = _limits(shown)

    def place(index: int, value: float) -> tuple[float, float]:
        step = (right - left) / max(len(at) - 1, 1)
        return left + index * step, bottom - (value - low) / (high - low) * (bottom - top)

    for share in (0, 0.25, 0.5, 0.75, 1):
        value = low + share * (high - low)
        y = place(0, value)[1]
        draw.line([(left, y), (right, y)], _GRID)
        draw.text((left - 6, y), f"{value:.3g}", _INK, font, anchor="rm")
    for index, value in enumerate(at):
        draw.text((place(index, low)[0], bottom + 6), f"{value:g}", _INK, font, anchor="mt")
    draw.text(((left + right) / 2, size[1] - 4), setting, _INK, font, anchor="mb")
    _trace(draw, curve, place, colour)
    return image


def _trace(draw: ImageDraw.ImageDraw, curve: Curve, place, colour: tuple[int, int, int]) -> None:
    points = [place(index, value) for index, value in enumerate(curve.values) if value is not None]
    if len(points) > 1:
        draw.line(points, colour, width=2)
    for index, (value, low, high) in enumerate(zip(curve.values, curve.low, curve.high, strict=True)):
        if value is None:
            continue
        x, y = place(index, value)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], colour)
        if low is not None and high is not None:
            draw.line([place(index, low), place(index, high)], colour)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the range of the values; never an empty one."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or max(abs(high), 1) * 0.1
    return low - margin, high + margin
