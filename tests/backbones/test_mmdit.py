"""The MM-DiT family: equal to diffusers' own pipeline, capture, gradients through it, what trains, tokens of both encoders."""

import dataclasses
import os
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.attention_processor import Attention

from spf.backbones.base import TextFeatures
from spf.backbones.checkpoints import load_backbone
from spf.backbones.layouts import read_config
from spf.backbones.mmdit import MMDiTBackbone
from spf.backbones.source import PUBLISHED
from spf.method.attention import attention_map, encoder_phrase_maps
from spf.method.phrases import join_prompt

PROMPT = join_prompt("a person, with red hair", ["a winter hat"])
TEXT_SITES = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


@pytest.fixture
def family() -> str:
    return "mmdit"


@pytest.fixture(params=["with T5", "without T5", "without its tokenizer"])
def any_t5(backbone, request) -> MMDiTBackbone:
    changes = {"with T5": {}, "without T5": {"text_encoder_3": None},
               "without its tokenizer": {"text_encoder_3": None, "tokenizer_3": None}}
    return dataclasses.replace(backbone, **changes[request.param])


def pipeline_of(backbone) -> StableDiffusion3Pipeline:
    parts = {field.name: getattr(backbone, field.name) for field in dataclasses.fields(backbone)}
    pipeline = StableDiffusion3Pipeline(transformer=parts.pop("denoiser"), **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def inputs(backbone, height=8, width=8, batch=2):
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(batch, 4, height, width, generator=generator)
    return x_t, 1000 * torch.rand(batch, generator=generator), backbone.encode_prompts([PROMPT] * batch)


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_prompts_are_encoded_as_the_pipeline_encodes_them(any_t5):
    texts = ["a person, with red hair, a winter hat", "", "a turban"]
    features = any_t5.encode_prompts([join_prompt(text, ()) for text in texts])
    embeddings, _, pooled, _ = pipeline_of(any_t5).encode_prompt(
        texts, None, None, do_classifier_free_guidance=False, max_sequence_length=any_t5.t5_window)
    assert torch.equal(features.embeddings, embeddings) and torch.equal(features.pooled, pooled)
    assert features.embeddings.shape[1] == 77 + any_t5.t5_window == features.base_mask.shape[1]


def test_the_length_of_the_t5_part_is_that_of_its_tokenizer_up_to_256(backbone):
    assert backbone.t5_window == backbone.tokenizer_3.model_max_length == 64
    assert dataclasses.replace(backbone, text_encoder_3=None, tokenizer_3=None).t5_window == 256


@torch.inference_mode()
@pytest.mark.parametrize("height, width", [(32, 32), (48, 32)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_sampling_run_is_the_pipelines_picture(any_t5, height, width, dynamic):
    any_t5 = dataclasses.replace(any_t5, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic))
    noise = torch.randn(1, 4, height // 4, width // 4, generator=torch.Generator().manual_seed(1))
    text = any_t5.encode_prompts([join_prompt("", ()), PROMPT])
    x_t, sampler = noise, any_t5.sampler(5, latent_size=tuple(noise.shape[-2:]))
    for t in sampler.timesteps:
        unconditional, conditional = any_t5.predict(torch.cat([x_t] * 2), t.expand(2), text).chunk(2)
        x_t = sampler.step(unconditional + 4.0 * (conditional - unconditional), t, x_t).prev_sample
    expected = pipeline_of(any_t5)(
        PROMPT.text, num_inference_steps=5, guidance_scale=4.0, latents=noise, height=height, width=width,
        max_sequence_length=any_t5.t5_window, output_type="latent").images
    # not bit for bit: the pipeline encodes the two prompts one by one
    torch.testing.assert_close(x_t, expected, rtol=1e-5, atol=1e-5)
    latents = expected / any_t5.vae.config.scaling_factor + any_t5.vae.config.shift_factor  # as the pipeline decodes
    torch.testing.assert_close(any_t5.decode(x_t), any_t5.vae.decode(latents).sample, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_captured_projections_give_the_librarys_own_attention(backbone):
    """D20: the joint softmax over image and text, rebuilt from what was captured, is what the layer handed on."""
    before_out, values = {}, {}
    for name, module in backbone.denoiser.named_modules():
        if name.endswith(".attn.to_out.0"):
            module.register_forward_pre_hook(lambda _m, args, name=name: before_out.update({name[:-9]: args[0]}))
        if name.endswith(".attn.add_v_proj"):
            module.register_forward_hook(lambda _m, _a, out, name=name: values.update({name[:-11]: out}))
    with backbone.capture() as features:
        backbone.predict(*inputs(backbone))
    layers = features.layers()
    assert [layer.name for layer in layers] == [f"transformer_blocks.{i}.attn" for i in range(3)], "no attn2 among them"
    for layer in layers:
        a = layer.attention
        text_value = values[layer.name].unflatten(-1, (2, 16)).transpose(1, 2)
        keys, value = torch.cat([a.image_key, a.text_key], 2), torch.cat([layer.image_value, text_value], 2)
        probabilities = torch.softmax(a.query @ keys.mT / 4, dim=-1)
        out = (probabilities @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(out, before_out[layer.name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(attention_map(a.query, a.text_key, a.image_key), probabilities[..., 16:])
        assert probabilities.std(dim=-1).max() > 1e-3, "attention that is the same everywhere would prove nothing"


def test_the_features_of_eq_14_and_15_have_their_shapes(any_t5):
    with any_t5.capture() as features:
        any_t5.predict(*inputs(any_t5, 8, 12))
    tokens = 77 + any_t5.t5_window
    for layer in features.layers():
        assert layer.grid == layer.attention.grid == (4, 6)
        assert layer.text.shape == layer.attention.text_key.shape == (2, 2, tokens, 16)
        assert layer.image.shape == layer.image_key.shape == layer.image_value.shape == (2, 2, 24, 16)
        assert layer.image is layer.attention.query and layer.image_key is layer.attention.image_key
        assert not torch.equal(layer.text, layer.attention.text_key), "Q^txt is not K^txt"


def test_without_qk_norm_the_projections_are_captured(backbone):
    torch.manual_seed(0)
    plain = backbone.denoiser.from_config({**backbone.denoiser.config, "qk_norm": None})
    made = dataclasses.replace(backbone, denoiser=plain)
    seen = {}
    for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj"):
        made.denoiser.transformer_blocks[2].attn.get_submodule(name).register_forward_hook(
            lambda _m, _a, out, name=name: seen.update({name: out.unflatten(-1, (2, 16)).transpose(1, 2)}))
    with made.capture() as features:
        made.predict(*inputs(made))
    last = features.layers()[2]
    for found, name in ((last.image, "to_q"), (last.image_key, "to_k"), (last.image_value, "to_v"), (last.text, "add_q_proj"),
                        (last.attention.text_key, "add_k_proj")):
        assert torch.equal(found, seen[name]), name


def test_capturing_changes_no_bit_and_leaves_no_hook(any_t5):
    arguments = inputs(any_t5)
    processors = dict(any_t5.denoiser.attn_processors)
    plain, before = any_t5.predict(*arguments), hooks(any_t5.denoiser)
    with any_t5.capture() as features:
        captured = any_t5.predict(*arguments)
        assert hooks(any_t5.denoiser) > before
    assert torch.equal(plain, captured) and hooks(any_t5.denoiser) == before
    assert dict(any_t5.denoiser.attn_processors) == processors
    assert features.layers(), "what was captured stays readable after the block"


def test_gradient_checkpointing_gives_the_same_gradients_through_captured_features(response, plain_and_recomputed):
    plain, recomputed = plain_and_recomputed(response, inputs(response))
    assert any(gradient is not None and gradient.any() for gradient in plain)
    for a, b in zip(plain, recomputed, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_the_last_block_learns_through_its_text_queries(response):
    """Its text stream ends there, so nothing but Eq. 14 moves add_q_proj."""
    weight = response.denoiser.transformer_blocks[2].attn.add_q_proj.weight.requires_grad_()
    with response.capture() as features:
        prediction = response.predict(*inputs(response))
    assert not torch.autograd.grad(prediction.sum(), weight, retain_graph=True)[0].any()
    assert torch.autograd.grad((features.layers()[2].text ** 4).sum(), weight)[0].any()


def test_stage_2_trains_the_joint_projections_of_both_streams_only(backbone):
    """D2: not the image-only attn2 of dual-attention blocks, no MLP, no norm."""
    pattern = re.compile(r"\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)\.(weight|bias)$")
    everything = [name for name, _ in backbone.denoiser.named_parameters()]
    cross = [name for name, _ in backbone.trainable_parameters("cross")]
    assert cross == [name for name in everything if pattern.search(name)]
    assert len(cross) == 2 * (3 * 8 - 1), "the last block has no to_add_out"
    assert any(".attn2." in name for name in everything) and isinstance(backbone.denoiser.transformer_blocks[0].attn2, Attention)
    assert [name for name, _ in backbone.trainable_parameters("full")] == everything


def test_every_phrase_has_tokens_in_both_encoders(backbone):
    prompt = join_prompt("a person, red hair, red hat", ["a winter hat", "a turban"])
    features = backbone.encode_prompts([prompt])
    assert features.phrase_weights.shape == (1, 141, 2, 3) and features.target_weights.shape == (1, 141, 2, 2)
    clip, t5 = features.phrase_weights[0, :77], features.phrase_weights[0, 77:]
    assert not clip[:, 1].any() and not t5[:, 0].any(), "each encoder's column marks its own tokens"
    torch.testing.assert_close(features.phrase_weights.sum(1), torch.ones(1, 2, 3))
    torch.testing.assert_close(features.target_weights.sum(1), torch.ones(1, 2, 2))
    ids = backbone.tokenizer_3(prompt.text).input_ids
    pieces = [backbone.tokenizer_3.convert_ids_to_tokens(ids[i]) for i in t5[:, 1, 1].nonzero().flatten()]
    assert pieces == ["\u2581red", "\u2581hair,"], "a piece that ends in a comma belongs to its word"


def test_the_base_rows_are_the_same_positions_in_both_prompts(backbone):
    full, base = (backbone.encode_prompts([prompt]) for prompt in (PROMPT, join_prompt(PROMPT.base.text, ())))
    assert torch.equal(full.base_mask, base.base_mask)
    words = base.base_mask[0].bool()
    assert words[:77].sum() > 4 and words[77:].sum() > 4
    assert torch.equal(full.embeddings[0, :77][words[:77]], base.embeddings[0, :77][words[:77]]), "CLIP is causal"
    assert not torch.equal(full.embeddings[0, 77:][words[77:]], base.embeddings[0, 77:][words[77:]]), "T5 is not"
    assert not torch.equal(full.pooled, base.pooled), "D21: each path has the pooled embedding of its own prompt"


def test_without_t5_its_place_belongs_to_nothing(backbone):
    without = dataclasses.replace(backbone, text_encoder_3=None)
    features, both = without.encode_prompts([PROMPT]), backbone.encode_prompts([PROMPT])
    assert features.phrase_weights.shape == (1, 141, 1, 2)
    for name in ("base_mask", "pad_mask", "phrase_weights", "target_weights"):
        values = getattr(features, name)
        assert not values[:, 77:].any(), "D19: CLIP rows only"
        expected = getattr(both, name)[:, :77]
        assert torch.equal(values[:, :77], expected if values.ndim == 2 else expected[:, :, :1])
    assert not features.embeddings[:, 77:].any()


def test_what_does_not_fit_t5_is_dropped_for_clip_too(backbone):
    prompt = backbone.encode_prompts([join_prompt(", ".join(["xxxxxxxxxx"] * 9), ["a hat"])]).prompts[0]
    assert 0 < len(prompt.phrases) < 9
    assert len(backbone.tokenizer_3(prompt.text).input_ids) <= 64


def test_dropped_captions_drop_the_pooled_embedding_too(backbone):
    features = backbone.encode_prompts([PROMPT, join_prompt("a person", ["a turban"])])
    empty = backbone.encode_prompts([join_prompt("", ())])
    dropped = features.where(torch.tensor([True, False]), empty)
    for name in ("embeddings", "pooled"):
        found = getattr(dropped, name)
        assert torch.equal(found[0], getattr(empty, name)[0]) and torch.equal(found[1], getattr(features, name)[1])
    assert torch.equal(dropped.phrase_weights, features.phrase_weights)
    assert not torch.equal(features[[0]].pooled, empty.pooled)


def test_the_pooled_embedding_reaches_the_prediction(backbone):
    x_t, t, text = inputs(backbone)
    other = dataclasses.replace(text, pooled=text.pooled + 1)
    assert not torch.equal(backbone.predict(x_t, t, text), backbone.predict(x_t, t, other))


def test_everything_is_frozen_until_a_stage_says_otherwise(backbone):
    modules = (backbone.denoiser, backbone.text_encoder, backbone.text_encoder_2, backbone.text_encoder_3, backbone.vae)
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())
    assert not any(module.training for module in modules)


def test_a_fork_shares_everything_but_the_denoiser(backbone):
    forked = backbone.fork()
    shared = {field.name for field in dataclasses.fields(backbone)} - {"denoiser"}
    assert all(getattr(forked, name) is getattr(backbone, name) for name in shared)
    with torch.no_grad():
        for parameter in forked.denoiser.parameters():
            parameter.zero_()
    assert not forked.predict(*inputs(backbone)).any() and backbone.predict(*inputs(backbone)).any()


@pytest.mark.parametrize("shift", [None, 0.0, 0.3])
def test_latents_are_shifted_and_scaled_as_the_pipeline_undoes_it(backbone, shift):
    torch.manual_seed(1)
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, shift_factor=shift,
                        scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)
    made = dataclasses.replace(backbone, vae=vae)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = made.encode_images(images)
    mode = vae.encode(images).latent_dist.mode()
    assert tuple(latents.shape[1:]) == made.latent_shape(16) == (4, 8, 8)
    torch.testing.assert_close(latents, (mode - (shift or 0)) * 1.5)
    latents.requires_grad_()
    decoded = made.decode(latents)
    torch.testing.assert_close(decoded, vae.decode(mode).sample, rtol=1e-4, atol=1e-5)
    decoded.sum().backward()
    assert latents.grad.any(), "D16: the decoder is frozen, never cut off from the gradient"


def test_the_objective_is_the_schedulers_flow(backbone):
    """Eq. 13: x_t of the objective at a timestep of the sampler is what the scheduler itself makes of noise and picture."""
    sampler = backbone.sampler(4)
    x_0, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    objective = backbone.objective
    assert objective.shift == 3.0
    x_t = objective.add_noise(x_0, noise, sampler.timesteps)
    torch.testing.assert_close(x_t, sampler.scale_noise(x_0, sampler.timesteps, noise))
    velocity = objective.target(x_0, noise, sampler.timesteps)
    torch.testing.assert_close(objective.predict_x0(x_t, velocity, sampler.timesteps), x_0)
    last = sampler.timesteps[-1:]
    backwards = backbone.sampler(4)
    backwards._init_step_index(last[0])
    torch.testing.assert_close(
        backwards.step(velocity[-1:], last[0], x_t[-1:]).prev_sample, objective.predict_x0(x_t[-1:], velocity[-1:], last))


def test_a_saved_model_predicts_as_before(backbone, tiny):
    arguments = inputs(backbone)
    loaded = load_backbone(tiny)
    assert isinstance(loaded, MMDiTBackbone)
    assert torch.equal(loaded.predict(*arguments), backbone.predict(*arguments))
    assert torch.equal(loaded.encode_prompts([PROMPT]).embeddings, arguments[2].embeddings[:1])
    assert loaded.sampler(3).timesteps.tolist() == backbone.sampler(3).timesteps.tolist()


@pytest.mark.parametrize("left_out", [("text_encoder_3",), ("text_encoder_3", "tokenizer_3")])
def test_t5_may_be_left_out_of_the_folder(backbone, tiny, model_folder, tmp_path, left_out):
    shutil.copytree(model_folder, tmp_path / "model", copy_function=os.link, ignore=shutil.ignore_patterns(*left_out))
    loaded = load_backbone(tiny.model_copy(update={"pretrained_model_name_or_path": str(tmp_path / "model")}),
                           dtype=torch.bfloat16)
    assert loaded.text_encoder_3 is None and (loaded.tokenizer_3 is None) == ("tokenizer_3" in left_out)
    assert loaded.t5_window == (256 if "tokenizer_3" in left_out else 64)
    assert {parameter.dtype for module in loaded.networks().values() for parameter in module.parameters()} == {torch.bfloat16}
    x_t, t, _ = inputs(backbone)
    predicted = loaded.predict(x_t, t, loaded.encode_prompts([PROMPT] * 2))
    assert predicted.dtype == torch.float32 and predicted.isfinite().all()


@torch.no_grad()
def test_stable_diffusion_35_medium_has_its_published_shapes(backbone):
    """On the meta device: 24 joint attentions, 4096 image tokens at 1024 px, 77 CLIP and 256 T5 tokens, no attn2."""
    with torch.device("meta"):
        denoiser = SD3Transformer2DModel.from_config(read_config(PUBLISHED["mmdit"] / "transformer" / "config.json"))
        true_size = dataclasses.replace(backbone, denoiser=denoiser)
        zeros = torch.zeros(1, 333, 2, 3)
        mask = zeros[..., 0, 0]
        text = TextFeatures(torch.zeros(1, 333, 4096), mask, mask, zeros, zeros, (PROMPT,), torch.zeros(1, 2048))
        x_t = torch.zeros(1, 16, 128, 128)
        with true_size.capture() as features:
            assert true_size.predict(x_t, torch.zeros(1), text).shape == x_t.shape
    layers = features.layers()
    assert len(layers) == 24 and {layer.grid for layer in layers} == {(64, 64)}
    assert {layer.text.shape for layer in layers} == {(1, 24, 333, 64)}
    assert {layer.image.shape for layer in layers} == {layer.image_value.shape for layer in layers} == {(1, 24, 4096, 64)}
    maps = encoder_phrase_maps([layer.attention for layer in layers], zeros, (128, 128))
    assert maps.shape == (1, 3, 128, 128)
    cross = sum(parameter.numel() for _, parameter in true_size.trainable_parameters("cross"))
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == pytest.approx(2.24e9, rel=0.01)
    assert cross == 24 * 8 * (1536 * 1536 + 1536) - (1536 * 1536 + 1536), "q, k, v, out of both; the last has no to_add_out"
