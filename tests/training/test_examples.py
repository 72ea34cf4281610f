"""What is computed once about a training set."""

from dataclasses import replace

import pytest
import torch

from spf.config import MethodConfig
from spf.data.pictures import load_picture, to_array
from spf.data.records import read_folder
from spf.errors import DataError, InvalidInput
from spf.method.phrases import join_prompt
from spf.training.examples import prepare

both_families = pytest.mark.parametrize("family", ["unet", "mmdit"])


RESOLUTION = 32


@pytest.fixture
def records(picture_folder):
    return read_folder(picture_folder)


@both_families
def test_every_row_is_about_its_own_record(records, backbone, clip, family):
    examples = prepare(records, backbone, clip, RESOLUTION, MethodConfig())
    assert len(examples) == len(records) == 4 and examples.records == tuple(records)
    for row, record in enumerate(records):
        pixels = torch.from_numpy(to_array(load_picture(record.path, RESOLUTION)))[None]
        torch.testing.assert_close(examples.latents[row], backbone.encode_images(pixels)[0])
        torch.testing.assert_close(examples.image_embedding[row], clip.embed_images(pixels)[0])
        torch.testing.assert_close(examples.target_embedding[row], clip.embed_texts([record.target_text])[0])
        fitted = backbone.encode_prompts([join_prompt(record.base_text, [record.target_text])]).prompts[0]
        assert examples.full.prompts[row] == fitted and fitted.target.text == record.target_text
        assert examples.base.prompts[row].text == fitted.base.text
        assert fitted.base.text == record.base_text or family == "mmdit", "the tiny T5 spells some captions letter by letter"
    assert torch.equal(examples.full.base_mask, examples.base.base_mask)
    assert not any(value.requires_grad for value in (examples.latents, examples.gamma, examples.full.embeddings))


def test_gamma_is_the_clip_similarity_of_each_phrase_with_the_target(records, backbone, clip):
    """D10: phrase and target strings, each encoded on its own."""
    examples = prepare(records, backbone, clip, RESOLUTION, MethodConfig())
    for row, prompt in enumerate(examples.full.prompts):
        target = clip.embed_texts([prompt.target.text])
        for column, phrase in enumerate(prompt.phrases):
            cosine = (clip.embed_texts([phrase.text]) * target).sum().clamp(0, 1)
            torch.testing.assert_close(examples.gamma[row, column], cosine)
        assert not examples.gamma[row, len(prompt.phrases):].any()


@both_families
def test_contextual_gamma_is_read_off_the_prompt_itself(records, backbone, clip):
    examples = prepare(records, backbone, clip, RESOLUTION, MethodConfig(gamma="contextual"))
    phrases, target = examples.full.phrase_means()
    expected = torch.cosine_similarity(phrases[2, 0], target[2], dim=0).clamp(0, 1)
    torch.testing.assert_close(examples.gamma[2, 0], expected)
    assert not torch.allclose(examples.gamma, prepare(records, backbone, clip, RESOLUTION, MethodConfig()).gamma)


@both_families
def test_both_paths_lose_the_same_phrases_of_a_long_text(records, backbone, clip):
    long = replace(records[0], base_text=", ".join(f"a zzqj{i} hat" for i in range(30)))
    examples = prepare([long, records[1]], backbone, clip, RESOLUTION, MethodConfig())
    kept = examples.full.prompts[0]
    assert len(kept.phrases) < 30 and kept.target.text == long.target_text
    assert examples.base.prompts[0].text == kept.base.text
    assert torch.equal(examples.full.base_mask, examples.base.base_mask)


@both_families
def test_a_target_that_does_not_fit_is_refused(records, backbone, clip):
    with pytest.raises(InvalidInput, match="target_texts"):
        prepare([replace(records[0], target_text="zzqj " * 60)], backbone, clip, RESOLUTION, MethodConfig())


def test_a_picture_that_vanished_is_named(records, backbone, clip, tmp_path):
    with pytest.raises(DataError, match="gone.png"):
        prepare([replace(records[0], path=tmp_path / "gone.png")], backbone, clip, RESOLUTION, MethodConfig())


def test_examples_of_different_lengths_share_columns(examples):
    """The batch of one example keeps the columns of the longest prompt: padded phrases say nothing."""
    one = examples[[3]]
    assert one.full.phrase_weights.shape[-1] == one.gamma.shape[-1] == 3
    assert not one.full.phrase_weights[0, ..., 1:].any()
    assert one.full.prompts == (join_prompt("a person", ["a winter hat"]),)
