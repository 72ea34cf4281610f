"""Stable Diffusion 3 and 3.5: two CLIP towers and T5, a transformer with joint attention, rectified flow (Appendix D)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from spf.backbones import autoencoder
from spf.backbones.autoencoder import Autoencoder
from spf.backbones.base import LayerFeatures, Sampler, TextFeatures
from spf.backbones.capture import capture, latent_grid
from spf.backbones.latent import LatentDiffusion
from spf.backbones.samplers import FLOW_SAMPLERS, dynamic_shift, sampler_class
from spf.backbones.tokens import Reader, fit, memberships, tokenize
from spf.config import Scheduler
from spf.method.attention import AttentionLayer, split_heads
from spf.method.diffusion import FlowObjective
from spf.method.emphasis import emphasise
from spf.method.phrases import Prompt

JOINT_ATTENTION = "attn"  # in an MM-DiT block, attn attends over image and text together; attn2 is image only
ENCODED_AT_ONCE = 64  # prompts
T5_WINDOW = 256  # tokens: what StableDiffusion3Pipeline reads at most, with or without T5
# D2: the joint attention of both streams
JOINT_PROJECTIONS = tuple(f".{JOINT_ATTENTION}.{name}." for name in (
    "to_q", "to_k", "to_v", "to_out", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"))


@dataclass
class MMDiTBackbone(LatentDiffusion):
    """The MM-DiT family of backbones.base.Backbone. Without T5 its place in the sequence is filled with zeros (D19)."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_3: T5Tokenizer | None
    text_encoder_3: T5EncoderModel | None
    denoiser: SD3Transformer2DModel
    vae: Autoencoder
    scheduler: FlowMatchEulerDiscreteScheduler

    cross_projections = JOINT_PROJECTIONS
    default_scheduler = "euler"

    def __post_init__(self) -> None:
        for module in self.networks().values():
            module.requires_grad_(False).eval()
        self.device = self.denoiser.device
        config = self.scheduler.config
        self.objective = FlowObjective(shift=config.shift, time_scale=config.num_train_timesteps)
        self.window = self.tokenizer.model_max_length
        self.t5_window = T5_WINDOW if self.tokenizer_3 is None else min(self.tokenizer_3.model_max_length, T5_WINDOW)
        self._clip_readers = [Reader(self.tokenizer, self.window), Reader(self.tokenizer_2, self.window)]
        self._t5_readers = [] if self.text_encoder_3 is None else [Reader(self.tokenizer_3, self.t5_window)]
        self._sites = [_sites(f"transformer_blocks.{index}.{JOINT_ATTENTION}", block.attn)
                       for index, block in enumerate(self.denoiser.transformer_blocks)]

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        config = self.denoiser.config
        limit = config.patch_size * config.pos_embed_max_size  # of the table of position embeddings
        size = autoencoder.latent_size(self.vae, height, width or height, config.patch_size, limit)
        return config.in_channels, *size

    def sampler(self, num_inference_steps: int, scheduler: Scheduler | None = None,
                latent_size: tuple[int, int] | None = None) -> Sampler:
        made = sampler_class(FLOW_SAMPLERS, scheduler or self.default_scheduler).from_config(self.scheduler.config)
        h, w = latent_size or (self.denoiser.config.sample_size,) * 2
        positions = (h // self.denoiser.config.patch_size) * (w // self.denoiser.config.patch_size)
        shift = {"mu": dynamic_shift(made.config, positions)} if made.config.use_dynamic_shifting else {}
        made.set_timesteps(num_inference_steps, device=self.device, **shift)
        return made

    def fork(self, own: Collection[str] | None = None) -> MMDiTBackbone:
        return MMDiTBackbone(
            self.tokenizer, self.text_encoder, self.tokenizer_2, self.text_encoder_2, self.tokenizer_3, self.text_encoder_3,
            self._own_denoiser(own), self.vae, self.scheduler)

    def to(self, device: torch.device) -> MMDiTBackbone:
        for module in self.networks().values():
            module.to(device)
        self.device = self.denoiser.device
        return self

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[Prompt]) -> TextFeatures:
        readers = [*self._clip_readers, *self._t5_readers]
        fitted = [fit(prompt, *readers) for prompt in prompts]
        clip, clip_2, *t5 = (tokenize(reader, fitted) for reader in readers)
        clip_states, pooled = self._read_clip(clip.ids, clip_2.ids)  # (B, T_clip, C_clip), (B, C_pooled)
        t5_states = self._read_t5(t5[0].ids) if t5 else self._no_t5(len(fitted), clip_states)  # (B, T_t5, C)
        clip_states = emphasise(clip_states, clip.token_weights.to(self.device))
        if t5:
            t5_states = emphasise(t5_states, t5[0].token_weights.to(self.device))
        clip_states = F.pad(clip_states, (0, t5_states.shape[-1] - clip_states.shape[-1]))
        return TextFeatures(
            torch.cat([clip_states, t5_states], dim=1).float(), pooled=pooled.float(),
            **memberships([clip, *t5], rest=0 if t5 else self.t5_window)).to(self.device)

    def _read_clip(self, *ids: Tensor) -> tuple[Tensor, Tensor]:
        """Penultimate states and projections of both towers, each side by side along the channels."""
        outputs = [_chunked(encoder, tokens.to(self.device), lambda output: (output.hidden_states[-2], output.text_embeds))
                   for encoder, tokens in zip((self.text_encoder, self.text_encoder_2), ids, strict=True)]
        states, pooled = zip(*outputs, strict=True)
        return torch.cat(states, dim=-1), torch.cat(pooled, dim=-1)

    def _read_t5(self, ids: Tensor) -> Tensor:
        (states,) = _chunked(self.text_encoder_3, ids.to(self.device), lambda output: (output.last_hidden_state,))
        return states

    def _no_t5(self, count: int, like: Tensor) -> Tensor:
        return like.new_zeros(count, self.t5_window, self.denoiser.config.joint_attention_dim)

    def predict(self, x_t: Tensor, t: Tensor, text: TextFeatures) -> Tensor:
        dtype = self.dtype
        return self.denoiser(x_t.to(dtype), text.embeddings.to(dtype), text.pooled.to(dtype), t).sample.to(x_t.dtype)

    @contextmanager
    def capture(self) -> Iterator[_JointAttention]:
        names = [name for sites in self._sites for name in sites.names]
        with capture(self.denoiser, names) as outputs, latent_grid(self.denoiser) as grid:
            yield _JointAttention(self._sites, self.denoiser.config.patch_size, outputs, grid)


@dataclass(frozen=True)
class _Sites:
    """Where the projections of one joint attention leave it, after the normalisation of queries and keys if there is one."""

    name: str
    heads: int
    image_query: str
    image_key: str
    image_value: str
    text_query: str
    text_key: str

    @property
    def names(self) -> tuple[str, ...]:
        return self.image_query, self.image_key, self.image_value, self.text_query, self.text_key


def _sites(name: str, attention: nn.Module) -> _Sites:
    def site(norm: str, projection: str) -> str:
        return f"{name}.{projection if getattr(attention, norm) is None else norm}"

    return _Sites(
        name, attention.heads, site("norm_q", "to_q"), site("norm_k", "to_k"), f"{name}.to_v",
        site("norm_added_q", "add_q_proj"), site("norm_added_k", "add_k_proj"))


@dataclass(frozen=True)
class _JointAttention:
    """The captured projections of a prediction, as layer features."""

    sites: list[_Sites]
    patch_size: int
    outputs: dict[str, Tensor]
    latent_grid: dict[str, tuple[int, int]]

    def layers(self) -> list[LayerFeatures]:
        h, w = (side // self.patch_size for side in self.latent_grid["latents"])
        return [self._layer(sites, (h, w)) for sites in self.sites]

    def _layer(self, sites: _Sites, grid: tuple[int, int]) -> LayerFeatures:
        image_query, image_key, image_value, text_query, text_key = (
            _per_head(self.outputs[name], sites.heads) for name in sites.names)
        return LayerFeatures(
            name=sites.name, grid=grid, text=text_query, image_key=image_key, image_value=image_value, image=image_query,
            attention=AttentionLayer(query=image_query, text_key=text_key, grid=grid, image_key=image_key))


def _per_head(output: Tensor, heads: int) -> Tensor:
    """(B, H, N, D) from a normalisation, which sees heads apart, or from a projection (B, N, H D)."""
    return output if output.ndim == 4 else split_heads(output, heads)


def _chunked(encoder: nn.Module, ids: Tensor, read) -> list[Tensor]:
    """What `read` takes from the encoder's outputs, for a few prompts at a time."""
    pieces = [read(encoder(chunk, output_hidden_states=True)) for chunk in ids.split(ENCODED_AT_ONCE)]
    return [torch.cat(piece) for piece in zip(*pieces, strict=True)]
