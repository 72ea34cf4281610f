"""Whether the parts of a model belong together: each may be whole by itself, and still be another model's."""

from __future__ import annotations

from pathlib import Path

from spf.backbones.layouts import DENOISER, Family, read_config
from spf.errors import ModelNotFound


def require_texts(folder: Path, family: Family) -> None:
    """Raises ModelNotFound if the text encoders in a folder of components are not those that its denoiser listens to."""
    denoiser = read_config(folder / DENOISER[family] / "config.json")
    if family == "unet":
        pairs = [("text_encoder", _number(folder, "text_encoder", "hidden_size"), denoiser.get("cross_attention_dim"))]
    else:
        towers = [_number(folder, part, "projection_dim") for part in ("text_encoder", "text_encoder_2")]
        both = None if None in towers else sum(towers)
        pairs = [("text_encoder and text_encoder_2", both, denoiser.get("pooled_projection_dim")),
                 ("text_encoder_3", _number(folder, "text_encoder_3", "d_model"), denoiser.get("joint_attention_dim"))]
    for part, given, taken in pairs:
        if _differ(given, taken):
            raise ModelNotFound(
                f"model: the parts of {folder} are of different models: {DENOISER[family]} takes {taken:,} channels from {part} "
                f"and gets {given:,}; restore the folder.")


def require_latents(folder: Path, family: Family, vae: Path) -> None:
    """Raises ModelNotFound if the autoencoder in folder `vae` makes other latents than the denoiser in `folder` draws."""
    drawn = read_config(folder / DENOISER[family] / "config.json").get("in_channels")
    made = read_config(vae / "config.json").get("latent_channels")
    if _differ(made, drawn):
        raise ModelNotFound(f"vae: {vae} is of another kind of model: its latents have {made:,} channels where "
                            f"{folder / DENOISER[family]} draws {drawn:,}; name an autoencoder of this family.")


def _number(folder: Path, part: str, key: str) -> int | None:
    path = folder / part / "config.json"
    value = read_config(path).get(key) if path.is_file() else None
    return value if isinstance(value, int) else None


def _differ(given: object, taken: object) -> bool:
    """Only numbers do: old configurations leave out what was the default."""
    return isinstance(given, int) and isinstance(taken, int) and given != taken
