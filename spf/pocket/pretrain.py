"""Trains the embedded models from nothing and writes them as a diffusers folder. Every part resumes where it stopped."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from open_clip import CLIP
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from spf.backbones.checkpoints import home
from spf.config import CONFIGS, REPOSITORY, PretrainConfig, load_yaml, parse
from spf.errors import InvalidInput
from spf.files import replace_folder
from spf.pocket import autoencoder, contrast, denoiser, tokenizer
from spf.pocket.component import Component, fit, progress_of
from spf.pocket.pictures import PictureSet, picture_set

PARTS = ("autoencoder", "clip", "denoiser")


def pretrain(preset: str, parts: tuple[str, ...], minutes: float, device: torch.device) -> bool:
    """Train the parts of a preset (all if none is named) for so long, then write what there is to assets/<preset>.

    Returns whether everything is trained to the end. Raises InvalidInput for an unknown preset or part.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise InvalidInput("--part", f"'{unknown[0]}' is not known; choose from {', '.join(PARTS)}")
    training = Pretraining(pretrain_config(preset), home() / "pretrain" / preset, device, minutes)
    done = training.run(parts or PARTS)
    if training.complete:
        training.export(REPOSITORY / "assets" / preset)
    return done


def pretrain_config(preset: str) -> PretrainConfig:
    """configs/pretrain/<preset>.yaml. Raises InvalidInput naming the presets that exist."""
    presets = {path.stem: path for path in sorted((CONFIGS / "pretrain").glob("*.yaml"))}
    if preset not in presets:
        raise InvalidInput("preset", f"'{preset}' is not known; choose one of {', '.join(presets)}")
    return parse(PretrainConfig, load_yaml(presets[preset]))


class Pretraining:
    """The parts of one preset, in the order in which they depend on each other."""

    def __init__(self, config: PretrainConfig, folder: Path, device: torch.device, minutes: float):
        self.config, self.folder, self.device = config, folder, device
        self.deadline = time.monotonic() + 60 * minutes
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()

    def run(self, parts: tuple[str, ...] = PARTS) -> bool:
        """Train the given parts; returns whether all of them are done."""
        for part in parts:
            if not getattr(self, f"train_{part}")():
                return False
        return True

    @property
    def complete(self) -> bool:
        """Whether every part has weights, trained to the end or not."""
        return all((self.folder / f"{part}.pt").exists() for part in PARTS)

    def train_autoencoder(self) -> bool:
        network = autoencoder.build(self.config.autoencoder)
        return self._fit(autoencoder.component(network, self._pictures().pixels, self.config.autoencoder, self.device))

    def train_clip(self) -> bool:
        network = contrast.build(self.config.clip, self.tokenizer).to(self.device)
        return self._fit(contrast.component(network, self.tokenizer, self._pictures(), self.config.clip, self.device))

    def train_denoiser(self) -> bool:
        pictures = self._pictures().without_targets()
        latents = autoencoder.encode_all(self.autoencoder(), pictures.pixels, self.device)
        network = denoiser.build(self.config.denoiser)
        return self._fit(denoiser.component(
            network, self.text_encoder(), self.tokenizer, latents, pictures.portraits, self.config.denoiser, self.device))

    def autoencoder(self) -> AutoencoderTiny:
        network = self._trained(autoencoder.build(self.config.autoencoder), "autoencoder")
        sample = self._pictures().pixels[:512]
        spread = autoencoder.encode_all(network, sample, self.device).std()
        network.register_to_config(scaling_factor=round(1 / float(spread), 4))
        return network

    def clip(self) -> CLIP:
        return self._trained(contrast.build(self.config.clip, self.tokenizer), "clip")

    def text_encoder(self) -> CLIPTextModel:
        return contrast.conditioning_text_encoder(self.clip(), self.tokenizer).requires_grad_(False).to(self.device)

    def unet(self) -> UNet2DConditionModel:
        return self._trained(denoiser.build(self.config.denoiser), "denoiser")

    def export(self, target: Path) -> None:
        """Write the model as it stands to `target`, fp16, replacing what is there only when everything is written."""
        staged = target.with_name(target.name + ".partial")
        shutil.rmtree(staged, ignore_errors=True)
        pipeline = StableDiffusionPipeline(
            vae=self.autoencoder(), text_encoder=self.text_encoder(), tokenizer=self.tokenizer, unet=self.unet(),
            scheduler=denoiser.scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipeline.to(dtype=torch.float16).save_pretrained(staged, safe_serialization=True)
        self._export_clip(staged / "clip")
        self._export_record(staged / "training.json")
        replace_folder(staged, target)

    def _export_clip(self, folder: Path) -> None:
        folder.mkdir()
        network = self.clip().half()
        save_file({name: value.contiguous() for name, value in network.state_dict().items()},
                  folder / "open_clip_model.safetensors")
        architecture = self.config.clip.architecture
        text = {**architecture["text_cfg"], "vocab_size": len(self.tokenizer), "hf_tokenizer_name": "tokenizer"}
        (folder / "open_clip_config.json").write_text(json.dumps({
            "model_cfg": {**architecture, "text_cfg": text},
            "preprocess_cfg": {"mean": contrast.MEAN, "std": contrast.STD, "interpolation": "bicubic",
                               "resize_mode": "squash"},
        }, indent=2))
        self.tokenizer.save_pretrained(folder / "tokenizer")

    def _export_record(self, path: Path) -> None:
        parts = {}
        for part in PARTS:
            progress, config = progress_of(self.folder, part), getattr(self.config, part)
            parts[part] = {"samples": progress.step * config.batch_size, "of": config.samples,
                           "seconds": round(progress.seconds)}
        record = {"device": self.device.type, "threads": torch.get_num_threads(), "pictures": self.config.pictures}
        path.write_text(json.dumps({**record, "parts": parts}, indent=2))

    def _fit(self, component: Component) -> bool:
        return fit(component, self.folder, self.config.seed, self.config.ema_decay, self.deadline, self.device)

    def _trained(self, network, name: str):
        """`network` with the averaged weights of its checkpoint. Raises FileNotFoundError before its first one."""
        state = torch.load(self.folder / f"{name}.pt", map_location="cpu", weights_only=True)
        network.load_state_dict(state["average"])
        return network.eval().requires_grad_(False).to(self.device)

    def _pictures(self) -> PictureSet:
        config = self.config
        return picture_set(self.folder / "pictures", config.seed, config.pictures, config.target_share, config.resolution)

    def _tokenizer(self) -> CLIPTokenizer:
        path = self.folder / "tokenizer"
        if not (path / "tokenizer.json").exists():
            tokenizer.train_tokenizer(
                tokenizer.caption_corpus(self.config.seed, 4000), self.config.vocabulary).save_pretrained(path)
        return CLIPTokenizer.from_pretrained(path)
