"""Where a model's files are, whether all are there, and which model it is. Needs no torch and goes to no network.

A model is a diffusers folder, a single .safetensors file in an original layout, or a hub id, which is a folder of the
local cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from spf.backbones.digests import sha256
from spf.backbones.headers import Header, read_header
from spf.backbones.layouts import (
    CLIP_G_PREFIX,
    CLIP_L_PREFIX,
    DENOISER,
    MAX_CONFIG,
    Family,
    family_of_file,
    family_of_folder,
    read_config,
)
from spf.config import CONFIGS, REPOSITORY, ModelPreset, home, model_preset, model_presets, parse
from spf.errors import CustomizationError, InvalidInput, ModelNotFound, SpfError
from spf.library import CARD, Customization, named, read_card

ARCHITECTURES = REPOSITORY / "configs" / "architectures"
PUBLISHED = {"unet": ARCHITECTURES / "sd15", "mmdit": ARCHITECTURES / "sd35-medium"}  # what single files hold
_PARTS = {
    "unet": ("tokenizer", "text_encoder", "unet", "vae", "scheduler"),
    "mmdit": ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "transformer", "vae", "scheduler"),
}
_OPTIONAL = {"unet": (), "mmdit": ("tokenizer_3", "text_encoder_3")}
PUBLISHED_CLIP = "ViT-L-14:openai"  # the CLIP whose text encoder Stable Diffusion reads with
_PUBLISHED_DTYPE = {"unet": "fp32", "mmdit": "bf16"}  # what the project's presets of the published models hold them in
_TINY_VAE = {"unet": "madebyollin/taesd", "mmdit": "madebyollin/taesd3"}  # for the latents of the published models
HUB_ANSWERS_WITHIN = 1.25  # seconds
_PLACES = "give a diffusers folder, a .safetensors file or a hub id"
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")  # how files of weights end, also those that are refused
_SEPARATE_ENCODERS = ("clip_l.safetensors", "clip_g.safetensors")  # beside Stable Diffusion 3.5's single file


def require_model(preset: ModelPreset) -> Path:
    """The folder or file of a preset, when every file of it is there and of the preset's family.

    Raises ModelNotFound naming the file and the remedy.
    """
    path = locate(preset)
    if path.is_file():
        header = read_header(path)
        _require_family(preset, family_of_file(header), path)
        _require_text_encoders(preset, header)
        return path
    if (missing := missing_file(preset, path)) is not None:
        raise ModelNotFound(f"model: {missing} does not exist; {_remedy(preset, missing)}.")
    _require_family(preset, family_of_folder(path), path)
    _require_honest_files(preset, path)
    return path


def _require_honest_files(preset: ModelPreset, folder: Path) -> None:
    """Raises ModelNotFound for weights that are none, judged by their headers, and texts that nobody should read whole."""
    for part in parts(folder):
        for path in sorted((folder / part).iterdir()):
            if path.suffix in (".json", ".txt", ".model") and path.stat().st_size > MAX_CONFIG:
                raise ModelNotFound(
                    f"model: a file is damaged ({path} is longer than {MAX_CONFIG >> 20} MB); restore the folder.")
        if not part.startswith(("tokenizer", "scheduler")) and not (part == "vae" and preset.vae):
            for path in weight_files(folder / part, preset.variant):
                read_header(path)


def _require_family(preset: ModelPreset, family: Family, path: Path) -> None:
    if family != preset.family:
        names = {"unet": "a Stable Diffusion 1.x model (family unet)", "mmdit": "a Stable Diffusion 3 model (family mmdit)"}
        raise ModelNotFound(f"model: {path} is {names[family]} and preset '{preset.name}' says {preset.family}; "
                            "choose the preset of that family.")


def _require_text_encoders(preset: ModelPreset, header: Header) -> None:
    if preset.family == "mmdit":
        separate_encoders(header)


def separate_encoders(header: Header) -> dict[str, Path]:
    """The text encoder files that belong to a Stable Diffusion 3 file without them, by the prefix they stand for.

    Empty if the file holds them itself. Raises ModelNotFound naming the missing file and where to put it.
    """
    found = {}
    for prefix, name in zip((CLIP_L_PREFIX, CLIP_G_PREFIX), _SEPARATE_ENCODERS, strict=True):
        if header.shapes(prefix):
            continue
        places = [header.path.parent / name, header.path.parent / "text_encoders" / name]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ModelNotFound(f"model: {header.path} holds no text encoders and {places[1]} does not exist; put "
                                f"{' and '.join(_SEPARATE_ENCODERS)} there, or use a diffusers folder.")
        found[prefix] = path
    return found


def locate(preset: ModelPreset) -> Path:
    """Folder or file of a preset; for a hub id, of the local cache. Raises ModelNotFound if it is not there."""
    text = preset.pretrained_model_name_or_path
    if is_hub_id(text):
        return _cached_snapshot(preset, text)
    path = REPOSITORY / Path(text).expanduser()
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ModelNotFound(f"model: {path} is neither a file nor a folder; {_PLACES}.")
    if not path.exists():
        raise ModelNotFound(f"model: {path} does not exist; {_remedy(preset, path)}.")
    return path


def is_hub_id(text: str) -> bool:
    """'owner/name', unless the repository or the disk has a folder of that name."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text)) and not (REPOSITORY / text.split("/")[0]).exists()


def is_downloaded(preset: ModelPreset) -> bool:
    """Whether the local cache holds anything of a hub id's model."""
    try:
        return locate(preset).is_dir()
    except ModelNotFound:
        return False


def _cached_snapshot(preset: ModelPreset, repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        # None of its files need be there for this: it counts all that the repository has, of which a download wants a part.
        # Which ones are missing, `missing_file` says by name.
        return Path(snapshot_download(repo_id, allow_patterns=[], local_files_only=True))
    except (OSError, HFValidationError):
        raise ModelNotFound(
            f"model: '{repo_id}' is not on this computer; get it with 'python -m spf download {_called(preset, repo_id)}', "
            "or choose another model.") from None


def _called(preset: ModelPreset, repo_id: str) -> str:
    """What `download` knows a hub id's model by: one that is not the user's own so far has no name yet."""
    return preset.name if preset.name in model_presets() else repo_id


def tiny_vae_folder(preset: ModelPreset) -> Path | None:
    """Where the tiny autoencoder for a model's latents is; None if it is a hub id that this computer does not have.

    Raises ModelNotFound for a folder that is named and not there.
    """
    text = preset.tiny_vae or _TINY_VAE[preset.family]
    if is_hub_id(text):
        try:
            return _cached_snapshot(preset, text)
        except ModelNotFound:
            return None
    path = REPOSITORY / Path(text).expanduser()
    if not (path / "config.json").is_file():
        raise ModelNotFound(f"tiny_vae: {path} does not exist or holds no config.json; correct it or leave it out.")
    return path


def missing_file(preset: ModelPreset, folder: Path) -> Path | None:
    """The first file of a diffusers folder that is not there; without it transformers would quietly build an empty
    tokenizer and diffusers random weights. Raises ModelNotFound if there is only a pickle in its place."""
    for part in parts(folder):
        for path in _files_of(folder / part, preset.variant if part not in ("tokenizer", "scheduler") else None):
            if not path.is_file():
                return path
    return None


def parts(folder: Path) -> tuple[str, ...]:
    """The components that a diffusers folder must hold, and those that it says it has."""
    family: Family = "mmdit" if (folder / "transformer").is_dir() else "unet"
    listed = read_config(folder / "model_index.json") if (folder / "model_index.json").is_file() else None

    def has(part: str) -> bool:
        if listed is None:
            return (folder / part).is_dir()
        kind = listed.get(part)  # [library, class], or [null, null]
        return isinstance(kind, list) and any(name is not None for name in kind)

    return (*_PARTS[family], *(part for part in _OPTIONAL[family] if has(part)))


def _files_of(folder: Path, variant: str | None) -> tuple[Path, ...]:
    name = folder.name
    if name.startswith("tokenizer"):
        both = (folder / "vocab.json", folder / "merges.txt")
        return both if all(path.is_file() for path in both) else (folder / "tokenizer.json",)
    if name == "scheduler":
        return (folder / "scheduler_config.json",)
    return folder / "config.json", *weight_files(folder, variant)


def weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The safetensors files of one component, by diffusers' naming: one file, or the shards that its index lists.

    Raises ModelNotFound if there are only pickles, or the index is damaged.
    """
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    dotted = f".{variant}" if variant else ""
    whole, index = folder / f"{stem}{dotted}.safetensors", folder / f"{stem}.safetensors.index{dotted}.json"
    if not whole.is_file() and index.is_file():
        shards = read_config(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) and Path(name).name == name for name in shards.values()):
            raise ModelNotFound(f"model: a file is damaged ({index} lists no shards); restore the folder.")
        return tuple(folder / name for name in sorted(set(shards.values())))
    if not whole.is_file() and not variant and list(folder.glob("*.bin")):
        raise ModelNotFound(f"model: {folder} holds its weights only as a pickle (.bin), which can run code when it is read; "
                            f"get {whole.name}.")
    return (whole,)


def _remedy(preset: ModelPreset, missing: Path) -> str:
    """What to do about a file that is not there."""
    if preset.variant and f".{preset.variant}." in missing.name:
        return f"the model has no variant '{preset.variant}'; leave 'variant' out of the preset or get that version"
    if is_hub_id(repo_id := preset.pretrained_model_name_or_path):  # a download that was broken off goes on where it stopped
        return f"get the rest with 'python -m spf download {_called(preset, repo_id)}'"
    if (CONFIGS / "pretrain" / f"{preset.name}.yaml").is_file():
        return f"restore it, or train the model with 'python -m spf pretrain {preset.name}'"
    return "restore it or choose another model"


def denoiser_hash(preset: ModelPreset) -> str:
    """SHA-256 of the files that hold the pretrained denoiser: the identity of the model a customization belongs to."""
    path = locate(preset)
    files = (path,) if path.is_file() else weight_files(path / DENOISER[preset.family], preset.variant)
    try:
        digests = [sha256(file) for file in files]
    except OSError:
        missing = next(file for file in files if not file.is_file())
        raise ModelNotFound(f"model: {missing} does not exist; {_remedy(preset, missing)}.") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def customization(name: str, preset: ModelPreset) -> Customization:
    """The customization called `name`, checked to belong to the model. Raises CustomizationError with the remedy."""
    found = named(name)
    if found.card.model_sha256 != denoiser_hash(preset):
        raise CustomizationError(
            f"customization: '{name}' was trained on another model than '{preset.name}' as it is now "
            f"(its card says '{found.card.model}'); choose that model or teach it again.")
    return found


def names_place(text: str) -> bool:
    """Whether a text that stands for a model says where one is: a folder, a file or a hub id, and not the name of a preset."""
    return text not in model_presets() and (bool(set(text) & {"/", "\\"}) or text.lower().endswith(_WEIGHTS))


def register_model(where: str) -> ModelPreset:
    """Make a folder, single file or hub id a model of this user's own: `models/<name>.yaml` in their data folder.

    The same place keeps its name. Raises ModelNotFound if nothing there is a model that runs here; then nothing is written.
    """
    preset = described(where)
    if preset.name not in model_presets():
        _write_preset(preset)
    return preset


def described(where: str) -> ModelPreset:
    """The preset that a folder, single file or hub id has, or would get from `register_model`. Raises as that does."""
    place = where if is_hub_id(where) and not Path(where).expanduser().exists() else str(Path(where).expanduser().resolve())
    for name in model_presets():
        with suppress(InvalidInput):  # a damaged preset stands for no place; asking for it by name says what is wrong
            if (known := model_preset(name)).pretrained_model_name_or_path == place:
                return known
    values = {"name": _free_name(place), "title": place.rsplit("/", 1)[-1], "pretrained_model_name_or_path": place,
              "clip": PUBLISHED_CLIP, "base_text": "a portrait photo of a person, with short hair"}
    preset = parse(ModelPreset, values | {"family": "unet", "resolution": 512})
    path = locate(preset)
    family = family_of_file(read_header(path)) if path.is_file() else _family_of_place(path)
    values |= {"family": family, "resolution": _resolution(path, family)} | _readings(path)
    if (path / "clip" / "open_clip_config.json").is_file():
        values["clip"] = str(path / "clip")
    if _is_published(path, family):
        values["dtype"] = _PUBLISHED_DTYPE[family]
    preset = parse(ModelPreset, values)
    require_model(preset)
    return preset


def _readings(path: Path) -> dict[str, Any]:
    """How an exported model is used: as the one that it was taught on, if that is here."""
    try:
        base = model_preset(read_card(path / CARD).model)
    except (OSError, ValueError, SpfError):  # no export of this app, or of a model that nobody here knows
        return {}
    return {name: getattr(base, name) for name in ("clip", "num_inference_steps", "guidance_scale", "base_text", "method")}


def _family_of_place(folder: Path) -> Family:
    """Of a folder that nobody said to be a model. Raises ModelNotFound if it is none, or one that does not run here."""
    if not any((folder / name).exists() for name in ("model_index.json", *DENOISER.values())):
        if (folder / "config.json").is_file():
            raise ModelNotFound(f"model: {folder} is one component of a diffusers folder; give the folder that holds it.")
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        hint = f"; give the file itself, for example {folder / files[0]}" if files else f"; {_PLACES}"
        raise ModelNotFound(
            f"model: {folder} is no diffusers folder, which holds model_index.json and unet or transformer{hint}.")
    return family_of_folder(folder)


def _free_name(place: str) -> str:
    last = place.rsplit("/", 1)[-1].removesuffix(".safetensors").lower()
    stem = re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._")[:56] or "model"
    taken, number, name = model_presets(), 1, stem
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def _is_published(path: Path, family: Family) -> bool:
    """Whether a model has the architecture of the published one of its family, as every single file must have."""
    if path.is_file():
        return True
    own, published = (read_config(folder / DENOISER[family] / "config.json") for folder in (path, PUBLISHED[family]))
    return all(own[key] == value for key, value in published.items()
               if key in own and not key.startswith("_") and key != "sample_size")


def _resolution(path: Path, family: Family) -> int:
    """Side of the pictures that a denoiser was trained on: its latents are an eighth of them."""
    folder = PUBLISHED[family] if path.is_file() else path
    size = read_config(folder / DENOISER[family] / "config.json").get("sample_size")
    return min(max(8 * size, 64), 2048) if isinstance(size, int) else {"unet": 512, "mmdit": 1024}[family]


def _write_preset(preset: ModelPreset) -> None:
    path = home() / "models" / f"{preset.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".partial")
    staged.write_text(yaml.safe_dump(preset.model_dump(mode="json", exclude_defaults=True), sort_keys=False), encoding="utf-8")
    os.replace(staged, path)


def download(preset: ModelPreset) -> Path:
    """Fetch a hub id's model into the local cache: configurations and safetensors, nothing that can run code.

    Raises ModelNotFound if the hub cannot be reached or has no such model, or what came is no model that runs here.
    """
    repo_id = preset.pretrained_model_name_or_path
    if not is_hub_id(repo_id):
        raise ModelNotFound(f"model: '{preset.name}' is not on the hub but in {repo_id}; there is nothing to download.")
    _fetch(repo_id, preset.variant)
    return require_model(preset)


def download_hub_id(repo_id: str) -> ModelPreset:
    """Fetch a model that no preset names, and make it one of this user's own. Raises what `download` raises."""
    _fetch(repo_id, None)
    return register_model(repo_id)


def _fetch(repo_id: str, variant: str | None) -> None:
    from huggingface_hub import HfApi, snapshot_download

    try:
        HfApi().model_info(repo_id, timeout=_patience())  # snapshot_download asks the same, and waits for ever
        snapshot_download(repo_id, allow_patterns=wanted_files(variant))
    except Exception as error:  # the hub's client has many of its own, and those of the library that it speaks HTTP with
        reason = (str(error) or type(error).__name__).strip().split("\n")[0][:160]
        raise ModelNotFound(f"model: '{repo_id}' cannot be downloaded ({reason}); check the connection, and whether its licence "
                            "must be accepted; if the connection is slow, set HF_HUB_ETAG_TIMEOUT=30.") from None


def _patience() -> float:
    """Seconds that the hub has to answer before anything is fetched; the hub's own variable sets another time."""
    try:
        return max(float(os.environ["HF_HUB_ETAG_TIMEOUT"]), 0.1)
    except (KeyError, ValueError):
        return HUB_ANSWERS_WITHIN


def wanted_files(variant: str | None) -> list[str]:
    """Patterns of the files that `download` fetches: settings, vocabularies, and weights of one variant, whole or in shards."""
    parts = sorted({part for family in _PARTS for part in (*_PARTS[family], *_OPTIONAL[family])})
    stem = f"*model.{variant}" if variant else "*model"
    ends = ("*.json", "*.txt", "*.model", f"{stem}.safetensors", f"{stem}-*.safetensors")
    return ["model_index.json", *(f"{part}/{end}" for part in parts for end in ends)]
