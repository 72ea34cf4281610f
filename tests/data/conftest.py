import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """picture(seed, size): noise, so that no two are the same and JPEG files are not tiny."""

    def make(seed: int = 0, size: tuple[int, int] = (96, 80)) -> Image.Image:
        width, height = size
        return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))

    return make


@pytest.fixture
def picture_set(tmp_path: Path, picture) -> Callable[..., Path]:
    """picture_set(count): a good folder; further rows are appended as they are given, dicts or raw lines."""

    def make(*extra: dict | str | bytes, count: int = 8, folder: str = "set") -> Path:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        lines: list[bytes] = []
        for index in range(count):
            picture(index).save(root / f"{index}.png")
            row = {"file_name": f"{index}.png", "base_text": f"a person, scene {index}", "target_text": "a winter hat"}
            lines.append(json.dumps(row).encode())
        for line in extra:
            line = json.dumps(line) if isinstance(line, dict) else line
            lines.append(line.encode() if isinstance(line, str) else line)
        (root / "metadata.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        return root

    return make


@pytest.fixture
def row() -> Callable[..., dict]:
    """row(file_name, key=value): a good row but for what is given."""

    def make(file_name: object = "x.png", **changes: object) -> dict:
        return {"file_name": file_name, "base_text": "a person, at sea", "target_text": "a winter hat", **changes}

    return make


@pytest.fixture
def png() -> Callable[..., bytes]:
    """png(width, height): a well-formed header with any size, then `chunks`, and hardly any pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    def make(width: int, height: int, *chunks: tuple[bytes, bytes], color: int = 2) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
        parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)

    return make
