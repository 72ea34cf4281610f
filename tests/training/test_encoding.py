"""Encoding with a cache: the second run encodes nothing and learns from the same bits; what changed is encoded anew."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image

from spf.config import MethodConfig
from spf.data.cache import TensorCache
from spf.data.records import read_folder
from spf.errors import DataError, InvalidInput
from spf.training.examples import prepare

RESOLUTION = 32
TENSORS = ("latents", "gamma", "target_embedding", "image_embedding")


@pytest.fixture(params=["unet", "mmdit"])
def family(request):
    return request.param


@pytest.fixture
def records(picture_folder):
    return read_folder(picture_folder)


@pytest.fixture
def cache(tmp_path):
    return TensorCache(tmp_path / "cache", 10**9)


@pytest.fixture
def counted(backbone, clip, monkeypatch):
    """How many pictures, prompts and texts were encoded since it was last cleared."""
    count = Counter()
    for owner, name, key in ((backbone, "encode_images", "latents"), (backbone, "encode_prompts", "prompts"),
                             (clip, "embed_images", "images"), (clip.model, "encode_text", "texts")):
        def watched(items, *args, _original=getattr(owner, name), _key=key, **kwargs):
            count[_key] += len(items)
            return _original(items, *args, **kwargs)

        monkeypatch.setattr(owner, name, watched)
    return count


@pytest.fixture
def run(backbone, clip, cache, counted):
    """run(records): (examples, what had to be encoded) of one training run with a CLIP that remembers nothing."""

    def make(records, resolution=RESOLUTION, **options):
        counted.clear()
        clip.to(torch.device("cpu"))  # forgets its texts
        examples = prepare(records, backbone, clip, resolution, MethodConfig(), **{"cache": cache, **options})
        return examples, dict(counted)

    return make


def equal(one, two) -> bool:
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS) and all(
        left.prompts == right.prompts and all(
            torch.equal(value, getattr(right, name)) for name, value in vars(left).items() if isinstance(value, torch.Tensor))
        for left, right in ((one.full, two.full), (one.base, two.base)))


def test_the_second_run_encodes_nothing_and_has_the_same_bits(records, run):
    first, encoded = run(records)
    assert encoded["latents"] == encoded["images"] == 4 and encoded["prompts"] > 4 and encoded["texts"] > 4
    second, encoded = run(records)
    assert encoded == {} and equal(first, second)
    assert second.full.phrase_weights.shape == first.full.phrase_weights.shape


def test_the_cache_changes_no_bit(records, run):
    assert equal(run(records)[0], run(records, cache=None)[0])


def test_part_of_a_set_takes_what_is_there(records, run):
    run(records[:3])
    _, encoded = run(records)
    assert encoded["latents"] == encoded["images"] == 1 and encoded["prompts"] <= 2


def test_a_picture_is_known_by_its_content(records, run, tmp_path):
    run(records)
    moved = [replace(record, path=tmp_path / f"{index}.png") for index, record in enumerate(records)]
    for record, copy in zip(records, moved, strict=True):
        copy.path.write_bytes(record.path.read_bytes())
    assert run(moved)[1] == {}
    Image.new("RGB", (64, 64), "red").save(moved[2].path)
    assert run(moved)[1] == {"latents": 1, "images": 1}


def test_repeats_are_encoded_once(records, run):
    examples, encoded = run([record for record in records for _ in range(3)])
    assert encoded["latents"] == 4 and len(examples) == 12
    assert torch.equal(examples.latents[0], examples.latents[2])


@pytest.mark.parametrize("change, expected", [
    ("resolution", {"latents": 4, "images": 4}), ("crop", {"latents": 4, "images": 4}), ("vae", {"latents": 4, "images": 4}),
    ("scaling_factor", {"latents": 4, "images": 4}), ("clip", {"latents": 4, "images": 4, "texts": 6}),
    ("text_encoder", {"prompts": 8}), ("denoiser", {}), ("base_text", {"prompts": 2, "texts": 1}),
    ("target_text", {"prompts": 1, "texts": 1}),
])
def test_what_something_depends_on_is_in_its_key(records, run, backbone, clip, change, expected):
    """Everything else stays as it was; how often is counted with distinct texts of the four pictures."""
    plain = [replace(record, base_text=f"a person, number {index}", target_text="a winter hat")
             for index, record in enumerate(records)]
    assert run(plain)[1] == {"latents": 4, "images": 4, "prompts": 8, "texts": 6}
    options = {}
    if change in ("vae", "text_encoder", "denoiser", "clip"):
        module = clip.model if change == "clip" else getattr(backbone, change)
        next(parameter for parameter in module.parameters() if parameter.numel() > 1).data.view(-1)[0] += 1e-3
    elif change == "scaling_factor":
        backbone.vae.register_to_config(scaling_factor=backbone.vae.config.scaling_factor * 2)
    elif change == "crop":
        options["crop"] = "portrait"
    elif change == "resolution":
        options["resolution"] = 2 * RESOLUTION
    else:
        plain[0] = replace(plain[0], **{change: "something else"})
    assert run(plain, **options)[1] == expected


def test_a_damaged_entry_is_encoded_again(records, run, cache):
    first, _ = run(records)
    for path in sorted(cache.root.rglob("*.safetensors")):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    second, encoded = run(records)
    assert encoded["latents"] == 4 and equal(first, second)
    assert run(records)[1] == {}


def test_a_cache_that_is_too_small_only_forgets(records, run, cache):
    first, _ = run(records)
    cache.limit_bytes = 0
    second, _ = run(records)
    assert equal(first, second) and not list(cache.root.rglob("*.safetensors"))
    assert equal(first, run(records)[0])


def test_a_long_text_is_cut_the_same_way_from_the_cache(records, run):
    long = [replace(records[0], base_text=", ".join(f"a zzqj{i} hat" for i in range(30)))]
    first, second = run(long)[0], run(long)[0]
    assert equal(first, second) and len(second.full.prompts[0].phrases) < 30


def test_bad_input_is_refused_as_without_a_cache(records, run, tmp_path):
    run(records)
    with pytest.raises(DataError, match="gone.png"):
        run([replace(records[0], path=tmp_path / "gone.png")])
    with pytest.raises(InvalidInput, match="target_texts"):
        run([replace(records[0], target_text="zzqj " * 60)])
