"""A picture folder cut to squares: about the face where a parser of parts finds one, else about the middle, and it says which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from spf.config import Crop
from spf.data.pictures import crop_box, load_whole, to_array
from spf.data.records import Record
from spf.data.writer import UPLOAD_SIDE, write_folder
from spf.errors import DataError
from spf.files import staged

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
FindFace = Callable[[Image.Image], Box | None]

WINDOWS = 9  # squares along the longer side in which a face is looked for
SMALLEST_FACE = 0.02  # of the square's pixels that must be skin; less are stray pixels
# A parser knows nothing of what it was not trained on, and paints faces into walls, but it is unsure of them: its masks are
# 0.003 to 0.012 from 0 or 1 on average on rendered portraits, 0.022 and more on plain colours, ramps, noise and halves of faces.
UNSURE = 0.016
SEEN = 128  # pixels: the squares are looked at in this size
SHOWN, SHEET_WIDTH, MOST_SHOWN = 160, 6, 48  # of a preview: height of a picture, pictures in a row, pictures in all
_COLOURS = {"face": "lime", "middle": "orange"}


class PartParser(Protocol):
    """The part of pocket.recogniser.Recogniser that is used here."""

    parts: Sequence[str]  # with "hair" and "skin"

    def parse(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, P, H, W) probabilities, one map for each named part."""


@dataclass(frozen=True)
class Cut:
    """The square that is used of a picture, in pixels of the picture as it is stored, and what it lies about."""

    box: Box
    about: Literal["face", "middle"]


def cut_of(image: Image.Image, crop: Crop, find_face: FindFace | None) -> Cut:
    """The largest square of a picture: about the middle of its face, else as `crop` says."""
    face = find_face(image) if find_face else None
    if face is None:
        return Cut(crop_box(image.size, crop), "middle")
    side = min(image.size)
    left, top = (min(max((low + high - side) // 2, 0), length - side)
                 for low, high, length in ((face[0], face[2], image.width), (face[1], face[3], image.height)))
    return Cut((left, top, left + side, top + side), "face")


def face_finder(parser: PartParser) -> FindFace:
    """The box around hair and skin, in that square along the longer side in which the parser is surest of what it sees.

    None where it is not sure enough, or finds hardly any skin: on everything it was not trained for, most photographs included.
    """
    rows = [list(parser.parts).index(name) for name in ("hair", "skin")]

    def find(image: Image.Image) -> Box | None:
        boxes = windows(image.size)
        pixels = np.stack([to_array(image.resize((SEEN, SEEN), Image.Resampling.BILINEAR, box=box)) for box in boxes])
        masks = parser.parse(torch.from_numpy(pixels)).cpu().numpy()  # (N, P, S, S)
        unsure = np.minimum(masks, 1 - masks).mean(axis=(1, 2, 3))
        best = int(unsure.argmin())
        hair, skin = masks[best, rows] > 0.5
        if unsure[best] > UNSURE or skin.mean() < SMALLEST_FACE:
            return None
        left, top, right, _ = boxes[best]
        y, x = np.nonzero(hair | skin)
        scale = (right - left) / SEEN
        return tuple(round(offset + scale * value) for offset, value in (
            (left, x.min()), (top, y.min()), (left, x.max() + 1), (top, y.max() + 1)))

    return find


def windows(size: tuple[int, int]) -> list[Box]:
    """The largest squares of a picture, evenly spread over its longer side; one where it is square itself."""
    side, spare = min(size), abs(size[0] - size[1])
    offsets = dict.fromkeys(round(spare * index / (WINDOWS - 1)) for index in range(WINDOWS))
    return [(offset, 0, offset + side, side) if size[0] > size[1] else (0, offset, side, offset + side) for offset in offsets]


def crop_records(records: Sequence[Record], out: Path, crop: Crop, find_face: FindFace | None,
                 preview: Path | None = None) -> dict[str, Any]:
    """Write the squares of pictures (of `records_to_copy`) to `out`, as a picture folder; what was cut about what.

    `preview` is a PNG that shows the whole pictures with the squares drawn in. Raises DataError; then nothing is written.
    """
    cuts, shown = [], []
    unique = list({record.path: record for record in records}.values())  # repeats are one picture

    def squares() -> Iterator[tuple[Image.Image, str, str]]:
        for record in unique:
            image = load_whole(record.path, UPLOAD_SIDE)
            cuts.append(cut_of(image, crop, find_face))
            if preview and len(shown) < MOST_SHOWN:
                shown.append(_framed(image, cuts[-1]))
            yield image.crop(cuts[-1].box), record.base_text, record.target_text
        if sheet:
            _sheet(shown).save(sheet, format="PNG")

    try:
        with staged(preview) if preview else nullcontext() as sheet:
            write_folder(out, squares())
    except OSError as error:
        raise DataError(f"--preview: {preview} cannot be written ({error.strerror or error}); choose another file") from None
    return _told(unique, cuts)


def _told(records: Sequence[Record], cuts: Sequence[Cut]) -> dict[str, Any]:
    found = [{"file": record.path.name, "box": list(cut.box), "about": cut.about}
             for record, cut in zip(records, cuts, strict=True)]
    return {"pictures": len(cuts), **{about: sum(cut.about == about for cut in cuts) for about in _COLOURS}, "files": found}


def _framed(image: Image.Image, cut: Cut) -> Image.Image:
    scale = SHOWN / max(image.size)
    small = image.resize(tuple(max(1, round(side * scale)) for side in image.size))
    box = [round(value * scale) for value in cut.box]
    ImageDraw.Draw(small).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=_COLOURS[cut.about], width=2)
    return small


def _sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    rows = -(-len(pictures) // SHEET_WIDTH)
    sheet = Image.new("RGB", (SHOWN * min(SHEET_WIDTH, len(pictures)), SHOWN * rows), "black")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (SHOWN * (index % SHEET_WIDTH), SHOWN * (index // SHEET_WIDTH)))
    return sheet
