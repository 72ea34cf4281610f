"""The service: what it loads once, what it remembers, and what it refuses."""

import shutil

import numpy as np
import pytest
import torch

from spf import library
from spf.backbones import checkpoints
from spf.config import MethodConfig
from spf.errors import Cancelled, CustomizationError, ModelNotFound
from spf.generation import service as service_module
from spf.generation.service import GenerationService
from spf.library import CustomizationCard

both_families = pytest.mark.parametrize("family", ["unet", "mmdit"])


@pytest.fixture
def service(tiny, tmp_path, monkeypatch) -> GenerationService:
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    return GenerationService("cpu")


@pytest.fixture
def teach(tiny, response):
    """teach(name, factor, method): write a customization of the tiny model."""

    def write(name: str = "hat", factor: float = 1.0, method: MethodConfig = MethodConfig()) -> None:
        card = CustomizationCard(name=name, model="tiny", model_sha256=checkpoints.denoiser_hash(tiny),
                                 phrases=("a winter hat",), stage="both", created="now", method=method)
        tensors = {key: factor * parameter for key, parameter in response.trainable_parameters("cross")}
        checkpoints.save_customization(card, tensors)

    return write


def predictions_of_the_reference(service, counted) -> list:
    service.load("tiny")
    return counted(service._models["tiny"].reference)


@both_families
def test_a_swapped_phrase_draws_only_the_response_path_again(service, teach, ask, counted, monkeypatch):
    teach()
    asked = predictions_of_the_reference(service, counted)
    first = service.generate(ask(customization="hat", map_steps=1))
    assert len(asked) == 3 + 1, "three steps, and M at one of them"
    clip, seen = service._models["tiny"].clip, []
    embed = clip.embed_images
    monkeypatch.setattr(clip, "embed_images", lambda images: seen.append(images) or embed(images))
    encoded = service._models["tiny"].encode.cache_info().misses
    asked.clear()
    second = service.generate(ask(customization="hat", map_steps=1, target_texts=("a turban",)))
    assert len(asked) == len(seen) == service._models["tiny"].encode.cache_info().misses - encoded == 1
    assert second.original.tobytes() == first.original.tobytes()
    fresh = GenerationService("cpu").generate(ask(customization="hat", map_steps=1, target_texts=("a turban",)))
    assert second.customized.tobytes() == fresh.customized.tobytes() and second.metrics == fresh.metrics


@both_families
def test_a_moved_weight_encodes_no_text_again(service, teach, ask):
    teach()
    service.generate(ask(customization="hat", map_steps=1, target_weights=(0.5,), negative_prompt="a photo"))
    encode = service._models["tiny"].encode
    before = encode.cache_info().misses
    weaker = ask(customization="hat", map_steps=1, target_weights=(0.2,), negative_prompt="a photo")
    moved = service.generate(weaker)
    assert encode.cache_info().misses == before > 0
    assert moved.customized.tobytes() == GenerationService("cpu").generate(weaker).customized.tobytes()
    assert encode.cache_info().maxsize == service_module.TEXTS_KEPT


def test_another_text_draws_the_original_again(service, ask, counted):
    asked = predictions_of_the_reference(service, counted)
    first = service.generate(ask(map_steps=0, target_texts=()))
    asked.clear()
    second = service.generate(ask(map_steps=0, target_texts=(), base_text="a person"))
    assert len(asked) == 6 and first.original.tobytes() != second.original.tobytes()


def test_a_cancelled_generation_is_not_remembered(service, ask, counted):
    steps = iter([False, False, True])
    with pytest.raises(Cancelled):
        service.generate(ask(map_steps=0), is_cancelled=lambda: next(steps))
    asked = predictions_of_the_reference(service, counted)
    service.generate(ask(map_steps=0, num_inference_steps=3))
    assert len(asked) == 6
    assert not service._lock.locked()


def test_models_are_loaded_once(service, ask, monkeypatch):
    loads = []
    load = checkpoints.load_backbone
    monkeypatch.setattr(service_module.checkpoints, "load_backbone", lambda *args: loads.append(1) or load(*args))
    for seed in (1, 2):
        service.generate(ask(seed=seed, num_inference_steps=1, map_steps=0))
    assert loads == [1] and service.load("tiny").name == "tiny"


def test_a_customization_that_was_taught_again_is_loaded_again(service, teach, ask):
    teach(factor=1.0)
    before = service.generate(ask(customization="hat", map_steps=0))
    teach(factor=0.5)
    after = service.generate(ask(customization="hat", map_steps=0))
    assert before.customized.tobytes() != after.customized.tobytes()
    assert before.original.tobytes() == after.original.tobytes()


def test_a_customization_that_is_deleted_while_its_portrait_is_drawn_is_drawn_to_the_end(service, teach, ask, spf_home):
    teach()
    asked = ask(customization="hat", map_steps=3)
    whole = service.generate(asked)
    teach(factor=0.5)
    service.generate(asked)  # other weights are applied by now
    teach()
    drawn = service.generate(asked, lambda view: shutil.rmtree(spf_home / "customizations" / "hat", ignore_errors=True))
    assert not (spf_home / "customizations" / "hat").exists()
    assert drawn.customized.tobytes() == whole.customized.tobytes()
    with pytest.raises(CustomizationError, match="hat"):
        service.generate(asked)


def test_maps_are_drawn_by_the_readings_a_customization_was_trained_with(service, teach, ask):
    teach("a")
    teach("b", method=MethodConfig(phrase_reduce="max", soft_map_norm="l2"))
    first, second = (service.generate(ask(customization=name, map_steps=1)) for name in ("a", "b"))
    assert first.customized.tobytes() == second.customized.tobytes()
    assert not np.array_equal(first.maps[0].soft_map, second.maps[0].soft_map)


def test_customizations_are_mixed_by_weight_and_asked_for_in_one_text(service, teach, ask):
    teach("a", factor=0.9)
    teach("b", factor=1.3)
    pictures = {text: service.generate(ask(customization=text, map_steps=0)).customized.tobytes()
                for text in ("a", "a:0.5", "a:0.5+b:0.5", "b:0.5+a:0.5", "a+b:-0.5", "a:1.0")}
    assert pictures["a"] == pictures["a:1.0"] and len(set(pictures.values())) >= 4
    assert len(service._responses) <= service_module.RESPONSES_KEPT
    assert ask(customization="a:1.0+b:0.50").customization == "a+b:0.5"


def test_memory_is_bounded(service, teach, ask, monkeypatch):
    monkeypatch.setattr(service_module, "RESPONSES_KEPT", 2)
    service._originals.pictures = 2
    for seed, name in enumerate(("a", "b", "c")):
        teach(name)
        service.generate(ask(customization=name, seed=seed, num_inference_steps=1, map_steps=0))
    assert len(service._responses) == 2 and len(service._originals) == 2
    assert [key[1][0].name for key in service._responses] == ["b", "c"]


@pytest.mark.parametrize("values, error, words", [
    ({"customization": "cap"}, CustomizationError, "'cap' does not exist"), ({"model": "sdxl"}, ModelNotFound, "'sdxl'.*tiny")])
def test_unknown_names_are_refused_and_the_service_goes_on(service, ask, values, error, words):
    with pytest.raises(error, match=words):
        service.generate(ask(**values))
    assert service.generate(ask(num_inference_steps=1, map_steps=0)).customized.size == (64, 64)


@pytest.mark.parametrize("asked", ["hat", "cap:0.5+hat:0.5"])
def test_a_customization_of_another_model_is_refused_before_anything_is_loaded(service, tiny, teach, ask, monkeypatch, asked):
    teach("cap")
    card = CustomizationCard(name="hat", model="other", model_sha256="0" * 64, phrases=("a hat",), stage="both", created="now")
    checkpoints.save_customization(card, {"conv_in.bias": torch.ones(1)})
    for name in ("load_backbone", "mixed"):
        monkeypatch.setattr(checkpoints, name, lambda *_: pytest.fail("a network was made first"))
    with pytest.raises(CustomizationError, match="'hat' was trained on another model than 'tiny'"):
        service.generate(ask(customization=asked))
    assert not service._models


def test_a_customization_without_weights_is_refused(service, teach, ask, spf_home):
    teach()
    (spf_home / "customizations" / "hat" / "weights.safetensors").unlink()
    with pytest.raises(CustomizationError, match="weights.safetensors"):
        service.generate(ask(customization="hat"))


def test_what_was_generated_carries_no_gradient_and_fits_the_preset(service, ask):
    result = service.generate(ask(map_steps=1))
    assert result.original.size == (64, 64) and result.maps[0].sfcm.shape == (16, 16)
    assert not torch.is_inference_mode_enabled()
    assert set(result.seconds) == {"original", "customized", "maps"} and all(value > 0 for value in result.seconds.values())
