"""CLIP embeddings: texts by string, images with gradient, and files that are missing or damaged."""

import os
import shutil

import pytest
import torch

from spf.clip import Clip
from spf.errors import ModelNotFound


def test_embeddings_have_unit_length_and_follow_the_text(clip):
    found = clip.embed_texts(["a hat", "a person", "a hat"])
    assert found.shape == (3, 16) and found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1])


def test_every_text_is_encoded_once_and_alone(clip, monkeypatch):
    encoded = []
    encode = clip.model.encode_text
    monkeypatch.setattr(clip.model, "encode_text", lambda ids, **options: encoded.append(len(ids)) or encode(ids, **options))
    first = clip.embed_texts(["a hat", "a person", "a hat"])
    again = clip.embed_texts(["a person", "a turban", "a hat"])
    assert encoded == [2, 1]
    assert torch.equal(again[0], first[1]) and torch.equal(again[2], first[0])
    torch.testing.assert_close(Clip.embed_texts(clip, ["a turban"])[0], again[1])


def test_no_text_is_no_row(clip):
    assert clip.embed_texts([]).shape == (0, 16) and clip.embed_text_lists([]).shape == (0, 0, 16)


def test_lists_are_padded_with_zero_rows(clip):
    found = clip.embed_text_lists([["a hat"], [], ["a person", "a hat"]])
    assert found.shape == (3, 2, 16)
    assert torch.equal(found[0, 0], found[2, 1]) and not found[0, 1].any() and not found[1].any()


def test_a_text_beyond_the_window_is_cut_and_still_ends(clip):
    found = clip.embed_texts(["a hat " * 300, "a hat"])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert not torch.allclose(found[0], found[1])


def test_gradient_reaches_the_picture_and_not_the_model(clip):
    images = (torch.rand(2, 3, 48, 40) * 2 - 1).requires_grad_()
    embedded = clip.embed_images(images)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2))
    embedded[:, 0].sum().backward()
    assert images.grad.abs().sum(dim=(1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def test_pictures_are_clamped_as_they_will_be_when_saved(clip):
    images = torch.randn(1, 3, 32, 32) * 3
    assert torch.equal(clip.embed_images(images), clip.embed_images(images.clamp(-1, 1)))


def test_size_and_range_are_what_the_model_was_trained_on(clip, monkeypatch):
    seen = []
    monkeypatch.setattr(clip.model, "encode_image", lambda images, normalize: seen.append(images) or images.flatten(1)[:, :16])
    clip.embed_images(torch.tensor([1.0, 0.5, 0.0, -1.0]).view(4, 1, 1, 1).expand(4, 3, 64, 96))
    assert seen[0].shape == (4, 3, 32, 32)
    for image, value in zip(seen[0], (1.0, 0.5, 0.0, -1.0), strict=True):  # mean and standard deviation are 0.5
        torch.testing.assert_close(image, torch.full((3, 32, 32), value))


def test_a_saved_model_embeds_as_before(clip, model_folder):
    loaded = Clip.from_folder(model_folder / "clip")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded.embed_images(images), clip.embed_images(images))
    assert torch.equal(loaded.embed_texts(["a hat"]), clip.embed_texts(["a hat"]))
    assert not loaded.model.training and not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("part", ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_missing_and_damaged_files_are_refused(model_folder, tmp_path, part, damage):
    """open_clip itself would return random weights, transformers an empty vocabulary."""
    shutil.copytree(model_folder / "clip", tmp_path / "clip", copy_function=os.link)
    path = tmp_path / "clip" / part
    content = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(content[:len(content) // 2])
    with pytest.raises(ModelNotFound, match="clip.*restore") as caught:
        Clip.from_folder(tmp_path / "clip")
    assert str(tmp_path / "clip") in str(caught.value) and "\n" not in str(caught.value)
