"""Every sampler of both families draws what diffusers' own pipeline draws with the same scheduler; sizes of pictures."""

import dataclasses

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from spf.backbones.base import Backbone
from spf.errors import InvalidInput
from spf.method.phrases import join_prompt

CLASSES = {"ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler,
           "unipc": UniPCMultistepScheduler}
PROMPT = join_prompt("a person, with red hair", ["a winter hat"])


@torch.inference_mode()
def sampled(backbone: Backbone, noise, name, steps, watch=lambda t, x_t, guided: None):
    text = backbone.encode_prompts([join_prompt("", ()), PROMPT])
    sampler = backbone.sampler(steps, name)
    x_t = noise * sampler.init_noise_sigma
    for t in sampler.timesteps:
        unconditional, conditional = backbone.predict(torch.cat([x_t] * 2), t.expand(2), text).chunk(2)
        guided = unconditional + 4.0 * (conditional - unconditional)
        watch(t, x_t, guided)
        x_t = sampler.step(guided, t, x_t).prev_sample
    return x_t


def with_spacing(backbone, spacing):
    config = {**backbone.scheduler.config, "timestep_spacing": spacing}
    return dataclasses.replace(backbone, scheduler=DDIMScheduler.from_config(config))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_sampler_draws_what_the_pipeline_draws(backbone, name, spacing):
    backbone = with_spacing(backbone, spacing)
    noise = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(1))
    pipeline = StableDiffusionPipeline(
        vae=backbone.vae, text_encoder=backbone.text_encoder, tokenizer=backbone.tokenizer, unet=backbone.denoiser,
        scheduler=CLASSES[name].from_config(backbone.scheduler.config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(PROMPT.text, num_inference_steps=6, guidance_scale=4.0, latents=noise, height=48, width=32,
                        output_type="latent").images
    torch.testing.assert_close(sampled(backbone, noise, name, 6), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_one_step_x0_holds_for_every_sampler_also_between_two_timesteps(backbone, spacing):
    """x_t of every sampler has the objective's coefficients: Euler's own one-step x_0 is the objective's."""
    backbone, seen = with_spacing(backbone, spacing), []
    sampled(backbone, torch.randn(1, 4, 8, 8), "euler", 5, lambda *values: seen.append(values))
    sampler = backbone.sampler(5, "euler")
    for t, x_t, guided in seen:
        own = sampler.step(guided, t, x_t).pred_original_sample
        torch.testing.assert_close(backbone.objective.predict_x0(x_t, guided, t[None]), own, rtol=1e-3, atol=1e-3)
    assert any(t % 1 for t, _, _ in seen) == (spacing == "linspace")


@pytest.mark.parametrize("family, own", [("unet", "ddim"), ("mmdit", "euler")])
def test_without_a_name_it_is_the_models_own(backbone, own):
    noise = torch.randn(1, 4, 8, 8)
    assert torch.equal(sampled(backbone, noise, None, 3), sampled(backbone, noise, own, 3))


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("family", ["mmdit"])
def test_a_flow_has_no_other_sampler(backbone, name):
    with pytest.raises(InvalidInput, match="choose euler") as caught:
        backbone.sampler(3, name)
    assert caught.value.field == "scheduler"


@pytest.mark.parametrize("family, height, width, shape", [
    ("unet", 32, None, (4, 8, 8)), ("unet", 36, 48, (4, 9, 12)), ("mmdit", 32, 48, (4, 8, 12))])
def test_latents_of_a_size(backbone, height, width, shape):
    assert backbone.latent_shape(height, width) == shape


@pytest.mark.parametrize("family, height, width, field, words", [
    ("unet", 32, 50, "width", "multiple of 4 .* example 48"), ("unet", 33, 32, "height", "multiple of 4"),
    ("mmdit", 32, 36, "width", "multiple of 8"), ("mmdit", 200, 32, "height", "at most 192"), ("mmdit", 2, 32, "height", "8")])
def test_a_size_that_cannot_be_drawn_is_named(backbone, height, width, field, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        backbone.latent_shape(height, width)
    assert caught.value.field == field
