"""Import: a customization from a folder, a zip of one, or an exported delta. Checked whole before it is listed.

Nothing of an archive is written under a name of its own: only the two files that a customization consists of are read.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import ValidationError

from spf.backbones import source
from spf.backbones.headers import Header, read_header
from spf.config import ModelPreset, home, model_preset, model_presets, parse
from spf.errors import CustomizationError, InvalidInput, ModelNotFound, SpfError
from spf.export.metadata import card_of
from spf.export.workplace import working_folder
from spf.library import CARD, MAX_CARD, WEIGHTS, Customization, CustomizationCard, customizations, parse_card, read_card

MAX_ENTRIES = 100  # of an archive; a customization has two
_PIECE = 1 << 20


def import_customization(path: Path, name: str | None = None, force: bool = False) -> Customization:
    """Bring in a customization, called `name` or as it calls itself.

    Raises CustomizationError if it is damaged, hostile or of a model that is not here, and InvalidInput if the name is
    taken and `force` is not given; nothing is then left behind.
    """
    path = Path(path)
    if not (path.is_file() or path.is_dir()):  # a device has no end
        raise InvalidInput("path", f"{path} does not exist; give a customization's folder, zip or delta file")
    try:
        with working_folder() as folder:
            card = _gather(path, folder, name)
            if card.name in customizations() and not force:
                raise InvalidInput("name", f"'{card.name}' exists; import it under another --name, or replace it with --force")
            preset = _model_of(card)
            header = _header(folder / WEIGHTS)
            from spf.backbones import checkpoints  # torch and diffusers: most of what is refused was refused without them
            from spf.export.fitting import tensors_of

            tensors = tensors_of(header, preset)
            return checkpoints.save_customization(card.model_copy(update={"model": preset.name}), tensors)
    except OSError as error:
        raise CustomizationError(f"customization: {home()} cannot be written ({error.strerror or error}); free some space, or "
                                 "let SPF_HOME name a folder that can be written.") from None


def _gather(path: Path, folder: Path, name: str | None) -> CustomizationCard:
    """Bring card and weights together in `folder`; returns the card."""
    if path.is_dir():
        (folder / WEIGHTS).symlink_to((path / WEIGHTS).resolve())
        card = _card_of(path, lambda: read_card(path / CARD))
    elif zipfile.is_zipfile(path):
        card = _card_of(path, lambda: parse_card(_unpack(path, folder)))
    else:
        (folder / WEIGHTS).symlink_to(path.resolve())
        card = _delta_card(_header(path))
    return parse(CustomizationCard, card.model_dump() | ({"name": name} if name else {}))


def _card_of(path: Path, read: Callable[[], CustomizationCard]) -> CustomizationCard:
    try:
        return read()
    except OSError:
        raise CustomizationError(f"customization: {path / CARD} does not exist or cannot be read; export it again.") from None
    except ValueError:
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
