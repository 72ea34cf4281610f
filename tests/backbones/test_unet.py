"""The U-Net family: capture, gradients through it, what trains, what is shared, and pictures in and out."""

import re

import pytest
import torch

from spf.backbones.capture import capture
from spf.method.attention import attention_map
from spf.method.phrases import join_prompt

PROMPT = join_prompt("a person, with red hair", ["a winter hat"])


def inputs(backbone, height=8, width=8, batch=2):
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(batch, 4, height, width, generator=generator)
    return x_t, torch.randint(0, 1000, (batch,), generator=generator), backbone.encode_prompts([PROMPT] * batch)


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_captured_q_and_k_give_the_librarys_own_attention_probabilities(response):
    seen, handles = {}, []
    for name, module in response.denoiser.named_modules():
        if name.endswith(".attn2"):
            handles.append(module.register_forward_pre_hook(
                lambda _m, args, kwargs, name=name: seen.update({name: (args[0], kwargs["encoder_hidden_states"])}),
                with_kwargs=True))
    with response.capture() as features:
        response.predict(*inputs(response))
        layers = features.layers()
    assert len(layers) == 7 and len({layer.grid for layer in layers}) == 2
    for layer in layers:
        attention, (hidden, text) = response.denoiser.get_submodule(layer.name), seen[layer.name]
        expected = attention.get_attention_scores(
            attention.head_to_batch_dim(attention.to_q(hidden)), attention.head_to_batch_dim(attention.to_k(text)))
        a = layer.attention
        found = attention_map(a.query, a.text_key, scale=a.scale)
        torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-5, atol=1e-7)
        assert found.std(dim=-1).max() > 1e-3, "attention that is the same everywhere would prove nothing"


def test_the_features_of_eq_3_and_4_are_the_layers_keys_and_queries(backbone):
    with backbone.capture() as features:
        backbone.predict(*inputs(backbone))
        for layer in features.layers():
            assert layer.text is layer.attention.text_key and layer.text.shape[2] == backbone.window
            assert layer.image is layer.image_key is layer.image_value is layer.attention.query
            assert layer.image.shape[2] == layer.grid[0] * layer.grid[1]


def test_capturing_changes_no_bit_and_leaves_no_hook(backbone):
    arguments = inputs(backbone)
    plain, before = backbone.predict(*arguments), hooks(backbone.denoiser)
    with backbone.capture() as features:
        captured = backbone.predict(*arguments)
        assert hooks(backbone.denoiser) > before
    assert torch.equal(plain, captured) and hooks(backbone.denoiser) == before
    assert features.layers(), "what was captured stays readable after the block"


def test_an_error_inside_the_block_removes_every_hook(backbone):
    before = hooks(backbone.denoiser)
    with pytest.raises(RuntimeError, match="out of memory"), backbone.capture():
        raise RuntimeError("out of memory")
    assert hooks(backbone.denoiser) == before


def test_an_unknown_module_is_refused_before_any_hook_is_set(backbone):
    before = hooks(backbone.denoiser)
    with pytest.raises(AttributeError), capture(backbone.denoiser, ["conv_in", "no.such.module"]):
        pass
    assert hooks(backbone.denoiser) == before


def test_the_last_pass_wins(backbone):
    x_t, t, text = inputs(backbone)
    with backbone.capture() as features:
        backbone.predict(x_t, t, text)
        first = features.layers()[0].image
        backbone.predict(x_t * 2, t, text)
        second = features.layers()[0].image
    with backbone.capture() as features:
        backbone.predict(x_t * 2, t, text)
    assert torch.equal(second, features.layers()[0].image) and not torch.equal(first, second)


def test_gradient_checkpointing_gives_the_same_gradients_through_captured_features(response, plain_and_recomputed):
    plain, recomputed = plain_and_recomputed(response, inputs(response))
    assert any(gradient is not None and gradient.any() for gradient in plain)
    for a, b in zip(plain, recomputed, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("height, width", [(8, 12), (12, 8), (5, 7), (16, 4), (2, 2)])
def test_grids_of_latents_that_are_not_square(backbone, height, width):
    x_t, t, text = inputs(backbone, height, width)
    with backbone.capture() as features:
        assert backbone.predict(x_t, t, text).shape == x_t.shape
        grids = {layer.grid for layer in features.layers()}
        for layer in features.layers():
            assert layer.image.shape[2] == layer.grid[0] * layer.grid[1]
    assert grids == {(height, width), (-(-height // 2), -(-width // 2))}


def test_base_tokens_have_the_same_embeddings_in_both_paths(backbone):
    """0.5: the text encoder is causal, so the target after the base text changes nothing before it."""
    full, base = (backbone.encode_prompts([prompt]) for prompt in (PROMPT, join_prompt(PROMPT.base.text, ())))
    words = base.base_mask.bool()
    assert torch.equal(full.embeddings[words], base.embeddings[words])
    assert torch.equal(full.base_mask, base.base_mask) and words.sum() > 3
    assert not torch.equal(full.embeddings, base.embeddings), "behind the base text they must differ"


def test_many_prompts_are_encoded_like_one(backbone):
    prompts = [join_prompt(f"a person number {i}", ()) for i in range(130)]
    together = backbone.encode_prompts(prompts)
    assert together.embeddings.shape == (130, 77, 32)
    for i in (0, 63, 64, 129):
        alone = backbone.encode_prompts([prompts[i]])
        torch.testing.assert_close(together.embeddings[i], alone.embeddings[0], rtol=1e-4, atol=1e-5)


def test_rows_of_text_features_stay_together(backbone):
    features = backbone.encode_prompts([join_prompt(text, ()) for text in ("a man, red", "a dog", "a cat, blue, big")])
    picked = features[[2, 0, 2]]
    assert [prompt.text for prompt in picked.prompts] == ["a cat, blue, big", "a man, red", "a cat, blue, big"]
    for name in ("embeddings", "base_mask", "pad_mask", "phrase_weights", "target_weights"):
        assert torch.equal(getattr(picked, name), getattr(features, name)[[2, 0, 2]])


def test_phrase_means_are_means_over_the_tokens_of_each_phrase(backbone):
    features = backbone.encode_prompts([join_prompt("a winter hat, red", ["a turban", "blue hair"])])
    phrases, target = features.phrase_means()
    for column in range(2):
        tokens = features.phrase_weights[0, :, 0, column] > 0
        torch.testing.assert_close(phrases[0, column], features.embeddings[0, tokens].mean(0))
    means = [features.embeddings[0, features.target_weights[0, :, 0, column] > 0].mean(0) for column in range(2)]
    torch.testing.assert_close(target[0], torch.stack(means).mean(0))


def test_cross_trains_exactly_the_cross_attention_projections(backbone):
    """D2, Appendix E: q, k, v and out of attn2; the output projection has a bias."""
    pattern = re.compile(r"\.attn2\.(to_q\.weight|to_k\.weight|to_v\.weight|to_out\.0\.weight|to_out\.0\.bias)$")
    everything = [name for name, _ in backbone.denoiser.named_parameters()]
    cross = [name for name, _ in backbone.trainable_parameters("cross")]
    assert cross == [name for name in everything if pattern.search(name)] and len(cross) == 7 * 5
    assert [name for name, _ in backbone.trainable_parameters("full")] == everything


def test_everything_is_frozen_until_a_stage_says_otherwise(backbone):
    modules = (backbone.denoiser, backbone.text_encoder, backbone.vae)
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())
    assert not any(module.training for module in modules)


def test_a_fork_shares_everything_but_the_denoiser(backbone):
    forked = backbone.fork()
    assert forked.text_encoder is backbone.text_encoder and forked.vae is backbone.vae
    with torch.no_grad():
        for parameter in forked.denoiser.parameters():
            parameter.zero_()
    assert not forked.predict(*inputs(backbone)).any() and backbone.predict(*inputs(backbone)).any()


def test_latents_have_the_announced_shape_and_pictures_come_back(backbone):
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = backbone.encode_images(images)
    assert tuple(latents.shape[1:]) == backbone.latent_shape(32) == (4, 8, 8)
    latents.requires_grad_()
    decoded = backbone.decode(latents)
    assert decoded.shape == images.shape
    decoded.sum().backward()
    assert latents.grad.any(), "D16: the decoder is frozen, never cut off from the gradient"


def test_scaling_is_undone_by_decoding(backbone):
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    plain, picture = backbone.encode_images(images), backbone.decode(backbone.encode_images(images))
    backbone.vae.register_to_config(scaling_factor=0.25)
    torch.testing.assert_close(backbone.encode_images(images), 0.25 * plain)
    torch.testing.assert_close(backbone.decode(0.25 * plain), picture)


def test_every_sampler_is_its_own_and_runs_from_noise_to_picture(backbone):
    few, many = backbone.sampler(3), backbone.sampler(20)
    assert len(few.timesteps) == 3 and len(many.timesteps) == 20
    assert many.timesteps[0] == 999 and (many.timesteps.diff() < 0).all()
    x_t = torch.randn(1, 4, 8, 8)
    assert torch.equal(*(backbone.sampler(3).step(x_t, few.timesteps[0], x_t).prev_sample for _ in range(2)))
