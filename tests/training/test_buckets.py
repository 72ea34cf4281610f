"""A run over pictures of several shapes: every stage, exact resume, and what is reported beforehand."""

import pytest
import torch
from PIL import Image

from spf import config
from spf.config import MethodConfig, TrainConfig
from spf.data.records import read_folder
from spf.data.writer import write_folder
from spf.errors import InvalidInput
from spf.training import estimate, preview
from spf.training.encoding import Encoder
from spf.training.examples import cache_for, prepare
from spf.training.run import Run
from spf.training.run_folder import RunFolder

CPU = torch.device("cpu")
SIZES = [(64, 64), (64, 107), (107, 64), (64, 107), (64, 64)]


@pytest.fixture
def photographs(tmp_path, picture):
    write_folder(tmp_path / "photographs", [
        (picture(index, size), f"a person, scene {index}", "a winter hat") for index, size in enumerate(SIZES)])
    return tmp_path / "photographs"


@pytest.fixture
def picture():
    def make(seed, size):
        noise = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        return Image.fromarray(noise.numpy())

    return make


@pytest.fixture
def settings(tiny, photographs, monkeypatch):
    monkeypatch.setattr(preview, "PREVIEW_STEPS", 1)

    def make(**changes) -> TrainConfig:
        values = {"data": str(photographs), "name": "hat", "aspect_ratio_buckets": True, "stage1.max_train_steps": 3,
                  "stage2.max_train_steps": 3, "checkpoint_every": 2}
        return config.train_config("tiny", values | changes)

    return make


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_every_batch_has_one_shape_in_both_stages_and_resume_is_exact(settings, spf_home, family, monkeypatch):
    seen = []

    def run(folder) -> dict:
        written = Run(settings(), folder, CPU).execute()
        return {name: tensor.clone() for name, tensor in written.tensors().items()}

    straight = run(RunFolder.create(spf_home / "runs", settings()))
    folder = RunFolder.create(spf_home / "runs", settings())
    write = RunFolder.write_status

    def dies(self, status):
        write(self, status)
        if status.step == 4 and not seen:
            seen.append(status.step)
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_status", dies)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    again = run(folder)
    assert seen == [4] and straight.keys() == again.keys()
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_what_is_encoded_has_the_shape_of_its_bucket_and_squares_share_the_cache(settings, photographs, backbone, clip):
    records, cache = read_folder(photographs), cache_for(settings())
    squares, _ = Encoder(backbone, clip, cache).pictures(records, 64, "center")
    encoded = []
    backbone.encode_images = lambda pixels, encode=backbone.encode_images: encoded.append(tuple(pixels.shape)) or encode(pixels)
    examples = prepare(records, backbone, clip, 64, MethodConfig(), in_buckets=True, cache=cache)
    factor = 64 // squares.shape[-1]
    assert [(w * factor, h * factor) for h, w in examples.shapes] == [(64, 64), (48, 80), (80, 48), (48, 80), (64, 64)]
    assert sorted(encoded) == [(1, 3, 48, 80), (2, 3, 80, 48)], "the squares were there"
    torch.testing.assert_close(examples.latents.each[0], squares[0])


def test_a_dry_run_lists_the_buckets(settings):
    found = estimate.estimate(settings(), CPU)
    assert found.buckets == {"48x80": 2, "64x64": 2, "80x48": 1}
    assert "buckets: 48x80 (2), 64x64 (2), 80x48 (1)" in estimate.in_words(found)


def test_squares_have_none(settings):
    found = estimate.estimate(settings(aspect_ratio_buckets=False), CPU)
    assert found.buckets == {} and "buckets" not in estimate.in_words(found)


def test_masks_are_squares(settings):
    with pytest.raises(InvalidInput, match="aspect_ratio_buckets: 'tokencompose' reads its masks as squares"):
        settings(recipe="tokencompose")
