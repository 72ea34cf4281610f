"""Import: a customization from a folder, a zip of one, or an exported delta. Checked whole before it is listed.

Nothing of an archive is written under a name of its own: only the two files that a customization consists of are read.
"""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from spf.backbones import checkpoints, source
from spf.backbones.headers import FLOATS, Header, read_header
from spf.backbones.loading import denoiser_state, load_backbone
from spf.config import ModelPreset, home, model_preset, model_presets, parse
from spf.errors import CustomizationError, InvalidInput, ModelNotFound, SpfError
from spf.export.outgoing import card_of
from spf.library import CARD, WEIGHTS, Customization, CustomizationCard, customizations

MAX_CARD = 1 << 20  # bytes
MAX_ENTRIES = 100  # of an archive; a customization has two
_PIECE = 1 << 20


def import_customization(path: Path, name: str | None = None, force: bool = False) -> Customization:
    """Bring in a customization, called `name` or as it calls itself.

    Raises CustomizationError if it is damaged, hostile or of a model that is not here, and InvalidInput if the name is
    taken and `force` is not given; nothing is then left behind.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidInput("path", f"{path} does not exist; give a customization's folder, zip or delta file")
    with _working_folder() as folder:
        card = _gather(path, folder, name)
        if card.name in customizations() and not force:
            raise InvalidInput("name", f"'{card.name}' exists; import it under another --name, or replace it with --force")
        preset = _model_of(card)
        tensors = _tensors(folder / WEIGHTS, preset)
        return checkpoints.save_customization(card.model_copy(update={"model": preset.name}), tensors)


@contextmanager
def _working_folder() -> Iterator[Path]:
    folder = home() / "customizations" / ".import.partial"
    shutil.rmtree(folder, ignore_errors=True)
    existed = home().exists()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed and not any(folder.parent.iterdir()):
            shutil.rmtree(home())


def _gather(path: Path, folder: Path, name: str | None) -> CustomizationCard:
    """Bring card and weights together in `folder`; returns the card."""
    if path.is_dir():
        (folder / WEIGHTS).symlink_to((path / WEIGHTS).resolve())
        card = _card(_read_small(path / CARD), path)
    elif zipfile.is_zipfile(path):
        card = _card(_unpack(path, folder), path)
    else:
        (folder / WEIGHTS).symlink_to(path.resolve())
        card = _delta_card(_header(path))
    return parse(CustomizationCard, card.model_dump() | ({"name": name} if name else {}))


def _read_small(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_CARD + 1)
    except OSError:
        raise CustomizationError(f"customization: {path} does not exist or cannot be read; export it again.") from None


def _card(raw: bytes, path: Path) -> CustomizationCard:
    try:
        if len(raw) > MAX_CARD:
            raise ValueError
        return CustomizationCard(**json.loads(raw.decode("utf-8")))
    except (ValueError, TypeError, ValidationError, RecursionError):
        raise CustomizationError(f"customization: the {CARD} of {path} is damaged; export it again.") from None


def _delta_card(header: Header) -> CustomizationCard:
    try:
        if header.metadata.get("spf_format") != "delta":
            raise ValueError
        return card_of(header.metadata)
    except (KeyError, ValueError, TypeError, ValidationError, RecursionError):
        raise CustomizationError(f"customization: {header.path} is not a delta exported by this app; give one, or a "
                                 "customization's folder or zip.") from None


def _unpack(path: Path, folder: Path) -> bytes:
    """The weights of an archive into `folder`, and its card. Raises CustomizationError for anything unusual in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            card, weights = _members(archive, path)
            raw = archive.open(card).read(MAX_CARD + 1)
            with archive.open(weights) as packed, open(folder / WEIGHTS, "wb") as file:
                _copy(packed, file, weights.file_size)
            return raw
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CustomizationError(f"customization: {path} is damaged ({str(error)[:100]}); export it again.") from None


def _members(archive: zipfile.ZipFile, path: Path) -> tuple[zipfile.ZipInfo, zipfile.ZipInfo]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    places = [PurePosixPath(entry.filename) for entry in entries]
    odd = len(archive.infolist()) > MAX_ENTRIES or any(
        place.is_absolute() or ".." in place.parts or "\\" in str(place) or ":" in str(place) or
        entry.flag_bits & 1 or stat.S_ISLNK(entry.external_attr >> 16)
        for place, entry in zip(places, entries, strict=True))
    found = {name: [entry for place, entry in zip(places, entries, strict=True)
                    if place.name.lower() == name and len(place.parts) <= 2] for name in (CARD, WEIGHTS)}
    if odd or any(len(matching) != 1 for matching in found.values()):
        raise CustomizationError(f"customization: {path} must hold one {CARD} and one {WEIGHTS}, and no links, passwords or "
                                 "paths that lead out of it.")
    card, weights = found[CARD][0], found[WEIGHTS][0]
    if weights.file_size > 2 * path.stat().st_size + (1 << 20):  # weights hardly shrink; a bomb does
        raise CustomizationError(
            f"customization: {path} would unpack to {weights.file_size / 1e9:.1f} GB; it is not what it says.")
    return card, weights


def _copy(packed: IO[bytes], file: IO[bytes], size: int) -> None:
    """`size` bytes, as the archive's index says; whatever comes beyond is never unpacked."""
    left = size
    while left and (piece := packed.read(min(_PIECE, left))):
        file.write(piece)
        left -= len(piece)


def _model_of(card: CustomizationCard) -> ModelPreset:
    """The model of this computer that a card belongs to, by content."""
    names = sorted(model_presets(), key=lambda name: name != card.model)  # most likely the one it names
    for name in names:
        try:
            preset = model_preset(name)
            if source.denoiser_hash(preset) == card.model_sha256:
                return preset
        except (ModelNotFound, SpfError):
            continue  # not on this computer
    raise CustomizationError(
        f"customization: '{card.name}' belongs to model '{card.model}' with content {card.model_sha256[:12]}..., which is not on "
        "this computer; get that model first.")


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except ModelNotFound as error:
        raise CustomizationError(f"customization: {str(error).removeprefix('model: ')}") from None


def _tensors(path: Path, preset: ModelPreset) -> dict[str, Tensor]:
    """Changed tensors as they are in the customized denoiser. Raises CustomizationError if one does not fit the model."""
    header = _header(path)
    own = denoiser_state(preset)
    for name, facts in header.tensors.items():
        if name not in own or tuple(own[name].shape) != facts.shape or facts.dtype not in FLOATS:
            raise CustomizationError(f"customization: its tensor '{name[:80]}' {facts.shape} {facts.dtype} does not fit "
                                     f"'{preset.name}'; export it again.")
    tensors = {name: value.float() for name, value in load_file(path).items()}
    if bad := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise CustomizationError(
            f"customization: tensor '{bad[0]}' of {path.name} holds values that are not numbers; export it again.")
    if header.metadata.get("spf_format") != "delta":
        return tensors
    base = load_backbone(preset).denoiser.state_dict()
    return {name: base[name].float() + value for name, value in tensors.items()}
