"""Model offload: no step misses what waits elsewhere, and a part that a preview calls comes and goes."""

import pytest
import torch
from torch import nn

from spf.config import MethodConfig
from spf.training.offload import offloaded, unused
from spf.training.stages import DualPathStage, FineTuneStage

DEVICE, REST = torch.device("cpu"), torch.device("cpu:0")  # one place under two names, so that moves can be told apart


@pytest.fixture
def moves(monkeypatch):
    """(part, place) of every move of a module."""
    seen, move = [], nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda part, place: seen.append((part, str(place))) or move(part, place))
    return seen


@pytest.mark.parametrize("family", ["unet", "mmdit"])
@pytest.mark.parametrize("aligns", [False, True])
def test_a_stage_gives_the_same_losses_without_what_it_does_not_use(backbone, response, clip, empty, examples, aligns):
    stage = DualPathStage(backbone, response, clip, MethodConfig(), empty) if aligns else FineTuneStage(response, empty)

    def losses():
        return stage.training_forward(examples, torch.Generator().manual_seed(0))[0]

    expected, parts = losses(), unused(stage, backbone, clip)
    assert (backbone.denoiser in parts) == (not aligns)
    for part in parts:
        part.to("meta")  # whoever touched one of these would compute on nothing
    found = losses()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_shared_reference_stays_where_the_response_path_is(backbone, clip, empty):
    response = backbone.fork({name for name, _ in backbone.trainable_parameters("cross")})
    parts = unused(FineTuneStage(response, empty), backbone, clip)
    assert backbone.denoiser not in parts and backbone.text_encoder in parts


def test_one_part_at_a_time_comes_when_it_is_called_and_all_are_back_at_the_end(moves):
    parts = [nn.Linear(2, 2) for _ in range(3)]
    with offloaded(parts, DEVICE, REST):
        assert moves == [(part, "cpu:0") for part in parts]
        moves.clear()
        with torch.inference_mode():
            for index in (1, 1, 2):
                parts[index](torch.ones(1, 2))
        assert moves == [(parts[1], "cpu"), (parts[1], "cpu:0"), (parts[2], "cpu")]
        moves.clear()
    assert moves == [(part, "cpu") for part in parts]
    assert not any(part._forward_pre_hooks for part in parts)
    assert all(parameter.requires_grad and not parameter.is_inference() for part in parts for parameter in part.parameters())


def test_parts_come_back_after_an_error(moves):
    part = nn.Linear(2, 2)
    with pytest.raises(ValueError), offloaded([part], DEVICE, REST):
        raise ValueError
    assert moves[-1] == (part, "cpu")
