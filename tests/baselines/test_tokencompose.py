"""TokenCompose: its two terms against a literal transcription, and what a run needs and refuses."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from spf.baselines import tokencompose
from spf.baselines.tokencompose import layer_groups, mask_on_grid, pixel_loss, read_mask, stages, token_loss
from spf.config import MethodConfig, TokenComposeConfig, train_config
from spf.data.check import check_folder
from spf.data.records import read_folder
from spf.errors import DataError, InvalidInput
from spf.method.losses import total_loss
from spf.pocket.dataset import render_folder
from spf.training.examples import prepare

LAYERS, HEADS, POSITIONS, TOKENS = 2, 3, 6, 5


@pytest.fixture(scope="session")
def masked_folder(tmp_path_factory):
    """Four pictures of a winter hat with their masks. Read-only."""
    return render_folder("winter-hat", 4, tmp_path_factory.mktemp("masked") / "hats", size=64, masks=True)


@pytest.fixture
def settings(tiny, masked_folder):
    return lambda **changes: train_config("tiny", {"data": str(masked_folder), "name": "y", "recipe": "tokencompose", **changes})


@pytest.fixture
def stage(settings, backbone, response, clip):
    return stages(settings(), backbone, response, clip)[0][0]


@pytest.fixture
def examples(masked_folder, backbone, clip):
    return prepare(read_folder(masked_folder), backbone, clip, 64, MethodConfig())


@pytest.fixture
def made():
    """Two samples: attention maps per layer, a mask, and the tokens of a phrase of two and of one token; float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(LAYERS, 2, HEADS, POSITIONS, TOKENS, generator=generator, dtype=torch.double, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]], dtype=torch.double)
    weights = torch.tensor([[0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.double)
    return logits, mask, weights


def literal(logits, mask, weights):
    """Both losses of each sample with loops, as the paper states them."""
    token_losses, pixel_losses = [], []
    for sample in range(2):
        tokens = [n for n in range(TOKENS) if weights[sample, n] > 0]
        a = torch.softmax(logits[:, sample], dim=-1)
        token = 0
        for layer in range(LAYERS):
            for n in tokens:
                share = 0
                for head in range(HEADS):
                    column = a[layer, head, :, n]
                    share = share + sum(column[p] * mask[sample, p] for p in range(POSITIONS)) / sum(column)
                token = token + (1 - share / HEADS) ** 2 / len(tokens)
        token_losses.append(token)
        pixel = 0
        for p in range(POSITIONS):
            q = sum(a[layer, head, p, n] for layer in range(LAYERS) for head in range(HEADS) for n in tokens) / (LAYERS * HEADS)
            pixel = pixel - (torch.log(q) if mask[sample, p] else torch.log(1 - q)) / POSITIONS
        pixel_losses.append(pixel)
    return torch.stack(token_losses), torch.stack(pixel_losses)


@pytest.mark.parametrize("index, loss", [(0, token_loss), (1, pixel_loss)])
def test_losses_equal_the_literal_ones_with_their_gradients(made, index, loss):
    logits, mask, weights = made
    expected = literal(logits, mask, weights)[index]
    ours = loss([torch.softmax(layer, dim=-1) for layer in logits], mask, weights)
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (expected, ours)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 1e-3


def test_attention_that_lies_inside_costs_nothing(made):
    _, mask, weights = made
    inside = mask[:, None, :, None].expand(-1, HEADS, -1, TOKENS) * 0.5 + 1e-15
    assert token_loss([inside], mask, weights).max() < 1e-12
    outside = (1 - mask)[:, None, :, None].expand(-1, HEADS, -1, TOKENS) * 0.5 + 1e-15
    torch.testing.assert_close(token_loss([outside], mask, weights), torch.ones(2, dtype=torch.double))


def test_a_small_mask_survives_on_a_coarse_grid():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 5, 6] = 1
    assert mask_on_grid(mask, (2, 2)).tolist() == [[0, 0, 0, 1]]
    assert mask_on_grid(mask, (8, 8)).sum() == 1


def test_groups_are_the_middle_and_the_way_up(backbone, examples):
    with backbone.capture() as captured:
        backbone.predict(examples.latents, torch.tensor([5, 5, 5, 5]), examples.full)
    groups = layer_groups(captured.layers())
    names = [[layer.name for layer in group] for group in groups]
    assert sorted(len(group) for group in groups) == [1, 2, 2]
    assert not any(name.startswith("down_blocks") for group in names for name in group)
    assert all(len({layer.grid for layer in group}) == 1 for group in groups)


def test_the_mask_is_the_target_as_rendered(masked_folder):
    mask = read_mask(masked_folder / "00001.png", 64, "center")
    stored = np.asarray(Image.open(masked_folder / "masks" / "00001.png"))
    assert mask.shape == (1, 64, 64) and set(mask.unique().tolist()) == {0, 1}
    assert (mask[0].numpy() > 0).mean() == pytest.approx((stored > 0).mean()) and 0.03 < mask.mean() < 0.6


def test_masks_are_no_pictures_to_train_on(masked_folder):
    report = check_folder(masked_folder)
    assert report.ok and len(read_folder(masked_folder)) == 4 and "masks" not in report.to_text()


def test_a_step_adds_both_terms_to_the_diffusion_loss(stage, examples, backbone):
    losses, _ = stage.training_forward(examples, torch.Generator().manual_seed(0))
    plain, _ = stage.fine_tuning.training_forward(examples, torch.Generator().manual_seed(0))
    assert set(losses) == {"diff", "token", "pixel"} and losses["diff"] == plain["diff"]
    assert all(value > 0 for value in losses.values())
    stage.settings = TokenComposeConfig(token_weight=2e-3, pixel_weight=5e-5)
    doubled, _ = stage.training_forward(examples, torch.Generator().manual_seed(0))
    torch.testing.assert_close(doubled["token"], 2 * losses["token"])
    assert doubled["pixel"] == losses["pixel"]


def test_training_moves_attention_into_the_mask(stage, examples, response):
    stage.settings = TokenComposeConfig(token_weight=1, pixel_weight=0)
    parameters = [parameter.requires_grad_(True) for _, parameter in response.trainable_parameters("full")]
    optimizer, terms = torch.optim.AdamW(parameters, lr=1e-3), []
    for step in range(8):
        losses, _ = stage.training_forward(examples, torch.Generator().manual_seed(step))
        total_loss(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        terms.append(losses["token"].item())
    assert sum(terms[-3:]) < 0.9 * sum(terms[:3])


def test_a_black_mask_leaves_the_diffusion_loss_alone(stage, examples, monkeypatch):
    monkeypatch.setattr(tokencompose, "read_mask", lambda *args: torch.zeros(1, 64, 64))
    losses, _ = stage.training_forward(examples, torch.Generator().manual_seed(0))
    assert losses["token"] == losses["pixel"] == 0 and losses["diff"] > 0


def test_pictures_without_masks_are_refused(masked_folder, tmp_path, settings, backbone, response, clip):
    folder = tmp_path / "some"
    shutil.copytree(masked_folder, folder)
    (folder / "masks" / "00002.png").unlink()
    with pytest.raises(DataError, match=r"1 picture of 4 without a mask.*masks/00002.png.*--masks.*another method"):
        stages(settings(data=str(folder)), backbone, response, clip)


def test_a_mask_that_is_no_picture_is_named(masked_folder, tmp_path, settings, backbone, response, clip, examples):
    folder = tmp_path / "broken"
    shutil.copytree(masked_folder, folder)
    (folder / "masks" / "00000.png").write_text("white")
    with pytest.raises(DataError, match="00000.png"):
        read_mask(folder / "00000.png", 64, "center")


def test_dropped_captions_have_no_tokens_to_hold(settings, backbone, response, clip):
    with pytest.raises(InvalidInput, match="caption_dropout: must be 0"):
        stages(settings(caption_dropout=0.1), backbone, response, clip)


def test_weights_are_those_of_the_paper():
    assert TokenComposeConfig() == TokenComposeConfig(token_weight=1e-3, pixel_weight=5e-5)
