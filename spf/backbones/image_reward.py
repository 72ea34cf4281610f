"""ImageReward (Xu et al. 2023): how well people would like a picture for its prompt, by BLIP with a linear reward head.

BLIP's text encoder reads the prompt and looks at the picture by cross-attention; the head takes its first token. The score is
that of the released weights: the head's output, shifted and scaled to mean 0 and deviation 1 over its authors' pictures.
"""

from __future__ import annotations

import re
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the head's output
TOKENS = 35  # of a prompt; what is longer is cut
HEAD = (1024, 128, 64, 16, 1)  # widths
_HEAD_PLACES = (0, 2, 4, 6, 7)  # of the linear maps in the published head, which has dropout between most of them
# ViT-L/16 of BLIP, and BERT base with cross-attention
VIT_L = {
    "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
               "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
             "vocab_size": 30524, "max_position_embeddings": 512, "encoder_hidden_size": 1024, "layer_norm_eps": 1e-12},
}
_RENAMED = (  # from the published names to those of transformers
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.", r"vision.encoder.layers.\1.self_attn."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.", r"vision.encoder.layers.\1."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.(\d+)\.", lambda match: f"head.{_HEAD_PLACES.index(int(match[1]))}."),
)


class ImageRewardNetwork(nn.Module):
    def __init__(self, architecture: dict):
        super().__init__()
        self.vision = BlipVisionModel(BlipVisionConfig(**architecture["vision"]))
        self.text = BlipTextModel(BlipTextConfig(**architecture["text"]), add_pooling_layer=False)
        widths = (architecture["text"]["hidden_size"], *HEAD)
        self.head = nn.Sequential(*(nn.Linear(*pair) for pair in zip(widths, widths[1:], strict=False)))

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S), tokens and mask (B, T) -> rewards (B,)"""
        image = self.vision(pixel_values=pixels).last_hidden_state  # (B, N, C)
        seen = torch.ones(image.shape[:2], dtype=torch.long, device=image.device)
        text = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=image, encoder_attention_mask=seen)
        return (self.head(text.last_hidden_state[:, 0])[:, 0] - MEAN) / DEVIATION


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors that the network uses, under its names; the rest of BLIP's pre-training is left out."""
    found = {}
    for name, value in tensors.items():
        for pattern, ours in _RENAMED:
            if re.search(pattern, name):
                found[re.sub(pattern, ours, name)] = value
                break
    return {name: value for name, value in found.items() if not name.endswith("position_ids")}  # a buffer of older versions


class ImageReward:
    """Scores pictures for their prompts; `network` holds the published weights, `vocabulary` is BERT's vocab.txt."""

    name = "ImageReward"

    def __init__(self, network: ImageRewardNetwork, vocabulary: Path):
        self.network = network.eval().requires_grad_(False)
        self._tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        self._tokenizer.enable_truncation(TOKENS)
        self._tokenizer.enable_padding(length=TOKENS)
        self.size = network.vision.config.image_size
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in
                                 (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: tuple[str, ...]) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] and B prompts -> (B,)"""
        device = self.network.head[0].weight.device
        images = F.interpolate(images.to(device).float().clamp(-1, 1), (self.size, self.size), mode="bicubic",
                               antialias=True, align_corners=False).clamp(-1, 1)
        pixels = (images / 2 + 0.5 - self._mean.to(device)) / self._std.to(device)
        encoded = self._tokenizer.encode_batch(list(prompts))
        tokens, mask = (torch.tensor([getattr(text, name) for text in encoded], device=device)
                        for name in ("ids", "attention_mask"))
        return self.network(pixels, tokens, mask)
