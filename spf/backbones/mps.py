"""MPS, the multi-dimensional preference score (Zhang et al. 2024): CLIP-H whose image tokens attend to chosen words.

Image tokens query the prompt's tokens in four layers, restricted to tokens that resemble a fixed sentence, the condition;
the score is the scaled cosine of the fused class token and the prompt. Only the "overall" condition was released.
"""

from __future__ import annotations

import open_clip
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, texture, "
    "quantity, attributes, position, number, location, word, things.")
THRESHOLD = 0.3  # of its similarity to the condition, from which a token is attended to; as in scoring single pictures
# CLIP ViT-H/14 of LAION
VIT_H = {
    "projection_dim": 1024,
    "text_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                    "hidden_act": "gelu", "projection_dim": 1024},
    "vision_config": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
                      "hidden_act": "gelu", "patch_size": 14, "image_size": 224, "projection_dim": 1024},
}
_END = 49407  # token that ends a text, and pads it


class MpsNetwork(nn.Module):
    """Both towers and the layers that join them, under the names of the published weights."""

    def __init__(self, architecture: dict, layers: int = 4, heads: int = 16, head_dim: int = 64):
        super().__init__()
        self.model = CLIPModel(CLIPConfig(**architecture))
        self.cross_model = CrossModel(architecture["projection_dim"], layers, heads, head_dim)

    def forward(self, pixels: Tensor, tokens: Tensor, condition: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S), tokens (B, T) and condition (1, T) -> scores (B,)"""
        text, end = self._text(tokens)  # (B, T, C), (B, C)
        image = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).last_hidden_state)  # (B, N, C)
        similarity = (self._text(condition)[0] @ text.mT).amax(dim=1)  # (B, T)
        similarity = similarity / similarity.amax(dim=1, keepdim=True)
        fused = self.cross_model(image, text, similarity > THRESHOLD)[:, 0]
        return self.model.logit_scale.exp() * torch.cosine_similarity(fused, end, dim=1)

    def _text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Projected features of every token, and of the first one that ends the text."""
        features = self.model.text_projection(self.model.text_model(input_ids=tokens).last_hidden_state)
        return features, features[torch.arange(len(tokens)), tokens.argmax(dim=1)]


class CrossModel(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, head_dim: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([
            Residual(CrossAttention(width, heads, head_dim)), Residual(SelfAttention(width, heads, head_dim))])
            for _ in range(layers))

    def forward(self, image: Tensor, text: Tensor, attended: Tensor) -> Tensor:
        """(B, N, C) image tokens after looking at those text tokens (B, T, C) that are `attended` (B, T) bool to."""
        for cross, own in self.layers:
            image = own(cross(image, text, attended))
        return image


class Residual(nn.Module):
    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return x + self.fn(x, *others)


class Gate(nn.Module):
    """SwiGLU"""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return F.silu(gate) * value


class CrossAttention(nn.Module):
    """One key and one value for all heads, and a feed-forward layer beside it."""

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)
        self.ff = nn.Sequential(nn.Linear(width, 8 * width, bias=False), Gate(), nn.Linear(4 * width, width, bias=False))

    def forward(self, x: Tensor, context: Tensor, attended: Tensor) -> Tensor:
        x = self.norm(x)
        q = rearrange(self.to_q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = (one.unsqueeze(1) for one in self.to_kv(context).chunk(2, dim=-1))  # (B, 1, T, D)
        out = F.scaled_dot_product_attention(q, *(one.expand(-1, self.heads, -1, -1) for one in (k, v)),
                                             attn_mask=attended[:, None, None])
        return self.to_out(rearrange(out, "b h n d -> b n (h d)")) + self.ff(x)


class SelfAttention(nn.Module):
    """The same within the image tokens, with rotary positions and all projections in one."""

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.sizes = heads, (heads * head_dim, head_dim, head_dim, 8 * width)
        self.norm = nn.LayerNorm(width)
        self.rotary_emb = Rotary(head_dim)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.attn_out = nn.Linear(heads * head_dim, width, bias=False)
        self.ff_out = nn.Sequential(Gate(), nn.Linear(4 * width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, inner = self.fused_attn_ff_proj(self.norm(x)).split(self.sizes, dim=-1)
        q = self.rotary_emb(rearrange(q, "b n (h d) -> b h n d", h=self.heads))
        k, v = self.rotary_emb(k[:, None]), v[:, None]
        out = F.scaled_dot_product_attention(q, *(one.expand(-1, self.heads, -1, -1) for one in (k, v)))
        return self.attn_out(rearrange(out, "b h n d -> b n (h d)")) + self.ff_out(inner)


class Rotary(nn.Module):
    """Rotary position embedding, halves of the channels paired."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("inv_freq", 10_000 ** (-torch.arange(0, width, 2).float() / width))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[-2], device=x.device)[:, None] * self.inv_freq  # (N, D/2)
        angles = torch.cat([angles, angles], dim=-1).to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


class Mps:
    """Scores pictures for their prompts; `network` holds the published weights."""

    name = "MPS overall"

    def __init__(self, network: MpsNetwork):
        self.network = network.eval().requires_grad_(False)
        self._tokenize = open_clip.get_tokenizer("ViT-H-14")
        self._size = network.model.config.vision_config.image_size
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in
                                 (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: tuple[str, ...]) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] and B prompts -> (B,)"""
        device = self.network.model.logit_scale.device
        images = F.interpolate(images.to(device).float().clamp(-1, 1), (self._size, self._size), mode="bicubic",
                               antialias=True, align_corners=False).clamp(-1, 1)
        pixels = (images / 2 + 0.5 - self._mean.to(device)) / self._std.to(device)
        return self.network(pixels, self._tokens(prompts).to(device), self._tokens((CONDITION,)).to(device))

    def _tokens(self, texts: tuple[str, ...]) -> Tensor:
        """(B, T), padded with the token that ends a text."""
        tokens = self._tokenize(list(texts))
        ended = torch.arange(tokens.shape[1]) > tokens.argmax(dim=1, keepdim=True)
        return tokens.masked_fill(ended, _END)

