"""Pictures from disk: refused early if they are not what they should be, then upright, cropped, plain RGB.

Everything that decodes a file of unknown origin goes through `_opened`: three formats, and limits that are read from
the header before a pixel is allocated.
"""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from spf.config import Crop
from spf.data.likeness import Likeness, likeness_of
from spf.data.problems import shown
from spf.errors import DataError

Shape = tuple[int, int]  # (width, height) in pixels
SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",)}
MAX_PIXELS = 64 * 10**6
MAX_BYTES = 100 * 10**6
MINIMUM_SIZE = 64  # pixels of the shorter side
PORTRAIT_TOP = 0.15  # of the height that a "portrait" crop leaves out, the share that it leaves out at the top

_LYING = (5, 6, 7, 8)  # EXIF orientations that stand on a side

_TOO_LARGE = f"is larger than {MAX_PIXELS // 10**6} megapixels; scale it down"
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
_OTHER_SIGNATURES = {
    b"GIF8": "a GIF", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"%PDF": "a PDF", b"<svg": "an SVG", b"<?xml": "an SVG"}

# Pillow warns above 89 megapixels; the limit here is lower, and an error
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadPicture(DataError):
    """One picture cannot be used. `kind` is a stable word, `reason` the sentence without the file's name."""

    def __init__(self, name: str, kind: str, reason: str):
        super().__init__(f"{shown(name, 200)}: {reason}")
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True)
class Facts:
    """What `inspect_picture` found out."""

    format: str  # a key of SUFFIXES
    size: tuple[int, int]  # (width, height) in pixels, as stored
    upright: tuple[int, int]  # the same, as shown
    digest: bytes  # SHA-256 of the file
    likeness: Likeness  # for finding pictures that look alike
    frames: int = 1  # of an animation; only the first is ever used


def inspect_picture(path: Path, minimum_size: int = MINIMUM_SIZE) -> Facts:
    """Decode a picture to see that it can be, by the way that `load_picture` takes. Raises BadPicture."""
    with _opened(path) as image:
        size, upright = image.size, _upright_size(image)
        refuse_small(image, path.name, minimum_size)
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a JPEG with a preview
        image.draft(None, (2 * minimum_size, 2 * minimum_size))
        seen = likeness_of(_plain(image))
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        return Facts("JPEG" if image.format == "MPO" else str(image.format), size, upright, digest, seen, frames)


def load_picture(path: Path, size: int | Shape, crop: Crop = "center") -> Image.Image:
    """A picture as RGB of `size`: the side of a square, or (width, height). Raises BadPicture naming the file.

    Turned upright by its EXIF orientation, cropped, transparency laid over white, resized with Lanczos.
    """
    shape = (size, size) if isinstance(size, int) else size
    with _opened(path) as image:
        image.draft(None, (2 * max(shape), 2 * max(shape)))  # JPEG only: decodes at 1/2, 1/4 or 1/8, never below this
        image = _plain(image)
        return _resized(image, shape, crop_box(image.size, crop, shape))


def upright_size(path: Path) -> Shape:
    """(width, height) of a picture as it is shown, from its header alone. Raises BadPicture."""
    with _opened(path) as image:
        return _upright_size(image)


def load_whole(path: Path, shortest_side: int, minimum_size: int = MINIMUM_SIZE) -> Image.Image:
    """A picture as upright RGB, uncropped, its shorter side at most `shortest_side`. Raises BadPicture."""
    with _opened(path) as image:
        refuse_small(image, path.name, minimum_size)
        image.draft(None, (shortest_side, shortest_side))
        return shrink(image, shortest_side)


def shrink(image: Image.Image, shortest_side: int) -> Image.Image:
    """Upright RGB of a picture in any mode, scaled down so that its shorter side is at most `shortest_side`."""
    image = _plain(image)
    scale = min(1.0, shortest_side / min(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return _resized(image, (width, height), (0, 0, *image.size))


def crop_box(size: Shape, crop: Crop = "center", shape: Shape = (1, 1)) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the part that is used of an upright picture of (width, height) pixels.

    It has the proportions of `shape` and is as large as fits. "center" leaves as much on one side as on the other.
    "portrait" leaves, of what must go above and below, PORTRAIT_TOP at the top and the rest below: in an upright portrait
    the head is above the middle. No face is looked for; this project ships no detector, and guessing one from skin
    colour fails on people.
    """
    width, height = size
    scale = min(width / shape[0], height / shape[1])
    used = min(width, max(1, round(scale * shape[0]))), min(height, max(1, round(scale * shape[1])))
    left = (width - used[0]) // 2
    top = int((height - used[1]) * (PORTRAIT_TOP if crop == "portrait" else 0.5))
    return left, top, left + used[0], top + used[1]


def to_array(image: Image.Image) -> np.ndarray:
    """RGB picture -> (3, H, W) float32 in [-1, 1], as `Backbone.encode_images` takes it."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)  # (H, W, 3)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / 127.5 - 1.0


def refuse_small(image: Image.Image, name: str, minimum_size: int) -> None:
    """Raises BadPicture if the shorter side is below `minimum_size` pixels."""
    if min(image.size) < minimum_size:
        width, height = image.size
        raise BadPicture(name, "too-small", f"is {width}x{height} pixels; use {minimum_size}x{minimum_size} or more")


def refuse_huge(size: tuple[int, int], name: str) -> None:
    """Raises BadPicture above MAX_PIXELS."""
    if size[0] * size[1] > MAX_PIXELS:
        raise BadPicture(name, "too-large", _TOO_LARGE)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose header is acceptable, not yet decoded. Whatever goes wrong inside the block is a BadPicture."""
    with _regular_file(path) as stream:
        start = stream.read(16)
        try:
            with Image.open(stream, formats=list(SUFFIXES)) as image:
                refuse_huge(image.size, path.name)
                yield image
        except BadPicture:
            raise
        except UnidentifiedImageError as error:
            raise _unidentified(path.name, start) from error
        except Image.DecompressionBombError as error:
            raise BadPicture(path.name, "too-large", _TOO_LARGE) from error
        except Exception as error:  # on hostile files Pillow raises OSError, SyntaxError, struct.error, zlib.error, ...
            reason = f"is damaged or cut off ({shown(str(error)) or type(error).__name__}); replace it"
            raise BadPicture(path.name, "corrupt", reason) from error


def _regular_file(path: Path) -> BinaryIO:
    """Open for reading; a pipe, which would block, and files over MAX_BYTES are refused by BadPicture."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadPicture(path.name, "missing-file", "is not a file; name a picture")
        if status.st_size == 0:
            raise BadPicture(path.name, "corrupt", "is empty (0 bytes); replace it")
        if status.st_size > MAX_BYTES:
            reason = f"holds {status.st_size // 10**6:,} MB, the limit is {MAX_BYTES // 10**6}; save it smaller"
            raise BadPicture(path.name, "too-large", reason)
        return path.open("rb")
    except FileNotFoundError:
        raise BadPicture(path.name, "missing-file", "does not exist; add it or correct its name") from None
    except (OSError, ValueError) as error:
        reason = shown(getattr(error, "strerror", None) or str(error))
        raise BadPicture(path.name, "unreadable", f"cannot be read ({reason})") from error


def _unidentified(name: str, start: bytes) -> BadPicture:
    if start.startswith(_SIGNATURES):
        return BadPicture(name, "corrupt", "is damaged or cut off; replace it")
    found = next((words for signature, words in _OTHER_SIGNATURES.items() if start.startswith(signature)), None)
    if start[4:8] == b"ftyp":
        found = "a HEIC or AVIF picture"
    reason = f"is {found}" if found else "is not a picture"
    return BadPicture(name, "not-a-picture", f"{reason}; only PNG, JPEG and WebP are read, save it as one of them")


def _plain(image: Image.Image) -> Image.Image:
    """Decode; upright, in mode RGB, or RGBA if something of it is transparent. The same object if nothing is to do."""
    image.load()
    image = _upright(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow's own conversion would clip at 255
        grey = np.clip(np.asarray(image), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _upright_size(image: Image.Image) -> Shape:
    try:
        lies = image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
    except Exception:  # as in `_upright`
        lies = False
    return (image.height, image.width) if lies else image.size


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # broken EXIF raises as many kinds of error, and the picture is fine without it
        return image


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """RGB of the given size; white shows through after resizing, which Pillow does on premultiplied colour."""
    image = image.resize(size, Image.Resampling.LANCZOS, box=box)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", size, "white"), image)
    image = image.convert("RGB")
    image.info.clear()  # EXIF, colour profile, comments: whoever saves this must not pass them on
    return image
