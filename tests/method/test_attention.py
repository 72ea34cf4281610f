import math

import pytest
import torch
from torch.nn.functional import interpolate

from spf.method.attention import (
    AttentionLayer,
    attention_map,
    encoder_phrase_maps,
    mean_over_layers,
    minmax,
    phrase_attention,
    phrase_maps,
    split_heads,
    text_features,
)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_for(tokens, *phrases):
    out = torch.zeros(1, tokens, len(phrases), dtype=torch.float64)
    for i, phrase in enumerate(phrases):
        for token in phrase:
            out[0, token, i] = 1 / len(phrase)
    return out


def test_split_heads_keeps_channels_of_a_head_together():
    x = torch.arange(8).reshape(1, 2, 4)
    assert split_heads(x, 2).tolist() == [[[[0, 1], [4, 5]], [[2, 3], [6, 7]]]]


def test_attention_map_by_hand():
    """Two pixels, two tokens; scores ln 3 and 0 give 3/4 and 1/4."""
    query = torch.tensor([[[[math.log(3), 0.0], [0.0, math.log(3)]]]])
    text_key = torch.eye(2)[None, None]
    expected = torch.tensor([[[[0.75, 0.25], [0.25, 0.75]]]])
    torch.testing.assert_close(attention_map(query, text_key, scale=1.0), expected)
    torch.testing.assert_close(attention_map(query * math.sqrt(2), text_key), expected)  # 1 / sqrt(d) by default


def test_joint_softmax_shares_the_mass_with_the_image():
    """D20. One pixel, one text token, an image key scoring ln 2 and a text key scoring ln 6: 6 / (2 + 6)."""
    query = torch.tensor([[[[1.0]]]])
    image_key, text_key = torch.tensor([[[[math.log(2)]]]]), torch.tensor([[[[math.log(6)]]]])
    torch.testing.assert_close(attention_map(query, text_key, image_key), torch.tensor([[[[0.75]]]]))
    assert attention_map(query, text_key).item() == 1.0


def test_text_features_by_hand():
    """One token whose scores on two pixels are ln 3 and 0: F = 3/4 v_0 + 1/4 v_1; the mask removes pixel 0 only."""
    text = torch.tensor([[[[math.log(3)]]]])
    image_key, image_value = torch.tensor([[[[1.0], [0.0]]]]), torch.tensor([[[[8.0], [20.0]]]])
    assert text_features(text, image_key, image_value).item() == pytest.approx(0.75 * 8 + 0.25 * 20)
    masked = text_features(text, image_key, image_value, torch.tensor([[0.0, 1.0]]))
    assert masked.item() == pytest.approx(0.25 * 20), "a renormalised softmax would give 20"


def test_text_features_with_w_of_ones_is_the_unmasked_equation():
    text, image = rand(2, 3, 4, 5), rand(2, 3, 6, 5, seed=1)
    plain = text_features(text, image, image)
    assert torch.equal(text_features(text, image, image, torch.ones(2, 6, dtype=torch.float64)), plain)
    assert not torch.allclose(text_features(text, image, image, torch.full((2, 6), 0.5, dtype=torch.float64)), plain)


def test_text_features_ignore_what_happens_where_w_is_zero_in_the_values():
    """Only the value of an exempt pixel is released; its key still takes part in the softmax (D6)."""
    text, key, value = rand(1, 1, 2, 3), rand(1, 1, 4, 3, seed=1), rand(1, 1, 4, 3, seed=2)
    w = torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    changed_value, changed_key = value.clone(), key.clone()
    changed_value[..., 2, :] += 100
    changed_key[..., 2, :] += 1
    base = text_features(text, key, value, w)
    torch.testing.assert_close(text_features(text, key, changed_value, w), base)
    assert not torch.allclose(text_features(text, changed_key, value, w), base)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("phrases", [1, 3, 11])  # fewer and more than head channels
def test_phrase_attention_equals_the_materialised_map(joint, phrases):
    query, text_key = rand(2, 3, 6, 4), rand(2, 3, 5, 4, seed=1)
    image_key = rand(2, 3, 6, 4, seed=2) if joint else None
    weights = rand(2, 5, phrases, seed=3).abs()
    expected = attention_map(query, text_key, image_key).mean(1) @ weights
    torch.testing.assert_close(phrase_attention(query, text_key, weights, image_key), expected)
    scaled = attention_map(query, text_key, image_key, scale=0.9).mean(1) @ weights
    torch.testing.assert_close(phrase_attention(query, text_key, weights, image_key, scale=0.9), scaled)


def test_mean_over_layers_by_hand():
    """Two layers of a 1x2 grid and one of 1x1, at 1x2: ((1, 3) + (5, 1) + (3, 3)) / 3."""
    maps = [
        (torch.tensor([[[1.0], [3.0]]]), (1, 2)),
        (torch.tensor([[[3.0]]]), (1, 1)),
        (torch.tensor([[[5.0], [1.0]]]), (1, 2)),
    ]
    torch.testing.assert_close(mean_over_layers(maps, (1, 2)), torch.tensor([[[[3.0, 7 / 3]]]]))


def test_grids_are_height_first():
    tall = torch.arange(6.0).reshape(1, 6, 1)
    out = mean_over_layers([(tall, (3, 2))], (3, 2))
    assert out[0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_summing_grids_first_equals_upsampling_every_layer():
    layers = [AttentionLayer(rand(1, 2, h * w, 3, seed=i), rand(1, 2, 4, 3, seed=9 + i), (h, w))
              for i, (h, w) in enumerate([(4, 6), (2, 3), (4, 6), (3, 3)])]  # fmt: skip
    weights = weights_for(4, [1, 2], [3])
    each = [attention_map(y.query, y.text_key).mean(1) @ weights for y in layers]  # (1, N, P)
    upsampled = [
        interpolate(m.mT.reshape(1, 2, *y.grid), size=(8, 12), mode="bilinear")
        for m, y in zip(each, layers, strict=True)
    ]
    torch.testing.assert_close(phrase_maps(layers, weights, (8, 12), "none"), sum(upsampled) / 4)


def test_minmax_by_hand():
    maps = torch.tensor([[[2.0, 4.0], [6.0, 10.0]], [[0.3, 0.3], [0.3, 0.3]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    torch.testing.assert_close(minmax(maps), expected)


def test_rounding_in_a_constant_map_is_not_stretched():
    maps = torch.full((1, 4, 4), 1 / 77) + torch.randn(1, 4, 4) * 1e-8
    assert maps.std() > 0
    assert not minmax(maps).any()


@pytest.mark.parametrize("peak", [1e-3, 1.0, 100.0])
def test_a_map_that_varies_by_less_than_a_ten_thousandth_of_its_peak_says_nothing(peak):
    for varies, says in ((0.9e-4, False), (1.1e-4, True)):
        assert minmax(torch.tensor([[peak, peak * (1 - varies)]], dtype=torch.float64)).any() == says


@pytest.mark.parametrize("joint", [False, True])
def test_rows_of_a_layer_are_its_samples(joint):
    query, text_key = rand(3, 2, 6, 4), rand(3, 2, 5, 4, seed=1)
    layer = AttentionLayer(query, text_key, (2, 3), rand(3, 2, 6, 4, seed=2) if joint else None, scale=0.7)
    for first, end in ((1, None), (1, 2)):
        part = layer.rows(first, end)
        assert torch.equal(part.query, query[first:end]) and torch.equal(part.text_key, text_key[first:end])
        assert torch.equal(part.image_key, layer.image_key[first:end]) if joint else part.image_key is None
        assert (part.grid, part.scale) == (layer.grid, layer.scale)


def test_a_layers_own_scale_is_used():
    query, text_key, weights = rand(1, 2, 6, 4), rand(1, 2, 5, 4, seed=1), weights_for(5, [1, 2])
    scaled = phrase_maps([AttentionLayer(query, text_key, (2, 3), scale=2.0)], weights, (2, 3), "none")
    expected = (attention_map(query, text_key, scale=2.0).mean(1) @ weights).mT.reshape(1, 1, 2, 3)
    torch.testing.assert_close(scaled, expected)


def test_phrase_maps_find_the_pixel_that_attends_to_the_phrase():
    """Pixel i looks at token i: each phrase's map is 1 where it is looked at, 0 elsewhere, whatever its length."""
    query = 3 * torch.eye(4)[None, None]
    layer = AttentionLayer(query, torch.eye(4)[None, None], (2, 2))
    maps = phrase_maps([layer], weights_for(4, [0], [1, 2], []).float(), (2, 2))
    assert maps.shape == (1, 3, 2, 2)
    torch.testing.assert_close(maps[0, 0], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(maps[0, 1], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert not maps[0, 2].any(), "padding"


def test_phrase_maps_stay_finite_where_nothing_can_be_told():
    query = torch.zeros(1, 1, 4, 2, requires_grad=True)  # uniform attention: every map is constant
    layer = AttentionLayer(query, torch.ones(1, 1, 3, 2), (2, 2))
    maps = phrase_maps([layer], weights_for(3, [0, 1], []).float(), (4, 4))
    assert not maps.any()
    maps.sum().backward()
    assert query.grad.isfinite().all()


def test_phrase_maps_without_normalisation_are_linear_so_phrases_collapse_to_one_column():
    layers = [AttentionLayer(rand(1, 2, 6, 3), rand(1, 2, 5, 3, seed=1), (2, 3))]
    weights, one_minus_gamma = weights_for(5, [0, 1], [2], [3, 4]), torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64)
    apart = (phrase_maps(layers, weights, (4, 6), "none") * one_minus_gamma[:, None, None]).sum(1)
    together = phrase_maps(layers, (weights @ one_minus_gamma)[..., None], (4, 6), "none")[:, 0]
    torch.testing.assert_close(together, apart)


def test_phrase_maps_without_phrases():
    layer = AttentionLayer(rand(2, 1, 4, 3), rand(2, 1, 5, 3), (2, 2))
    for normalize in ("minmax", "none"):
        assert phrase_maps([layer], torch.zeros(2, 5, 0), (4, 4), normalize).shape == (2, 0, 4, 4)


@pytest.mark.parametrize("normalize", ["minmax", "none"])
def test_encoder_phrase_maps_are_the_mean_of_each_encoders_own_maps(normalize):
    """Eq. 17, D20: CLIP has tokens 0-2 and T5 tokens 3-6, and each map is normalised before the mean."""
    layers = [AttentionLayer(rand(2, 2, 6, 3), rand(2, 2, 7, 3, seed=1), (2, 3), image_key=rand(2, 2, 6, 3, seed=2))]
    clip, t5 = weights_for(7, [0, 1], [2]).expand(2, -1, -1), weights_for(7, [3], [4, 5]).expand(2, -1, -1)
    found = encoder_phrase_maps(layers, torch.stack([clip, t5], dim=2), (4, 6), normalize)
    apart = [phrase_maps(layers, weights, (4, 6), normalize) for weights in (clip, t5)]
    torch.testing.assert_close(found, (apart[0] + apart[1]) / 2)
    assert not torch.allclose(*apart)


def test_one_encoder_is_eq_6():
    layer = AttentionLayer(rand(1, 2, 6, 3), rand(1, 2, 5, 3, seed=1), (2, 3))
    weights = weights_for(5, [0, 1], [2])
    assert torch.equal(encoder_phrase_maps([layer], weights[:, :, None], (4, 6)), phrase_maps([layer], weights, (4, 6)))


def test_half_precision_inputs_give_wide_maps_close_to_the_exact_ones():
    query, text_key, weights = rand(1, 2, 16, 4), rand(1, 2, 5, 4, seed=1), weights_for(5, [1, 2], [3])
    exact = phrase_maps([AttentionLayer(query, text_key, (4, 4))], weights, (8, 8))
    half = phrase_maps([AttentionLayer(query.bfloat16(), text_key.bfloat16(), (4, 4))], weights.float(), (8, 8))
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < 0.05
    w = torch.rand(1, 16)
    assert text_features(text_key.bfloat16(), query.bfloat16(), query.bfloat16(), w).dtype == torch.bfloat16


def test_what_is_refused():
    layer = AttentionLayer(rand(1, 1, 6, 2), rand(1, 1, 3, 2), (2, 2))
    with pytest.raises(ValueError, match="6 positions does not fill its grid 2x2"):
        phrase_maps([layer], weights_for(3, [0]), (4, 4))
    with pytest.raises(ValueError, match="no attention layer"):
        phrase_maps([], weights_for(3, [0]), (4, 4))
    with pytest.raises(ValueError, match="normalize"):
        phrase_maps([layer], weights_for(3, [0]), (4, 4), "max")
