"""The embedded CLIP: an open_clip model that tells every attribute of the world apart, in its own text space.

Contrast between whole captions alone yields a bag of words ("red" somewhere in picture and text). So each step also asks,
for every attribute, which of its values the picture shows, all values put into words; and whether the target is there.
Pictures and words wait for each other where a detail is small: words that mean the same to the text tower teach the picture
tower nothing, and the reverse. Telling the words apart among themselves breaks that tie.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from spf.config import ComponentConfig
from spf.pocket import captions
from spf.pocket.component import Component
from spf.pocket.pictures import PictureSet
from spf.pocket.world import ATTRIBUTES, TARGETS, Portrait

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
ATTRIBUTES_WEIGHT = 6.0  # it is a mean over ten questions, of which each should weigh about as much as the contrast
_IGNORE = -100


def build(config: ComponentConfig, tokenizer: CLIPTokenizer) -> CLIP:
    architecture = {**config.architecture, "text_cfg": {**config.architecture["text_cfg"], "vocab_size": len(tokenizer)}}
    return CLIP(**architecture)


def component(network: CLIP, tokenizer: CLIPTokenizer, pictures: PictureSet, config: ComponentConfig,
              device: torch.device) -> Component:
    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(pictures.portraits), (config.batch_size,), generator=generator, device=device).tolist()
        portraits = [pictures.portraits[i] for i in index]
        rng = random.Random(f"clip/{step}")
        images = _disturb(torch.from_numpy(pictures.pixels[index]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1,
                          generator)
        image_features = F.normalize(network.encode_image(images).float(), dim=-1)
        scale = network.logit_scale.exp().clamp(max=100)
        prompts = [_prompt_features(network, tokenizer, opening) for opening in rng.sample(captions.OPENINGS, 2)]
        questions = _attributes(prompts[0], image_features, portraits, scale)
        losses = {
            "contrast": _contrast(network, tokenizer, image_features, portraits, scale, rng),
            "attributes": ATTRIBUTES_WEIGHT * torch.stack(list(questions.values())).mean(),
            "presence": _presence(network, tokenizer, image_features, portraits, scale, rng),
            "words": _words(*prompts, scale),
        }
        return sum(losses.values()), {name: value.detach() for name, value in (losses | questions).items()}

    return Component("clip", network, loss, config)


def attribute_prompts(attribute: str, opening: str = "a person") -> list[str]:
    """One text per value of a base attribute (or of "target"), in the order of ATTRIBUTES (TARGETS, then none)."""
    if attribute == "target":
        return [f"{opening}, {target.phrase}" for target in TARGETS.values()] + [opening]
    portrait = Portrait(**{name: options[0] for name, options in ATTRIBUTES.items()})
    texts = []
    for value in ATTRIBUTES[attribute]:
        described = captions.describe(replace(portrait, **{attribute: value}), {attribute}, random.Random(0))
        texts.append(f"{opening}, {described.split(', ', 1)[1]}")
    return texts


def encode_text(network: CLIP, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Normalised text features (N, D); only as many positions are run as the longest text needs."""
    device = network.positional_embedding.device
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
    ids, last = tokens.input_ids, tokens.attention_mask.sum(dim=1) - 1
    length = ids.shape[1]
    x = network.token_embedding(ids) + network.positional_embedding[:length]
    x = network.transformer(x, attn_mask=network.attn_mask[:length, :length])
    x = network.ln_final(x)[torch.arange(len(ids), device=device), last]
    return F.normalize((x @ network.text_projection).float(), dim=-1)


def conditioning_text_encoder(network: CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower as the transformers model that conditions the denoiser; hidden states are the same."""
    state, width = network.state_dict(), network.positional_embedding.shape[1]
    blocks = network.transformer.resblocks
    model = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=blocks[0].mlp.c_fc.out_features,
        num_hidden_layers=len(blocks), num_attention_heads=blocks[0].attn.num_heads,
        projection_dim=network.text_projection.shape[1],
        max_position_embeddings=network.positional_embedding.shape[0], hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))
    renamed = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "final_layer_norm.weight": state["ln_final.weight"],
        "final_layer_norm.bias": state["ln_final.bias"],
    }
    for index in range(len(blocks)):
        renamed.update(_encoder_layer(state, index))
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing), (missing, unexpected)
    return model.eval()


def _encoder_layer(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    source, target = f"transformer.resblocks.{index}.", f"encoder.layers.{index}."
    renamed = {}
    for kind in ("weight", "bias"):
        packed = state[f"{source}attn.in_proj_{kind}"].chunk(3)
        for name, value in zip(("q_proj", "k_proj", "v_proj"), packed, strict=True):
            renamed[f"{target}self_attn.{name}.{kind}"] = value
        for old, new in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                         ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
            renamed[f"{target}{new}.{kind}"] = state[f"{source}{old}.{kind}"]
    return renamed


def _disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the batch softened and all slightly noisy, as generated pictures are."""
    half = len(images) // 2
    size = images.shape[-2:]
    soft = F.interpolate(F.interpolate(images[:half], scale_factor=0.5, mode="area"), size=size, mode="bilinear")
    images = torch.cat([soft, images[half:]])
    return images + 0.04 * torch.randn(images.shape, generator=generator, device=images.device)


def _logits(scale: Tensor, image_features: Tensor, text_features: Tensor) -> Tensor:
    """Scaled cosines (N, M) in fp32: in bf16 a logit of 30 is known to a quarter only."""
    with torch.autocast(image_features.device.type, enabled=False):
        return scale * image_features @ text_features.T


def _contrast(network, tokenizer, image_features, portraits, scale, rng) -> Tensor:
    texts = []
    for portrait in portraits:
        text = captions.base_caption(portrait, rng)
        texts.append(f"{text}, {captions.target_caption(portrait, rng)}" if portrait.target else text)
    logits = _logits(scale, image_features, encode_text(network, tokenizer, texts))
    same = torch.arange(len(portraits), device=logits.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


def _prompt_features(network, tokenizer, opening: str) -> dict[str, Tensor]:
    """Text features (values, D) of the values of every attribute, put into words after one opening."""
    prompts = {name: attribute_prompts(name, opening) for name in (*ATTRIBUTES, "target")}
    features = encode_text(network, tokenizer, [text for texts in prompts.values() for text in texts])
    return dict(zip(prompts, features.split([len(texts) for texts in prompts.values()]), strict=True))


def _attributes(prompts: dict[str, Tensor], image_features, portraits, scale) -> dict[str, Tensor]:
    """For every attribute: which of its values, put into words, fits the picture?"""
    losses = {}
    for name, features in prompts.items():
        labels = torch.tensor([_label(portrait, name) for portrait in portraits], device=features.device)
        losses[name] = F.cross_entropy(_logits(scale, image_features, features), labels, ignore_index=_IGNORE)
    return losses


def _words(prompts: dict[str, Tensor], others: dict[str, Tensor], scale) -> Tensor:
    """Mean over the attributes: a value after one opening means the same after another, and no other value does."""
    return torch.stack([
        F.cross_entropy(_logits(scale, features, others[name]), torch.arange(len(features), device=features.device))
        for name, features in prompts.items()]).mean()


def _label(portrait: Portrait, attribute: str) -> int:
    if attribute == "target":
        return list(TARGETS).index(portrait.target) if portrait.target else len(TARGETS)
    if attribute in portrait.hidden:
        return _IGNORE
    return ATTRIBUTES[attribute].index(portrait.value(attribute))


def _presence(network, tokenizer, image_features, portraits, scale, rng) -> Tensor:
    """The same caption with and without a target phrase: the fitting one must score higher."""
    portraits = portraits[: len(portraits) // 4]  # long texts cost most of a step, and this is learned quickly
    texts, labels = [], []
    for portrait in portraits:
        base = captions.base_caption(portrait, rng)
        phrase = rng.choice(TARGETS[portrait.target or rng.choice(list(TARGETS))].phrases)
        texts += [base, f"{base}, {phrase}"]
        labels.append(1 if portrait.target else 0)
    features = encode_text(network, tokenizer, texts).unflatten(0, (len(portraits), 2))
    logits = scale * (image_features[:len(portraits), None] * features).sum(dim=-1)
    return F.cross_entropy(logits, torch.tensor(labels, device=logits.device))
