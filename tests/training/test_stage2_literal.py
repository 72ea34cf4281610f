"""DualPathStage against tests/method/literal.py on the features of a real (tiny) U-Net, in float64.

What the stage does with hooks, SDPA and batches is done here with single numbers: every loss of Algorithm 1, lines 20-43,
and its gradient to every parameter that stage 2 trains.
"""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from spf.backbones.unet import UNetBackbone
from spf.config import MethodConfig
from spf.data.batches import Examples
from spf.data.records import Record
from spf.method.diffusion import EpsilonObjective
from spf.method.phrases import join_prompt
from spf.training.stages import DualPathStage, set_trainable

sys.path.insert(0, str(Path(__file__).parents[1] / "method"))
import literal  # noqa: E402

WINDOW, SIDE, CHANNELS, WIDTH = 13, 4, 2, 8
TEXTS = (("a hat, red", "a bow"), ("blue, a red hat", "a bow"))
LAMBDAS = {"text": 0.2, "fine": 0.1, "enhanced": 0.6}


@pytest.fixture
def reference(tokenizer, backbone) -> UNetBackbone:
    """So small that every number of it can be visited, and so lively that its attention is not uniform."""
    torch.manual_seed(4)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = WINDOW
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=WINDOW, bos_token_id=0, eos_token_id=1))
    unet = UNet2DConditionModel(
        sample_size=SIDE, in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=(4, 8), attention_head_dim=(1, 2),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH, norm_num_groups=2)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=CHANNELS)
    made = UNetBackbone(tokenizer, text_encoder.double(), unet.double(), vae.double(), backbone.scheduler)
    made.objective = EpsilonObjective(backbone.scheduler.alphas_cumprod.double())
    disturb(made, 1.0, seed=1)
    return made


def disturb(backbone: UNetBackbone, strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in backbone.trainable_parameters("cross"):
            parameter += strength * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def response_of(reference: UNetBackbone) -> UNetBackbone:
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


def batch_of(reference: UNetBackbone) -> Examples:
    generator = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    full = reference.encode_prompts([join_prompt(base, [target]) for base, target in TEXTS])
    base = reference.encode_prompts([join_prompt(base, ()) for base, _ in TEXTS])
    widened = [features.map(lambda tensor: tensor.double()) for features in (full, base)]
    records = tuple(Record(Path("x.png"), base, target) for base, target in TEXTS)
    return Examples(draw(2, CHANNELS, SIDE, SIDE), *widened, draw(2, 2).sigmoid(), draw(2, 5), draw(2, 5), records)


def features_of(backbone: UNetBackbone, x_t, t, embeddings):
    """The prediction, and per layer {"Q": (B, heads, N, d), "K": (B, heads, T, d)}, by hooks of this test's own."""
    outputs, handles = {}, []
    for name, module in backbone.denoiser.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            handles.append(module.register_forward_hook(lambda _m, _a, out, name=name: outputs.update({name: out})))
    prediction = backbone.denoiser(x_t, t, embeddings).sample
    for handle in handles:
        handle.remove()
    layers = []
    for name in [name for name in outputs if name.endswith("to_q")]:
        heads = backbone.denoiser.get_submodule(name.removesuffix(".to_q")).heads
        pair = {"Q": outputs[name], "K": outputs[name.removesuffix("q") + "k"]}
        layers.append({key: torch.stack(value.chunk(heads, dim=-1), dim=1) for key, value in pair.items()})
    return prediction, layers


def literal_layers(ref, leaves, sample):
    """literal.Layer of one sample; `leaves` are the response path's features."""
    out = []
    for frozen, learned in zip(ref, leaves, strict=True):
        side = round(learned["Q"].shape[2] ** 0.5)
        K_ref, K_res, Q_ref, Q_res = (list(values[sample]) for values in (frozen["K"], learned["K"], frozen["Q"], learned["Q"]))
        out.append(literal.Layer(side, side, K_ref, K_res, Q_ref, Q_res))
    return out


def literal_terms(scene, ref, leaves, eps_ref, eps_res, method):
    """{"text", "fine"} of Algorithm 1 and the SFCM of each sample, from the response path's features."""
    texts, fines, maps = [], [], []
    for b in range(len(TEXTS)):
        layers = literal_layers(ref, leaves, b)
        with torch.no_grad():  # D12
            M = literal.soft_map(eps_ref[b], eps_res[b], method.soft_map_norm)
            weights = scene.batch.full.phrase_weights[b, :, 0]
            tokens = [weights[:, i].nonzero().flatten().tolist() for i in range(weights.shape[1])]
            A = [literal.phrase_map(layers, phrase, SIDE, SIDE) for phrase in tokens]
            sfcm = literal.refined_map(M, A, list(scene.batch.gamma[b]), method.phrase_reduce)
        words = len(scene.reference.tokenizer(TEXTS[b][0]).input_ids) - 2
        text, fine = literal.alignment(layers, sfcm, list(range(1, 1 + words)), method.align_reduction)
        texts.append(text)
        fines.append(fine)
        maps.append(torch.stack([torch.stack(row) for row in sfcm]))
    return {"text": sum(texts) / len(texts), "fine": sum(fines) / len(fines)}, torch.stack(maps)


def through_the_network(term, leaves, features, parameters):
    """d term / d parameters, where `term` was computed from `leaves`, which are copies of `features`."""
    flat = [(leaf[key], feature[key]) for leaf, feature in zip(leaves, features, strict=True) for key in ("Q", "K")]
    gradients = torch.autograd.grad(term, [leaf for leaf, _ in flat], allow_unused=True)
    touched = [(feature, g) for (_, feature), g in zip(flat, gradients, strict=True) if g is not None]
    return torch.autograd.grad(
        [feature for feature, _ in touched], parameters, [g for _, g in touched], retain_graph=True, materialize_grads=True)


def expected(scene, method, seed):
    """{term: (weighted value, gradients)} and the mean of the SFCM."""
    generator, x_0 = torch.Generator().manual_seed(seed), scene.batch.latents
    t = torch.randint(1000, (len(x_0),), generator=generator)  # line 20
    noise = torch.randn(x_0.shape, generator=generator).double()
    abar = scene.reference.scheduler.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise  # line 21
    with torch.no_grad():
        eps_ref, ref = features_of(scene.reference, x_t, t, scene.batch.base.embeddings)
    eps_res, res = features_of(scene.response, x_t, t, scene.batch.full.embeddings)
    leaves = [{key: value.detach().requires_grad_() for key, value in layer.items()} for layer in res]
    terms, sfcm = literal_terms(scene, ref, leaves, eps_ref, eps_res.detach(), method)
    found = {}
    for name, value in terms.items():
        value = LAMBDAS[name] * value
        found[name] = value, through_the_network(value, leaves, res, scene.parameters)
    x_0_hat = x_t / abar.sqrt() - (1 - abar).sqrt() * eps_res / abar.sqrt()  # line 39
    images = scene.vision.embed_images(scene.response.decode(x_0_hat))
    gate = [float(((1 - a) / a).sqrt() <= 1) for a in abar.flatten()]  # D15
    assert sorted(gate) == [0, 1], "one sample must be gated away"
    enhanced = sum(g * literal.enhanced(images[b], scene.batch.image_embedding[b], scene.batch.target_embedding[b])
                   for b, g in enumerate(gate))
    for name, value in (("diff", (noise - eps_res).square().mean()), ("enhanced", LAMBDAS["enhanced"] * enhanced)):
        gradients = torch.autograd.grad(value, scene.parameters, retain_graph=True, materialize_grads=True)
        found[name] = value, gradients
    return found, sfcm


@pytest.mark.parametrize("reduction, phrase_reduce, norm, seed", [
    ("mean_sum", "sum", "l1", 3), ("mean_mean", "max", "l2", 1), ("l2norm", "mean", "l1", 6)])
def test_every_loss_and_its_gradient_to_every_trained_parameter(reference, reduction, phrase_reduce, norm, seed):
    method = MethodConfig(align_reduction=reduction, phrase_reduce=phrase_reduce, soft_map_norm=norm)
    response = response_of(reference)
    scene = SimpleNamespace(reference=reference, response=response, batch=batch_of(reference), vision=Vision(5),
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
