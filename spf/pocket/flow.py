"""The embedded MM-DiT: diffusers' SD3Transformer2DModel and a T5 encoder, trained together as a rectified flow."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from einops import rearrange
from open_clip import CLIP
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from spf.config import ComponentConfig, TextEncoderConfig
from spf.method.attention import split_heads
from spf.pocket import captions
from spf.pocket.autoencoder import to_images
from spf.pocket.component import Component
from spf.pocket.contrast import conditioning_text_encoder
from spf.pocket.denoiser import detail_weights, random_captions, unknown_words
from spf.pocket.pictures import PictureSet
from spf.pocket.world import Portrait

NO_T5_SHARE = 0.05  # of the steps; so that the model also runs where its T5 is left out to save memory
NO_T5_LENGTH = 256  # tokens: the zeros that stand for T5 in StableDiffusion3Pipeline
_SPECIAL, _SPACE = ("<pad>", "</s>", "<unk>"), "\u2581"


class FlowDenoiser(nn.Module):
    """The transformer and the T5 encoder that is trained with it; both CLIP towers stay frozen."""

    def __init__(self, transformer: SD3Transformer2DModel, text_encoder_3: T5EncoderModel):
        super().__init__()
        self.transformer, self.text_encoder_3 = transformer, text_encoder_3

    def forward(self, x_t: Tensor, t: Tensor, clip: Tensor, pooled: Tensor, t5: Tensor) -> Tensor:
        """Velocity (B, C, h, w) for x_t at t (B,) in [0, 1000]; clip (B, 77, C_clip), t5 (B, L, C_t5)."""
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return self.transformer(x_t, torch.cat([clip, t5], dim=1), pooled, t).sample


def build(config: ComponentConfig, t5: TextEncoderConfig, vocabulary: int) -> FlowDenoiser:
    """Both networks, initialised as DiT is: every block begins as the identity, the prediction as zero.

    With attention written out: a transformer so small learns 1.4 times as many samples in a second on a CPU
    (benchmarks/flow_step.py).
    """
    transformer = SD3Transformer2DModel(**config.architecture)
    for module in transformer.modules():
        if isinstance(module, Attention):
            module.set_processor(written_out)
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = transformer.transformer_blocks
    modulations = [norm.linear for block in blocks for norm in (block.norm1, block.norm1_context)]
    for layer in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return FlowDenoiser(transformer, T5EncoderModel(T5Config(
        vocab_size=vocabulary, pad_token_id=0, eos_token_id=1, dropout_rate=0.0, **t5.architecture)))


def written_out(attention: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                **unused) -> Tensor | tuple[Tensor, Tensor]:
    """diffusers' JointAttnProcessor2_0 in products and a softmax, for sequences (B, N, C) of an image and (B, T, C) of text."""
    def heads(sequence: Tensor, projections: tuple[nn.Module, ...], norms: tuple[nn.Module | None, ...]) -> list[Tensor]:
        parts = [split_heads(project(sequence), attention.heads) for project in projections]
        return [part if norm is None else norm(part) for part, norm in zip(parts, norms, strict=True)]

    streams = [heads(hidden_states, (attention.to_q, attention.to_k, attention.to_v), (attention.norm_q, attention.norm_k, None))]
    if encoder_hidden_states is not None:
        streams.append(heads(encoder_hidden_states, (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj),
                             (attention.norm_added_q, attention.norm_added_k, None)))
    query, key, value = (torch.cat(parts, dim=2) for parts in zip(*streams, strict=True))  # (B, H, N + T, D)
    weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
    mixed = rearrange(weights.to(value.dtype) @ value, "b h n d -> b n (h d)")
    image, text = mixed[:, :hidden_states.shape[1]], mixed[:, hidden_states.shape[1]:]
    image = attention.to_out[0](image)
    if encoder_hidden_states is None:
        return image
    return image, text if attention.context_pre_only else attention.to_add_out(text)


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """No shift of the timesteps: on a 16 x 16 grid a given noise hides about as much as it does in training."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def component(network: FlowDenoiser, towers: Sequence[CLIPTextModelWithProjection], tokenizer: CLIPTokenizer,
              tokenizer_3: T5Tokenizer, latents: Tensor, portraits: list[Portrait], config: ComponentConfig,
              device: torch.device) -> Component:
    weights = detail_weights(latents.shape[-1]).to(device)
    words = unknown_words(tokenizer, portraits)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(portraits), (config.batch_size,), generator=generator, device=device).cpu()
        rng = random.Random(f"flow/{step}")
        texts, frozen = random_captions([portraits[i] for i in index], words, rng)
        x_0 = latents[index].to(device)
        noise = torch.randn(x_0.shape, generator=generator, device=device)
        s = torch.randn(len(x_0), generator=generator, device=device).sigmoid()  # (B,) logit-normal, as SD 3 was trained
        weight = s.view(-1, 1, 1, 1)
        clip, pooled = embed(towers, tokenizer, texts)
        if rng.random() < NO_T5_SHARE:
            t5 = clip.new_zeros(len(texts), NO_T5_LENGTH, network.text_encoder_3.config.d_model)
        else:
            t5 = network.text_encoder_3(_ids(tokenizer_3, texts, device)).last_hidden_state  # (B, L, C)
            t5 = torch.where(frozen.to(device).view(-1, 1, 1), t5.detach(), t5)
        velocity = network((1 - weight) * x_0 + weight * noise, 1000 * s, clip, pooled, t5)
        error = weights * (velocity.float() - (noise - x_0)).square()
        return error.mean(), {"mse": error.detach().mean()}

    return Component("denoiser", network, loss, config)


@torch.no_grad()
def embed(towers: Sequence[CLIPTextModelWithProjection], tokenizer: CLIPTokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """SD 3's reading of its CLIP towers: penultimate states side by side (B, 77, C), projections side by side (B, P)."""
    ids = _ids(tokenizer, texts, towers[0].device)
    outputs = [tower(ids, output_hidden_states=True) for tower in towers]
    return (torch.cat([output.hidden_states[-2] for output in outputs], dim=-1),
            torch.cat([output.text_embeds for output in outputs], dim=-1))


def _ids(tokenizer: CLIPTokenizer | T5Tokenizer, texts: list[str], device: torch.device) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)


def first_tower(network: CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The embedded CLIP's text tower, with its projection."""
    text = conditioning_text_encoder(network, tokenizer)
    tower = CLIPTextModelWithProjection(text.config)
    tower.text_model.load_state_dict(text.state_dict())
    with torch.no_grad():
        tower.text_projection.weight.copy_(network.text_projection.T)
    return tower.eval().requires_grad_(False)


def second_tower(config: ComponentConfig, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, hidden_act="gelu", **config.architecture))


def tower_component(network: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, images: Tensor, pictures: PictureSet,
                    config: ComponentConfig, device: torch.device) -> Component:
    """Teaches the second tower to find the picture of a caption among the others; `images` (N, P) are CLIP's embeddings."""
    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(images), (config.batch_size,), generator=generator, device=device).cpu()
        rng = random.Random(f"tower/{step}")
        texts = []
        for portrait in (pictures.portraits[i] for i in index):
            text = captions.base_caption(portrait, rng)
            texts.append(f"{text}, {captions.target_caption(portrait, rng)}" if portrait.target else text)
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
        features = F.normalize(network(**tokens).text_embeds.float(), dim=-1)
        logits = 30 * images[index].to(device) @ features.T
        same = torch.arange(len(texts), device=device)
        return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2, {}

    return Component("text_encoder_2", network, loss, config)


@torch.no_grad()
def image_embeddings(network: CLIP, pixels: np.ndarray, device: torch.device, batch: int = 64) -> Tensor:
    """Normalised CLIP embeddings of all pictures, (N, P) float32 on the CPU."""
    network = network.to(device)
    return torch.cat([
        network.encode_image(to_images(pixels[start:start + batch], device), normalize=True).float().cpu()
        for start in range(0, len(pixels), batch)])


def train_t5_tokenizer(texts: list[str], vocabulary: int, length: int) -> T5Tokenizer:
    """A Unigram vocabulary in T5Tokenizer's format: the most frequent words, and every printable ASCII character."""
    words = Counter(_SPACE + word for text in texts for word in re.findall(r"[\w-]+", text))
    letters = [_SPACE, *(chr(code) for code in range(33, 127))]
    kept = sorted(words, key=lambda word: (-words[word], word))[:vocabulary - len(letters) - len(_SPECIAL)]
    scores = {word: math.log(words[word] / words.total()) for word in kept}
    spelled = 2 * min(scores.values())  # a word is cheaper than its letters
    pieces = [(piece, 0.0) for piece in _SPECIAL] + list(scores.items()) + [(letter, spelled) for letter in letters]
    return T5Tokenizer(vocab=pieces, model_max_length=length, extra_ids=0)
