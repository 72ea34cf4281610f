"""DualPathStage against tests/method/literal.py on the features of real (tiny) denoisers of both families, in float64.

What the stage does with hooks, SDPA and batches is done here with single numbers: every loss of Algorithm 1, lines 20-43,
and its gradient to every parameter that stage 2 trains.
"""

import copy
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from spf.backbones.base import Backbone
from spf.backbones.mmdit import MMDiTBackbone
from spf.backbones.unet import UNetBackbone
from spf.config import MethodConfig
from spf.data.batches import Examples
from spf.data.records import Record
from spf.method.diffusion import EpsilonObjective
from spf.method.phrases import join_prompt
from spf.training.stages import DualPathStage, set_trainable

sys.path.insert(0, str(Path(__file__).parents[1] / "method"))
import literal  # noqa: E402

WINDOW, T5_WINDOW, SIDE, CHANNELS, WIDTH = 13, 17, 4, 2, 8
TEXTS = (("a hat, red", "a bow"), ("blue, a red hat", "a bow"))
LAMBDAS = {"text": 0.2, "fine": 0.1, "enhanced": 0.6}


# What a denoiser leaves at each layer, in the letters of literal.Layer (Eq. 14: K is Q^txt, I and V are K^vis and V^vis,
# T is K^txt), and where.
SITES = {
    "unet": {"Q": "attn2.to_q", "K": "attn2.to_k"},
    "mmdit": {"Q": ".attn.norm_q", "K": ".attn.norm_added_q", "I": ".attn.norm_k", "V": ".attn.to_v", "T": ".attn.norm_added_k"}}


@pytest.fixture
def reference(family, tokenizer, tokenizer_3, backbone) -> Backbone:
    """So small that every number of it can be visited, and so lively that its attention is not uniform."""
    torch.manual_seed(4)
    tokenizer, tokenizer_3 = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer_3)
    tokenizer.model_max_length, tokenizer_3.model_max_length = WINDOW, T5_WINDOW
    made = unet(tokenizer, backbone.scheduler) if family == "unet" else mmdit(tokenizer, tokenizer_3)
    disturb(made, 1.0, seed=1)
    return made


def text_config(tokenizer, width, layers, **keywords) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=1,
        max_position_embeddings=WINDOW, bos_token_id=0, eos_token_id=1, **keywords)


def autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=CHANNELS).double()


def mmdit(tokenizer, tokenizer_3) -> MMDiTBackbone:
    towers = [CLIPTextModelWithProjection(text_config(tokenizer, 4, 2, projection_dim=4)).double() for _ in range(2)]
    t5 = T5EncoderModel(T5Config(vocab_size=len(tokenizer_3), d_model=WIDTH, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    transformer = SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=2, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=8, pooled_projection_dim=8,
        pos_embed_max_size=SIDE, dual_attention_layers=(0,), qk_norm="rms_norm")
    return MMDiTBackbone(tokenizer, towers[0], tokenizer, towers[1], tokenizer_3, t5.double(), transformer.double(),
                         autoencoder(), FlowMatchEulerDiscreteScheduler(shift=3.0))


def unet(tokenizer, scheduler) -> UNetBackbone:
    text_encoder = CLIPTextModel(text_config(tokenizer, WIDTH, 1))
    denoiser = UNet2DConditionModel(
        sample_size=SIDE, in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=(4, 8), attention_head_dim=(1, 2),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH, norm_num_groups=2)
    made = UNetBackbone(tokenizer, text_encoder.double(), denoiser.double(), autoencoder(), scheduler)
    made.objective = EpsilonObjective(scheduler.alphas_cumprod.double())
    return made


def disturb(backbone: Backbone, strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in backbone.trainable_parameters("cross"):
            parameter += strength * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def response_of(reference: Backbone) -> Backbone:
    forked = reference.fork()
    forked.objective = reference.objective
    disturb(forked, 0.3, seed=2)
    return forked


class Vision:
    """Stands in for CLIP's image tower: linear, in float64."""

    def __init__(self, embeddings: int):
        generator = torch.Generator().manual_seed(6)
        self.weight = torch.randn(embeddings, 3 * (2 * SIDE) ** 2, generator=generator, dtype=torch.float64)

    def embed_images(self, images):
        return images.flatten(1) @ self.weight.T


def batch_of(reference: Backbone) -> Examples:
    generator = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    full = reference.encode_prompts([join_prompt(base, [target]) for base, target in TEXTS])
    base = reference.encode_prompts([join_prompt(base, ()) for base, _ in TEXTS])
    widened = [features.map(lambda tensor: tensor.double()) for features in (full, base)]
    records = tuple(Record(Path("x.png"), base, target) for base, target in TEXTS)
    return Examples(draw(2, CHANNELS, SIDE, SIDE), *widened, draw(2, 2).sigmoid(), draw(2, 5), draw(2, 5), records)


def features_of(scene, backbone: Backbone, x_t, t, text):
    """The prediction, and per layer {"Q": (B, heads, N, d), "K": (B, heads, T, d), ...}, by hooks of this test's own."""
    sites, outputs, handles = SITES[scene.family], {}, []
    for name, module in backbone.denoiser.named_modules():
        if name.endswith(tuple(sites.values())):
            handles.append(module.register_forward_hook(lambda _m, _a, out, name=name: outputs.update({name: out})))
    if scene.family == "unet":
        prediction = backbone.denoiser(x_t, t, text.embeddings).sample
    else:
        prediction = backbone.denoiser(
            hidden_states=x_t, timestep=t, encoder_hidden_states=text.embeddings, pooled_projections=text.pooled).sample
    for handle in handles:
        handle.remove()
    layers = []
    for name in [name for name in outputs if name.endswith(sites["Q"])]:
        layer = name.removesuffix(sites["Q"])
        found = {key: outputs[layer + site] for key, site in sites.items()}
        heads = backbone.denoiser.get_submodule(name.rpartition(".")[0]).heads
        layers.append({key: value if value.ndim == 4 else torch.stack(value.chunk(heads, dim=-1), dim=1)
                       for key, value in found.items()})
    return prediction, layers


def literal_layers(ref, leaves, sample):
    """literal.Layer of one sample; `leaves` are the response path's features."""
    out = []
    for frozen, learned in zip(ref, leaves, strict=True):
        side = round(learned["Q"].shape[2] ** 0.5)
        names = [(f"{key}_{path}", features[key]) for path, features in (("ref", frozen), ("res", learned))
                 for key in features if (key, path) != ("T", "ref")]
        out.append(literal.Layer(side, side, **{name: list(values[sample]) for name, values in names}))
    return out


def encoder_mean(layers, members):
    """Eq. 17; members (T, E) is not zero on the phrase's tokens of each encoder."""
    return literal.encoder_mean(layers, [column.nonzero().flatten().tolist() for column in members.T], SIDE, SIDE)


def base_tokens(scene, base_text) -> list[int]:
    """D4, D19: the words of the base text, first as CLIP reads them (after its start token), then as T5 does."""
    tokens = list(range(1, len(scene.reference.tokenizer(base_text).input_ids) - 1))
    if scene.family == "mmdit" and scene.reference.text_encoder_3 is not None:
        tokens += range(WINDOW, WINDOW + len(scene.reference.tokenizer_3(base_text).input_ids) - 1)
    return tokens


def literal_terms(scene, ref, leaves, eps_ref, eps_res, method):
    """{"text", "fine"} of Algorithm 1 and the SFCM of each sample, from the response path's features."""
    texts, fines, maps = [], [], []
    for b in range(len(TEXTS)):
        layers = literal_layers(ref, leaves, b)
        with torch.no_grad():  # D12
            M = literal.soft_map(eps_ref[b], eps_res[b], method.soft_map_norm)
            A = [encoder_mean(layers, scene.batch.full.phrase_weights[b, :, :, i]) for i in range(2)]
            sfcm = literal.refined_map(M, A, list(scene.batch.gamma[b]), method.phrase_reduce)
        text, fine = literal.alignment(layers, sfcm, base_tokens(scene, TEXTS[b][0]), method.align_reduction)
        texts.append(text)
        fines.append(fine)
        maps.append(torch.stack([torch.stack(row) for row in sfcm]))
    return {"text": sum(texts) / len(texts), "fine": sum(fines) / len(fines)}, torch.stack(maps)


def through_the_network(term, leaves, features, parameters):
    """d term / d parameters, where `term` was computed from `leaves`, which are copies of `features`."""
    flat = [(leaf[key], feature[key]) for leaf, feature in zip(leaves, features, strict=True) for key in leaf]
    gradients = torch.autograd.grad(term, [leaf for leaf, _ in flat], allow_unused=True)
    touched = [(feature, g) for (_, feature), g in zip(flat, gradients, strict=True) if g is not None]
    return torch.autograd.grad(
        [feature for feature, _ in touched], parameters, [g for _, g in touched], retain_graph=True, materialize_grads=True)


def drawn(scene, generator):
    """t, and a and b of x_t = a x_0 + b noise: line 20, or sigma drawn logit-normally and shifted (Eq. 13)."""
    if scene.family == "unet":
        t = torch.randint(1000, (len(TEXTS),), generator=generator)
        abar = scene.reference.scheduler.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        return t, abar.sqrt(), (1 - abar).sqrt()
    s = 1 / (1 + torch.exp(-torch.randn(len(TEXTS), generator=generator)))
    t = 1000 * (3 * s / (1 + 2 * s))
    sigma = t.double().view(-1, 1, 1, 1) / 1000
    return t, 1 - sigma, sigma


def expected(scene, method, seed):
    """{term: (weighted value, gradients)} and the mean of the SFCM."""
    generator, x_0 = torch.Generator().manual_seed(seed), scene.batch.latents
    t, a, b = drawn(scene, generator)
    noise = torch.randn(x_0.shape, generator=generator).double()
    x_t = a * x_0 + b * noise  # line 21
    with torch.no_grad():
        eps_ref, ref = features_of(scene, scene.reference, x_t, t, scene.batch.base)
    eps_res, res = features_of(scene, scene.response, x_t, t, scene.batch.full)
    leaves = [{key: value.detach().requires_grad_() for key, value in layer.items()} for layer in res]
    terms, sfcm = literal_terms(scene, ref, leaves, eps_ref, eps_res.detach(), method)
    found = {}
    for name, value in terms.items():
        value = LAMBDAS[name] * value
        found[name] = value, through_the_network(value, leaves, res, scene.parameters)
    target = noise if scene.family == "unet" else noise - x_0
    x_0_hat = x_t / a - b * eps_res / a if scene.family == "unet" else x_t - b * eps_res  # line 39
    images = scene.vision.embed_images(scene.response.decode(x_0_hat))
    gate = [float(ratio <= 1) for ratio in (b / a).flatten()]  # D15; of a flow: sigma <= 0.5
    assert sorted(gate) == [0, 1], "one sample must be gated away"
    enhanced = sum(g * literal.enhanced(images[row], scene.batch.image_embedding[row], scene.batch.target_embedding[row])
                   for row, g in enumerate(gate))
    for name, value in (("diff", (target - eps_res).square().mean()), ("enhanced", LAMBDAS["enhanced"] * enhanced)):
        gradients = torch.autograd.grad(value, scene.parameters, retain_graph=True, materialize_grads=True)
        found[name] = value, gradients
    return found, sfcm


@pytest.mark.parametrize("family, t5, reduction, phrase_reduce, norm, seed", [
    ("unet", True, "mean_sum", "sum", "l1", 3), ("unet", True, "mean_mean", "max", "l2", 1),
    ("unet", True, "l2norm", "mean", "l1", 6),
    ("mmdit", True, "mean_sum", "sum", "l1", 4), ("mmdit", True, "mean_mean", "max", "l2", 8),
    ("mmdit", True, "l2norm", "mean", "l1", 6), ("mmdit", False, "mean_sum", "sum", "l1", 4)])
def test_every_loss_and_its_gradient_to_every_trained_parameter(reference, family, t5, reduction, phrase_reduce, norm, seed):
    method = MethodConfig(align_reduction=reduction, phrase_reduce=phrase_reduce, soft_map_norm=norm)
    if not t5:
        reference = dataclasses.replace(reference, text_encoder_3=None)
    response = response_of(reference)
    scene = SimpleNamespace(family=family, reference=reference, response=response, batch=batch_of(reference), vision=Vision(5),
                            parameters=set_trainable(response, "cross"))
    empty = reference.encode_prompts([join_prompt("", ())]).map(lambda tensor: tensor.double())
    stage = DualPathStage(reference, response, scene.vision, method, empty)
    losses, report = stage.training_forward(scene.batch, torch.Generator().manual_seed(seed))
    wanted, sfcm = expected(scene, method, seed)
    assert 0.02 < sfcm.mean() < 0.9, "a map of zeros or ones would test nothing"
    torch.testing.assert_close(report["sfcm_mean"], sfcm.mean(), rtol=1e-6, atol=0)
    assert losses.keys() == wanted.keys()
    for name, (value, gradients) in wanted.items():
        assert losses[name].dtype == torch.float64
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=0, msg=name)
        found = torch.autograd.grad(losses[name], scene.parameters, retain_graph=True, materialize_grads=True)
        assert any(gradient.any() for gradient in gradients), name
        scale = max(gradient.abs().max() for gradient in gradients).item()
        for mine, theirs in zip(found, gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7 * scale, msg=f"d {name}")
