"""From diffusers' tensor names to those of the layouts the models were published in.

Stable Diffusion 1.x follows the latent diffusion (LDM) code: blocks are counted through all levels, one counter going down
and one coming up. Stable Diffusion 3 follows its own reference code: queries, keys and values are one matrix, and shift
stands before scale in the last normalisations, where diffusers has scale first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
           "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
_UNET_ENDS = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
              "conv_norm_out": "out.0", "conv_out": "out.2"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_MMDIT_ENDS = {
    "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder", "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2"}
_MMDIT_BLOCK = {
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k", "attn.to_out.0": "x_block.attn.proj",
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k", "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2"}
_QKV = (("attn.", ("to_q", "to_k", "to_v"), "x_block.attn.qkv"),
        ("attn.", ("add_q_proj", "add_k_proj", "add_v_proj"), "context_block.attn.qkv"),
        ("attn2.", ("to_q", "to_k", "to_v"), "x_block.attn2.qkv"))


def unet_to_ldm(tensors: Mapping[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """A UNet2DConditionModel's state dict under LDM names, without 'model.diffusion_model.'. ValueError for an unknown name."""
    with_attention = {match[1] for name in tensors if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    return {_unet_name(name, layers_per_block, with_attention): value for name, value in tensors.items()}


def _unet_name(name: str, layers: int, with_attention: set[str]) -> str:
    module, leaf = name.rsplit(".", 1)
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{leaf}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, index, rest = match.groups()
        return f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(index)}.{_resnet(rest)}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if not match:
        raise ValueError(f"tensor '{name}' has no name in the original layout")
    way, level, kind, index, rest = match.groups()
    block = int(level) * (layers + 1) + int(index) + (way == "down")
    place = f"{'input' if way == 'down' else 'output'}_blocks."
    if kind == "resnets":
        return f"{place}{block}.0.{_resnet(rest)}"
    if kind == "attentions":
        return f"{place}{block}.1.{rest}"
    if kind == "downsamplers":
        return f"{place}{block + layers}.0.op.{leaf}"
    return f"{place}{block + layers}.{2 if level in with_attention else 1}.conv.{leaf}"


def _resnet(rest: str) -> str:
    module, leaf = rest.rsplit(".", 1)
    return f"{_RESNET[module]}.{leaf}"


def vae_to_ldm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An AutoencoderKL's state dict under LDM names, without 'first_stage_model.'. ValueError for an unknown name."""
    levels = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    converted = {}
    for name, value in tensors.items():
        key = _vae_name(name, levels)
        is_matrix = ".mid.attn_1." in key and value.ndim == 2  # a 1x1 convolution there
        converted[key] = value[:, :, None, None] if is_matrix else value
    return converted


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{match[1]}.mid.block_{int(match[2]) + 1}.{match[3]}"
    if match := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(.+)", name):
        return f"encoder.down.{match[1]}.{_vae_block(match[2])}"
    if match := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.(.+)", name):
        return f"decoder.up.{levels - 1 - int(match[1])}.{_vae_block(match[2])}"
    if re.fullmatch(r"((encoder|decoder)\.(conv_in|norm_out|conv_out)|(post_)?quant_conv)\.(weight|bias)", name):
        return name
    raise ValueError(f"tensor '{name}' has no name in the original layout")


def _vae_block(rest: str) -> str:
    return rest.replace("resnets.", "block.").replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")


def mmdit_to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An SD3Transformer2DModel's state dict as Stable Diffusion 3 was published. ValueError for an unknown name."""
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    converted, rest = _joined_qkv(tensors)
    for name, value in rest.items():
        if name == "pos_embed.pos_embed":
            converted["pos_embed"] = value
            continue
        swapped = name.startswith(("norm_out.", f"transformer_blocks.{last}.norm1_context."))
        converted[_mmdit_name(name)] = _halves_swapped(value) if swapped else value
    return converted


def _joined_qkv(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The joined query, key and value projections under their original names, and everything else."""
    joined, rest = {}, dict(tensors)
    for name in tensors:
        block, place = ".".join(name.split(".")[:2]), ".".join(name.split(".")[2:])
        for module, parts, original in _QKV:
            for leaf in ("weight", "bias"):
                if place == f"{module}{parts[0]}.{leaf}" and block.startswith("transformer_blocks."):
                    names = [f"{block}.{module}{part}.{leaf}" for part in parts]
                    joined[f"{block.replace('transformer_blocks', 'joint_blocks')}.{original}.{leaf}"] = torch.cat(
                        [rest.pop(one) for one in names])
    return joined, rest


def _mmdit_name(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    if module in _MMDIT_ENDS:
        return f"{_MMDIT_ENDS[module]}.{leaf}"
    match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    if not match or match[2] not in _MMDIT_BLOCK:
        raise ValueError(f"tensor '{name}' has no name in the original layout")
    return f"joint_blocks.{match[1]}.{_MMDIT_BLOCK[match[2]]}.{leaf}"


def _halves_swapped(value: Tensor) -> Tensor:
    first, second = value.chunk(2)
    return torch.cat([second, first])
