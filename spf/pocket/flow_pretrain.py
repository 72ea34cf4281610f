"""Trains the embedded MM-DiT model on another preset's pictures, autoencoder and CLIP."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel, T5Tokenizer

from spf.config import FlowPretrainConfig
from spf.errors import InvalidInput, TrainingError
from spf.pocket import autoencoder, flow, tokenizer
from spf.pocket.parts import PartTraining
from spf.pocket.pretrain import Pretraining


class FlowPretraining(PartTraining):
    """Second CLIP tower, then T5 and transformer together. Raises InvalidInput if the base preset is not trained yet."""

    PARTS, TOKENIZER = ("text_encoder_2", "denoiser"), "tokenizer_3"

    def __init__(self, config: FlowPretrainConfig, base: Pretraining, folder: Path, device: torch.device, minutes: float):
        super().__init__(folder, base.seed, config.ema_decay, device, minutes)
        self.config, self.base = config, base
        if missing := [part for part in ("autoencoder", "clip") if not (base.folder / f"{part}.pt").exists()]:
            raise InvalidInput("base", f"'{config.base}' has no trained {missing[0]}; "
                                       f"run 'python -m spf pretrain {config.base}' first")

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
            tokenizer=self.base.saved_tokenizer(), text_encoder_2=second, tokenizer_2=self.base.saved_tokenizer(),
            text_encoder_3=network.text_encoder_3, tokenizer_3=self.saved_tokenizer_3())
        pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)

    def read(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        """Raises TrainingError if it was trained on another autoencoder than the base preset's."""
        theirs, own = AutoencoderTiny.from_pretrained(folder / "vae").state_dict(), self.base.autoencoder().state_dict()
        if any(not torch.equal(own[name].half().cpu(), value.half()) for name, value in theirs.items()):
            raise TrainingError(f"{folder} was trained on another autoencoder than '{self.config.base}' has now; "
                                "begin without --adopt.")
        network = flow.FlowDenoiser(SD3Transformer2DModel.from_pretrained(folder / "transformer"),
                                    T5EncoderModel.from_pretrained(folder / "text_encoder_3"))
        second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
        return {"text_encoder_2": second.state_dict(), "denoiser": network.state_dict()}

    def scores(self, part: str) -> dict[str, float]:
        if part == "text_encoder_2":
            return {}
        return self._denoiser_scores("mmdit", self.base.folder, self.base.config.resolution)

    def _network(self) -> flow.FlowDenoiser:
        return flow.build(self.config.denoiser, self.config.text_encoder_3, len(self.tokenizer_3))

    @cached_property
    def tokenizer_3(self) -> T5Tokenizer:
        return self.saved_tokenizer_3()

    def saved_tokenizer_3(self) -> T5Tokenizer:
        """As it was saved, as for the base preset's."""
        path, config = self.folder / self.TOKENIZER, self.config.text_encoder_3
        if not (path / "tokenizer.json").exists():
            corpus = tokenizer.caption_corpus(self.seed, 4000)
            flow.train_t5_tokenizer(corpus, config.vocabulary, config.length).save_pretrained(path)
        return T5Tokenizer.from_pretrained(path)
