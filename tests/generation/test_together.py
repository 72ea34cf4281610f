"""Several seeds in one batch: the pictures and maps that each of them gives alone, by fewer predictions."""

import json
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from spf import config, plan
from spf.backbones import checkpoints
from spf.backbones.base import joined
from spf.errors import Cancelled
from spf.generation import room
from spf.generation import service as service_module
from spf.generation.guide import Guide
from spf.generation.service import GenerationService
from spf.library import CustomizationCard
from spf.method.phrases import join_prompt

both_families = pytest.mark.parametrize("family", ["unet", "mmdit"])
LEVELS = 1  # of 255, by which a picture of a batch may differ: sums in another order round otherwise


@pytest.fixture
def taught(tiny, response):
    """A customization 'hat' of the tiny model."""
    before = checkpoints.load_backbone(tiny).denoiser.state_dict()
    card = CustomizationCard(name="hat", model="tiny", model_sha256=checkpoints.denoiser_hash(tiny), phrases=("a winter hat",),
                             stage="both", created="now")
    return checkpoints.save_customization(card, checkpoints.changed_tensors(before, response.denoiser.state_dict()))


def assert_same(one, other):
    assert one.request == other.request and one.prompt == other.prompt and one.scheduler == other.scheduler
    for name in ("original", "customized"):
        difference = np.abs(np.asarray(getattr(one, name), int) - np.asarray(getattr(other, name), int))
        assert difference.max() <= LEVELS
    assert len(one.maps) == len(other.maps)
    for mine, theirs in zip(one.maps, other.maps, strict=True):
        for name in ("soft_map", "sfcm", "phrase_maps", "target_maps", "original_maps", "layer_maps"):
            np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), atol=1e-3, err_msg=name)
        assert mine.timestep == theirs.timestep and mine.layer_groups == theirs.layer_groups


@both_families
@pytest.mark.parametrize("customization", [None, "hat"])
def test_a_batch_gives_what_every_seed_gives_alone(tiny, taught, ask, family, customization):
    request = ask(customization=customization, count=3)
    together = list(GenerationService("cpu").generate_all(request))
    service = GenerationService("cpu")
    for result, single in zip(together, request.one_by_one(), strict=True):
        assert_same(result, service.generate(single))
    assert len({result.customized.tobytes() for result in together}) == 3
    assert not np.allclose(together[0].maps[0].sfcm, together[1].maps[0].sfcm), "every seed has its own maps"
    assert all(set(result.seconds) == {"original", "customized", "maps"} and min(result.seconds.values()) > 0
               for result in together)


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "euler", "unipc"])
def test_samplers_that_look_back_keep_their_seeds_apart(tiny, ask, scheduler):
    request = ask(count=2, scheduler=scheduler, map_steps=0, num_inference_steps=5)
    service = GenerationService("cpu")
    for result, single in zip(service.generate_all(request), request.one_by_one(), strict=True):
        assert_same(result, GenerationService("cpu").generate(single))


def test_both_paths_of_all_seeds_take_one_prediction_each(tiny, taught, ask, counted):
    service = GenerationService("cpu")
    service.load("tiny")
    asked = counted(service._models["tiny"].reference)
    list(service.generate_all(ask(customization="hat", count=3, map_steps=1)))
    assert [len(x_t) for x_t, _ in asked] == [6, 6, 6, 3], "three steps of three guided seeds, and M at the last one"


def test_a_seed_whose_original_is_known_joins_without_drawing_it_again(tiny, taught, ask, counted):
    service = GenerationService("cpu")
    known = service.generate(ask(customization="hat", seed=4, map_steps=0))
    asked = counted(service._models["tiny"].reference)
    results = list(service.generate_all(ask(customization="hat", seed=3, count=3, map_steps=0)))
    assert [len(x_t) for x_t, _ in asked] == [4, 4, 4]
    assert results[1].original is known.original
    assert_same(results[1], known)


def test_what_does_not_fit_is_split_and_one_is_always_tried(tiny, ask, monkeypatch, counted):
    service, request = GenerationService("cpu"), ask(count=5, map_steps=0)
    service.load("tiny")
    each = room.seed_bytes(request, service._models["tiny"].reference, 64)
    sizes = []
    run = service_module.run_together
    monkeypatch.setattr(service_module, "run_together", lambda paths: sizes.append(len(paths)) or run(paths))
    for free, expected in ((2 * 2 * each, [2, 2, 1]), (0, [1] * 5), (2 * 100 * each, [5])):
        sizes.clear()
        monkeypatch.setattr(service_module, "free_bytes", lambda device, free=free: free)
        results = list(service.generate_all(request))
        assert sizes == expected and [result.request.seed for result in results] == [3, 4, 5, 6, 7]


def test_views_say_which_seed_they_are_of(tiny, ask, monkeypatch):
    seen = []
    monkeypatch.setattr(service_module, "seeds_at_once", lambda *args: 2)
    list(GenerationService("cpu").generate_all(ask(count=3), on_step=lambda index, view: seen.append((index, view.step))))
    assert sorted(seen) == [(index, step) for index in range(3) for step in (1, 2)]


def test_cancelling_ends_all_of_them(tiny, ask):
    steps = iter([False] * 4 + [True] * 10)
    service = GenerationService("cpu")
    with pytest.raises(Cancelled):
        list(service.generate_all(ask(count=3), is_cancelled=lambda: next(steps)))
    assert not service._lock.locked() and not service._originals


class Shift(Guide):
    """Moves every seed's latents on its own."""

    def latents(self, backbone, step, t, x_t, full):
        assert len(x_t) == 1
        return x_t + 0.1 * x_t.mean()


def test_a_guide_acts_on_every_seed_alone(tiny, ask):
    guides = {"magnet": lambda request, preset: Shift()}
    request = ask(count=2, map_steps=0, guide={"name": "magnet"})
    service = GenerationService("cpu", guides)
    for result, single in zip(service.generate_all(request), request.one_by_one(), strict=True):
        assert_same(result, GenerationService("cpu", guides).generate(single))


def test_prompts_of_different_lengths_are_joined_row_by_row(backbone):
    prompts = [join_prompt("a person, with red hair", ["a winter hat", "freckles"]), join_prompt("a person", ())]
    together, parts = backbone.encode_prompts(prompts), [backbone.encode_prompts([prompt]) for prompt in prompts]
    found = joined(parts)
    assert found.prompts == together.prompts
    for name in ("embeddings", "base_mask", "pad_mask", "phrase_weights", "target_weights"):
        torch.testing.assert_close(getattr(found, name), getattr(together, name), atol=1e-5, rtol=1e-5, msg=name)


@both_families
@pytest.mark.parametrize("map_steps", [0, 1])
def test_the_room_of_a_seed_is_at_least_what_its_tensors_take(tiny, ask, family, map_steps):
    """Counted on tensors without memory, at the size that the embedded models have."""
    preset = config.parse(config.ModelPreset, config.load_yaml(config.REPOSITORY / "configs/models" / (
        "pocket.yaml" if family == "unet" else "pocket-dit.yaml")))
    networks = plan.empty_networks(preset, plan.Option(1, "full"))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for network in networks.values():
        plan.become_fake(network, mode)
    backbone = plan.backbone_of(preset, networks)
    with mode, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text, shape = plan.text_features(backbone, 2), backbone.latent_shape(preset.resolution)
        with plan.LiveBytes([*backbone.denoiser.parameters(), *backbone.denoiser.buffers()]) as live:
            with backbone.capture() if map_steps else nullcontext() as response:
                backbone.predict(torch.zeros(2, *shape), torch.zeros(2), text)
            if map_steps:
                with backbone.capture() as reference:
                    backbone.predict(torch.zeros(1, *shape), torch.zeros(1), text[[1]])
                assert response.layers() and reference.layers(), "both are alive until the maps are drawn"
    said = room.seed_bytes(ask(map_steps=map_steps), backbone, preset.resolution)
    assert live.peak <= said <= 4 * live.peak


def test_the_command_line_draws_a_batch(tiny, command_line, tmp_path):
    arguments = ("generate", "--model", "tiny", "--base", "a person", "--target", "a winter hat", "--map-steps", "1")
    assert command_line(*arguments, "--seed", "7", "--count", "2", "--out", str(tmp_path / "both"))[0] == 0
    assert command_line(*arguments, "--seed", "8", "--out", str(tmp_path / "one"))[0] == 0
    pictures = [np.asarray(Image.open(folder / "customized.png"), int) for folder in (tmp_path / "both" / "8", tmp_path / "one")]
    assert np.abs(pictures[0] - pictures[1]).max() <= LEVELS
    described = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "both" / "8", tmp_path / "one")]
    assert described[0]["request"] == described[1]["request"] and described[0]["request"]["seed"] == 8
    with np.load(tmp_path / "both" / "8" / "maps.npz") as left, np.load(tmp_path / "one" / "maps.npz") as right:
        assert sorted(left) == sorted(right)
        np.testing.assert_allclose(left["sfcm"], right["sfcm"], atol=1e-3)
