"""What an export is asked for, and whether it can be had. Needs no torch, so that a wrong wish is refused at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from spf.errors import InvalidInput
from spf.files import probe

FORMATS = ("diffusers", "single-file", "delta", "lora")
LORA_FORMATS = ("kohya", "diffusers")
DTYPES = ("fp32", "fp16", "bf16")
MAX_RANK = 1024


@dataclass(frozen=True)
class Export:
    """What was asked for."""

    name: str
    format: str
    out: Path
    rank: int = 16
    lora_format: str = "kohya"
    dtype: str | None = None  # of the written weights; that of the model if left out
    force: bool = False

    def __post_init__(self) -> None:
        for field, value, choices in (("--format", self.format, FORMATS), ("--lora-format", self.lora_format, LORA_FORMATS),
                                      ("--dtype", self.dtype or "fp32", DTYPES)):
            if value not in choices:
                raise InvalidInput(field, f"'{value}' is not known; choose one of {', '.join(choices)}")
        if not 1 <= self.rank <= MAX_RANK:
            raise InvalidInput("--rank", f"must lie between 1 and {MAX_RANK} (got {self.rank})")
        self._check_place()

    def _check_place(self) -> None:
        if self.format != "diffusers" and self.out.suffix != ".safetensors":
            raise InvalidInput("--out", f"{self.out} must end in .safetensors for this format")
        try:
            probe(self.out)
        except OSError as error:
            raise unwritable(self.out, error) from None
        if os.path.lexists(self.out) and not self.force:
            raise InvalidInput("--out", f"{self.out} exists; choose another name, or replace it with --force")
        if os.path.lexists(self.out) and self.out.is_dir() != (self.format == "diffusers"):
            raise InvalidInput("--out", f"{self.out} is {'a folder' if self.out.is_dir() else 'a file'}; choose another name")
        if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / "model_index.json").is_file():
            raise InvalidInput("--out", f"{self.out} holds other files and is never replaced; choose another name")


def unwritable(out: Path, error: OSError) -> InvalidInput:
    return InvalidInput("--out", f"{out} cannot be written ({error.strerror or error}); choose another place")
