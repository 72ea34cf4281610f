"""What a weights file says about itself, read from its header alone: nothing is loaded, and nothing is ever unpickled.

A safetensors file is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, and the data.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spf.errors import ModelNotFound

MAX_HEADER = 16 << 20  # bytes; that of Stable Diffusion 3.5 with all its text encoders takes 0.3 MB
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
         "F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F32", "F16", "BF16")  # what models are loaded from
_OTHERS = (b"PK\x03\x04", b"PK\x05\x06", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)), b"Rar!", b"\x1f\x8b",
           b"7z\xbc\xaf", b"GGUF")


@dataclass(frozen=True)
class TensorFacts:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Of one safetensors file."""

    path: Path
    tensors: dict[str, TensorFacts]
    metadata: dict[str, str]

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors whose names begin with `prefix`, by the rest of the name."""
        return {name[len(prefix):]: facts.shape for name, facts in self.tensors.items() if name.startswith(prefix)}


def read_header(path: Path) -> Header:
    """The checked header. Raises ModelNotFound in words for anything that is not a whole, honest safetensors file."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(9)
            _refuse_other_formats(path, start, size)
            length = struct.unpack("<Q", start[:8])[0]
            if length > min(size - 8, MAX_HEADER):
                raise _damaged(path, "its header is longer than the file" if length > size - 8 else "its header is too long")
            if length < 2:
                raise _damaged(path, "its header is empty")
            raw = start[8:] + file.read(length - 1)
    except OSError as error:
        raise ModelNotFound(f"model: {path} cannot be read ({error.strerror or error}); check the path.") from None
    entries = _parse(path, raw)
    metadata = entries.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise _damaged(path, "its metadata are not texts")
    return Header(path, _checked(path, entries, size - 8 - length), metadata)


def _refuse_other_formats(path: Path, start: bytes, size: int) -> None:
    if start.startswith(_OTHERS) and start[8:] != b"{":  # a header may well be 640 = 0x0280 bytes long
        raise ModelNotFound(
            f"model: {path} is not a safetensors file, whatever its name says: it is a pickle or an archive, "
            "and those can run code when they are read; get the .safetensors version.")
    if size < 8 + 2:
        raise _damaged(path, "it is empty or cut off")


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _damaged(path, "its header cannot be read; it may not be a safetensors file at all") from None
    if not isinstance(entries, dict):
        raise _damaged(path, "its header is not a table of tensors")
    return entries


def _checked(path: Path, entries: dict[str, Any], available: int) -> dict[str, TensorFacts]:
    """The tensors, if they fill the rest of the file one after the other, each with as many bytes as its shape says."""
    found, spans = {}, []
    for name, entry in entries.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            honest = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and len(shape) <= 8
            honest = honest and end - begin == math.prod(shape) * BYTES[dtype]
        except (TypeError, KeyError, ValueError):
            honest = False
        if not honest:
            raise _damaged(path, f"its tensor '{name[:80]}' is described wrongly")
        found[name] = TensorFacts(dtype, shape)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _damaged(path, "its tensors overlap or leave gaps")
        position = end
    if position != available:
        raise _damaged(path, f"it is cut off or has other bytes at its end ({available:,} of {position:,} bytes of weights)")
    return found


def _damaged(path: Path, reason: str) -> ModelNotFound:
    return ModelNotFound(f"model: {path} is damaged ({reason}); restore the file or download it again.")


def file_stamp(path: Path) -> tuple[int, int]:
    """(mtime in ns, size): changes when a file is written anew. Raises OSError."""
    facts = os.stat(path)
    return facts.st_mtime_ns, facts.st_size
