"""Trains the embedded U-Net model from nothing: autoencoder, CLIP, denoiser."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from open_clip import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from spf.config import PretrainConfig
from spf.pocket import autoencoder, contrast, curve, denoiser, tokenizer
from spf.pocket.parts import PartTraining
from spf.pocket.pictures import PictureSet, picture_set

CLIP_WEIGHTS = "open_clip_model.safetensors"


class Pretraining(PartTraining):
    """Autoencoder, CLIP and U-Net of one preset."""

    PARTS, TOKENIZER = ("autoencoder", "clip", "denoiser"), "tokenizer"

    def __init__(self, config: PretrainConfig, folder: Path, device: torch.device, minutes: float):
        super().__init__(folder, config.seed, config.ema_decay, device, minutes)
        self.config = config

    def train_autoencoder(self) -> bool:
        network = autoencoder.build(self.config.autoencoder)
        return self.fit(autoencoder.component(network, self.pictures().pixels, self.config.autoencoder, self.device))

    def train_clip(self) -> bool:
        network = contrast.build(self.config.clip, self.tokenizer).to(self.device)
        return self.fit(contrast.component(network, self.tokenizer, self.pictures(), self.config.clip, self.device))

    def train_denoiser(self) -> bool:
        pictures = self.pictures().without_targets()
        latents = autoencoder.encode_all(self.autoencoder(), pictures.pixels, self.device)
        return self.fit(denoiser.component(
            self._network(), self.tokenizer, latents, pictures.portraits, self.config.denoiser, self.device))

    def autoencoder(self) -> AutoencoderTiny:
        network = self.trained(autoencoder.build(self.config.autoencoder), "autoencoder")
        sample = self.pictures().pixels[:512]
        spread = autoencoder.encode_all(network, sample, self.device).std()
        network.register_to_config(scaling_factor=round(1 / float(spread), 4))
        return network

    def clip(self) -> CLIP:
        return self.trained(contrast.build(self.config.clip, self.tokenizer), "clip")

    def denoiser(self) -> denoiser.TextConditionedUNet:
        return self.trained(self._network(), "denoiser")

    def write(self, folder: Path) -> None:
        network = self.denoiser()
        pipeline = StableDiffusionPipeline(
            vae=self.autoencoder(), text_encoder=network.text_encoder, tokenizer=self.saved_tokenizer(), unet=network.unet,
            scheduler=denoiser.scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
        self._export_clip(folder / "clip")

    def read(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        network = denoiser.TextConditionedUNet(
            UNet2DConditionModel.from_pretrained(folder / "unet"), CLIPTextModel.from_pretrained(folder / "text_encoder"))
        return {"autoencoder": AutoencoderTiny.from_pretrained(folder / "vae").state_dict(),
                "clip": load_file(folder / "clip" / CLIP_WEIGHTS), "denoiser": network.state_dict()}

    def scores(self, part: str) -> dict[str, float]:
        size = self.config.resolution
        if part == "autoencoder":
            return curve.autoencoder_scores(self.autoencoder(), size, self.device)
        if part == "clip":
            return curve.clip_scores(self.clip(), self.tokenizer, size, self.device)
        return self._denoiser_scores("unet", self.folder, size)

    def record(self) -> dict:
        return super().record() | {"pictures": self.config.pictures}

    def _export_clip(self, folder: Path) -> None:
        folder.mkdir()
        network = self.clip().half()
        save_file({name: value.contiguous() for name, value in network.state_dict().items()},
                  folder / CLIP_WEIGHTS)
        architecture = self.config.clip.architecture
        text = {**architecture["text_cfg"], "vocab_size": len(self.tokenizer), "hf_tokenizer_name": "tokenizer"}
        (folder / "open_clip_config.json").write_text(json.dumps({
            "model_cfg": {**architecture, "text_cfg": text},
            "preprocess_cfg": {"mean": contrast.MEAN, "std": contrast.STD, "interpolation": "bicubic",
                               "resize_mode": "squash"},
        }, indent=2))
        self.saved_tokenizer().save_pretrained(folder / "tokenizer")

    def pictures(self) -> PictureSet:
        config = self.config
        return picture_set(self.folder / "pictures", config.seed, config.pictures, config.target_share, config.resolution)

    def _network(self) -> denoiser.TextConditionedUNet:
        return denoiser.build(self.config.denoiser, contrast.conditioning_text_encoder(self.clip(), self.tokenizer))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return self.saved_tokenizer()

    def saved_tokenizer(self) -> CLIPTokenizer:
        """As it was saved; one that has read captions remembers how it padded them, and would save that too."""
        path = self.folder / self.TOKENIZER
        if not (path / "tokenizer.json").exists():
            tokenizer.train_tokenizer(
                tokenizer.caption_corpus(self.config.seed, 4000), self.config.vocabulary).save_pretrained(path)
        return CLIPTokenizer.from_pretrained(path)
