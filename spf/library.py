"""What this user has: customizations and models of their own. Needs no torch, so that a listing is there at once."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import StringConstraints, ValidationError

from spf.config import MAX_TEXT, REPOSITORY, MethodConfig, Name, Schema, home, parse
from spf.errors import CustomizationError, InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = REPOSITORY / "assets" / "customizations"
WEIGHTS, CARD = "weights.safetensors", "customization.json"
TRASH = ".trash"  # beside the customizations
MAX_CARD = 1 << 20  # bytes
MAX_PHRASES = 100  # that training writes on a card: of the longest texts, still within MAX_CARD


class CustomizationCard(Schema):
    """`customization.json`: what a customization is, and which model it changes."""

    name: Name
    model: Name
    model_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    phrases: tuple[Annotated[str, StringConstraints(max_length=MAX_TEXT)], ...]
    stage: Annotated[str, StringConstraints(max_length=16)]
    created: Annotated[str, StringConstraints(max_length=64)]
    method: MethodConfig = MethodConfig()  # as trained; its maps are drawn by the same readings
    summary: dict[str, str | int | float] = {}


@dataclass(frozen=True)
class Customization:
    card: CustomizationCard
    folder: Path

    @property
    def shipped(self) -> bool:
        return self.folder.parent == SHIPPED

    @property
    def version(self) -> int:
        """Changes when the weights are written anew. Raises CustomizationError if there are none."""
        path = self.folder / WEIGHTS
        try:
            return path.stat().st_mtime_ns
        except OSError:
            raise CustomizationError(f"customization: {path} does not exist; teach it again or restore the file.") from None

    def tensors(self) -> dict[str, Tensor]:
        """The changed tensors of the denoiser, float32. Raises CustomizationError if the file is damaged."""
        import torch  # only from here on
        from safetensors import SafetensorError, safe_open

        path = self.folder / WEIGHTS
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise CustomizationError(
                f"customization: {path} cannot be read ({error}); teach it again or restore the file.") from None
        if bad := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
            raise CustomizationError(f"customization: {path} holds values that are not numbers ({bad[0]}); teach it again.")
        return tensors


def customizations() -> dict[str, Customization]:
    """All readable customizations by name; the user's own come before shipped ones of the same name."""
    found: dict[str, Customization] = {}
    for root in (home() / "customizations", SHIPPED):
        for path in sorted(root.glob(f"*/{CARD}")):
            if path.parent.name.startswith("."):
                continue  # being written, or just replaced
            try:
                card = read_card(path)
            except (ValueError, OSError):
                continue  # listed nowhere; asking for it by name says what is wrong
            found.setdefault(card.name, Customization(card, path.parent))
    return found


def named(name: str) -> Customization:
    """The customization called `name`. Raises CustomizationError naming those that there are."""
    known = customizations()
    if name not in known:
        choices = ", ".join(known) or "none yet: teach one first"
        raise CustomizationError(f"customization: '{name}' does not exist or cannot be read; choose one of: {choices}.")
    return known[name]


def read_card(path: Path) -> CustomizationCard:
    """A card from its file, of which no more is read than a card is long. Raises OSError, or ValueError if it is damaged."""
    with open(path, "rb") as file:
        return parse_card(file.read(MAX_CARD + 1))


def parse_card(raw: bytes) -> CustomizationCard:
    """A card from the bytes of its file. Raises ValueError if they are none."""
    if len(raw) > MAX_CARD:
        raise ValueError(f"longer than {MAX_CARD} bytes")
    try:
        return CustomizationCard(**json.loads(raw.decode("utf-8")))
    except (TypeError, ValidationError, RecursionError) as error:
        raise ValueError(str(error)) from None


def rename(name: str, wish: str) -> Customization:
    """Give a customization of the user's another name. Raises CustomizationError, or InvalidInput if the name cannot be had."""
    found = _own(name)
    card = parse(CustomizationCard, found.card.model_dump() | {"name": wish})
    if wish in customizations():
        raise InvalidInput("name", f"'{wish}' exists already; choose another name")
    target = found.folder.with_name(wish)
    if os.path.lexists(target):  # a damaged one, which is listed nowhere
        raise InvalidInput("name", f"'{wish}' is a folder already ({target}); choose another name")
    staged = found.folder / f"{CARD}.partial"
    staged.write_text(card.model_dump_json(indent=2), encoding="utf-8")
    os.replace(staged, found.folder / CARD)
    os.replace(found.folder, target)
    return Customization(card, target)


def discard(name: str) -> Path:
    """Put a customization of the user's into the trash; returns where it is now, which `restore` takes."""
    found = _own(name)
    trash = found.folder.parent / TRASH / f"{found.folder.name}-{time.time_ns()}"
    trash.parent.mkdir(exist_ok=True)
    os.replace(found.folder, trash)
    return trash


def restore(trashed: Path) -> str:
    """Undo `discard`; returns the name. Raises CustomizationError if the name was given to another one meanwhile."""
    name = trashed.name.rpartition("-")[0]
    if name in customizations():
        raise CustomizationError(f"customization: '{name}' exists again; rename that one first.")
    try:
        os.replace(trashed, trashed.parent.parent / name)
    except OSError:
        raise CustomizationError(f"customization: '{name}' is not in the trash any more; teach it again.") from None
    return name


def _own(name: str) -> Customization:
    """A customization that may be changed. Raises CustomizationError for an unknown one and for those that are shipped."""
    found = customizations().get(name)
    if found is None:
        raise CustomizationError(f"customization: '{name}' does not exist any more; choose another one.")
    if found.shipped:
        raise CustomizationError(f"customization: '{name}' comes with the app and stays; teach one of your own.")
    return found
