import math

import pytest
import torch
import torch.nn.functional as F

from spf.backbones import mps


@pytest.fixture(scope="module")
def network(mps_architecture):
    torch.manual_seed(0)
    return mps.MpsNetwork(mps_architecture, layers=2, heads=2, head_dim=4).eval().requires_grad_(False)


def test_texts_are_padded_with_the_token_that_ends_them(network):
    tokens = mps.Mps(network)._tokens(("a hat", "a much longer prompt"))
    assert tokens.shape == (2, 77) and tokens[0, 0] == 49406
    assert (tokens[0, 3:] == 49407).all() and (tokens[0, 1:3] != 49407).all()


def test_a_score_does_not_depend_on_its_batch(network):
    scorer = mps.Mps(network)
    images = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prompts = ("a hat", "a person in a red coat", "hair")
    together = scorer.score(images, prompts)
    assert together.shape == (3,) and together.isfinite().all()
    alone = torch.cat([scorer.score(images[i:i + 1], prompts[i:i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert together.abs().max() <= network.model.logit_scale.exp()


def test_tokens_that_are_not_attended_to_change_nothing(network):
    torch.manual_seed(2)
    layer = mps.CrossAttention(16, 2, 4)
    x, text = torch.randn(1, 5, 16), torch.randn(1, 6, 16)
    attended = torch.tensor([[True, True, False, True, False, False]])
    other = text.clone()
    other[:, [2, 4, 5]] = 100
    torch.testing.assert_close(layer(x, text, attended), layer(x, other, attended))
    assert not torch.allclose(layer(x, text, attended), layer(x, text, ~attended))


def test_cross_attention_by_hand():
    torch.manual_seed(3)
    layer, x, text = mps.CrossAttention(8, 2, 4), torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    y = F.layer_norm(x, (8,))
    k, v = layer.to_kv(text).chunk(2, dim=-1)
    heads = [(q @ k.mT / 2).softmax(dim=-1) @ v for q in layer.to_q(y).split(4, dim=-1)]
    value, gate = layer.ff[0](y).chunk(2, dim=-1)
    expected = layer.to_out(torch.cat(heads, dim=-1)) + layer.ff[2](gate * gate.sigmoid() * value)
    torch.testing.assert_close(layer(x, text, torch.ones(1, 5, dtype=torch.bool)), expected)


def test_rotary_positions_turn_pairs_by_their_place():
    x = torch.tensor([1.0, 0, 0, 0]).expand(1, 3, 4)
    turned = mps.Rotary(4)(x)
    for n in range(3):
        torch.testing.assert_close(turned[0, n], torch.tensor([math.cos(n), 0, math.sin(n), 0]))
    torch.testing.assert_close(turned.norm(dim=-1), torch.ones(1, 3))


def test_names_are_those_of_the_published_file(network):
    names = set(network.state_dict())
    layer = "cross_model.layers.0"
    assert {f"{layer}.0.fn.norm.weight", f"{layer}.0.fn.norm.bias", f"{layer}.0.fn.to_q.weight", f"{layer}.0.fn.to_kv.weight",
            f"{layer}.0.fn.to_out.weight", f"{layer}.0.fn.ff.0.weight", f"{layer}.0.fn.ff.2.weight",
            f"{layer}.1.fn.norm.weight", f"{layer}.1.fn.rotary_emb.inv_freq", f"{layer}.1.fn.fused_attn_ff_proj.weight",
            f"{layer}.1.fn.attn_out.weight", f"{layer}.1.fn.ff_out.1.weight", "model.logit_scale",
            "model.text_projection.weight", "model.visual_projection.weight",
            "model.text_model.final_layer_norm.weight", "model.vision_model.embeddings.class_embedding"} <= names
    assert {name.split(".")[0] for name in names} == {"model", "cross_model"}
