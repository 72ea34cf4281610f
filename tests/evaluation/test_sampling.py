import numpy as np
import pytest
import torch

from spf.config import GenerationRequest
from spf.evaluation.sampling import Sampling, initial_latents, sample, sample_guided, to_pixels
from spf.generation.guide import Guide
from spf.generation.service import GenerationService
from spf.method.phrases import join_prompt

HOW = Sampling(64, 3, 3.0)


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_a_picture_is_the_same_in_every_batch_and_on_the_page(tiny):
    service = GenerationService("cpu")
    prompts = [join_prompt("a person with red hair", []), join_prompt("a person", ["a winter hat"])]
    service.load("tiny")
    backbone = service._models["tiny"].reference
    together = to_pixels(sample(backbone, prompts, [5, 6], HOW)).astype(int)
    for index, (text, seed) in enumerate([("a person with red hair", 5), ("a person", 6)]):
        alone = to_pixels(sample(backbone, prompts[index:index + 1], [seed], HOW))[0].astype(int)
        assert np.abs(together[index] - alone).max() <= 1
        request = GenerationRequest(model="tiny", base_text=text, target_texts=("a winter hat",) if index else (), seed=seed,
                                    num_inference_steps=3, guidance_scale=3.0, map_steps=0)
        shown = np.asarray(service.generate(request).customized).astype(int)
        assert np.abs(together[index] - shown).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 10


def test_every_seed_has_its_own_noise(backbone):
    noise = initial_latents(backbone, [1, 2, 1], 64)
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])


class Recording(Guide):
    """Adds a constant to the text and to the latents of the first step."""

    def __init__(self):
        self.steps = []

    def text(self, backbone, full):
        return full.conditioned(lambda own: own + 0.5)

    def latents(self, backbone, step, t, x_t, full):
        self.steps.append((step, int(t), tuple(x_t.shape[:1])))
        return x_t + 0.3 if step == 0 else x_t


def test_a_guide_acts_on_each_picture_by_itself(backbone):
    prompts = [join_prompt("a person", ["a hat"]), join_prompt("a person with red hair", [])]
    plain = sample(backbone, prompts, [1, 2], HOW)
    torch.testing.assert_close(sample_guided(backbone, prompts, [1, 2], HOW, lambda prompt: Guide()), plain, atol=1e-4, rtol=1e-4)
    made = []
    guided = sample_guided(backbone, prompts, [1, 2], HOW, lambda prompt: made.append(Recording()) or made[-1])
    assert (guided - plain).abs().amax(dim=(1, 2, 3)).min() > 0.01
    times = [(step, int(t), (1,)) for step, t in enumerate(backbone.sampler(3).timesteps)]
    assert [guide.steps for guide in made] == [times, times]


def test_pixels_lie_as_they_do_when_read_back(tmp_path):
    pixels = to_pixels(torch.rand(2, 3, 4, 5) * 2 - 1)
    np.savez_compressed(tmp_path / "pixels.npz", pixels=pixels)
    with np.load(tmp_path / "pixels.npz") as file:
        again = file["pixels"]
    assert pixels.strides == again.strides and np.array_equal(pixels, again) and pixels.shape == (2, 4, 5, 3)
