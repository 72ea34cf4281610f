"""Trains the embedded MM-DiT model on another preset's pictures, autoencoder and CLIP."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, T5Tokenizer

from spf.config import FlowPretrainConfig
from spf.errors import InvalidInput
from spf.pocket import autoencoder, flow, tokenizer
from spf.pocket.parts import PartTraining
from spf.pocket.pretrain import Pretraining


class FlowPretraining(PartTraining):
    """Second CLIP tower, then T5 and transformer together. Raises InvalidInput if the base preset is not trained yet."""

    PARTS = ("text_encoder_2", "denoiser")

    def __init__(self, config: FlowPretrainConfig, base: Pretraining, folder: Path, device: torch.device, minutes: float):
        super().__init__(folder, base.seed, config.ema_decay, device, minutes)
        self.config, self.base = config, base
        if missing := [part for part in ("autoencoder", "clip") if not (base.folder / f"{part}.pt").exists()]:
            raise InvalidInput("base", f"'{config.base}' has no trained {missing[0]}; "
                                       f"run 'python -m spf pretrain {config.base}' first")
        self.tokenizer_3 = self._tokenizer_3()

    def train_text_encoder_2(self) -> bool:
        pictures, config = self.base.pictures(), self.config.text_encoder_2
        images = flow.image_embeddings(self.base.clip(), pictures.pixels, self.device)
        network = flow.second_tower(config, self.base.tokenizer).to(self.device)
        return self.fit(flow.tower_component(network, self.base.tokenizer, images, pictures, config, self.device))

    def train_denoiser(self) -> bool:
        pictures = self.base.pictures().without_targets()
        latents = autoencoder.encode_all(self.base.autoencoder(), pictures.pixels, self.device)
        return self.fit(flow.component(
            self._network(), self.towers(), self.base.tokenizer, self.tokenizer_3, latents, pictures.portraits,
            self.config.denoiser, self.device))

    def towers(self) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
        second = self.trained(flow.second_tower(self.config.text_encoder_2, self.base.tokenizer), "text_encoder_2")
        return flow.first_tower(self.base.clip(), self.base.tokenizer).to(self.device), second

    def denoiser(self) -> flow.FlowDenoiser:
        return self.trained(self._network(), "denoiser")

    def write(self, folder: Path) -> None:
        network, (first, second), vae = self.denoiser(), self.towers(), self.base.autoencoder()
        pipeline = StableDiffusion3Pipeline(
            transformer=network.transformer, scheduler=flow.scheduler(), vae=vae, text_encoder=first,
            tokenizer=self.base.tokenizer, text_encoder_2=second, tokenizer_2=self.base.tokenizer,
            text_encoder_3=network.text_encoder_3, tokenizer_3=self.tokenizer_3)
        pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)

    def scores(self, part: str) -> dict[str, float]:
        if part == "text_encoder_2":
            return {}
        return self._denoiser_scores("mmdit", self.base.folder, self.base.config.resolution)

    def _network(self) -> flow.FlowDenoiser:
        return flow.build(self.config.denoiser, self.config.text_encoder_3, len(self.tokenizer_3))

    def _tokenizer_3(self) -> T5Tokenizer:
        path, config = self.folder / "tokenizer_3", self.config.text_encoder_3
        if not (path / "tokenizer.json").exists():
            corpus = tokenizer.caption_corpus(self.seed, 4000)
            flow.train_t5_tokenizer(corpus, config.vocabulary, config.length).save_pretrained(path)
        return T5Tokenizer.from_pretrained(path)
