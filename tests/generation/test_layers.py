"""Attention by group of layers: what belongs together, and that the groups' maps are what Eq. 6 gives for them alone."""

import numpy as np
import pytest
import torch

from spf.config import GenerationRequest
from spf.generation.history import read_result, write_result
from spf.generation.layers import groups, phrase_maps_by_group, side_by_side
from spf.generation.service import GenerationService
from spf.method.attention import AttentionLayer, encoder_phrase_maps


def layer(side: int, seed: int = 0) -> AttentionLayer:
    generator = torch.Generator().manual_seed(side + 100 * seed)
    return AttentionLayer(torch.randn(1, 2, side * side, 4, generator=generator),
                          torch.randn(1, 2, 6, 4, generator=generator), (side, side))


def test_layers_of_one_grid_belong_together_and_depth_decides_where_all_are_alike():
    assert groups([layer(8), layer(4), layer(4), layer(8)]) == {"4x4": [1, 2], "8x8": [0, 3]}
    assert groups([layer(8)] * 5) == {"first layers": [0, 1], "middle layers": [2, 3], "last layers": [4]}
    assert groups([layer(8)]) == {"first layers": [0]}


def test_a_groups_map_is_that_of_its_layers_alone():
    layers, weights = [layer(8), layer(4), layer(8)], torch.rand(1, 6, 1, 3)
    [maps] = phrase_maps_by_group(layers, weights, (8, 8))
    assert maps.shape == (3, 3, 8, 8)
    assert torch.allclose(maps[0], encoder_phrase_maps(layers, weights, (8, 8))[0], atol=1e-5)
    assert torch.allclose(maps[2], encoder_phrase_maps([layers[0], layers[2]], weights, (8, 8))[0], atol=1e-5)
    assert phrase_maps_by_group(layers, weights[..., :0], (8, 8)).shape == (1, 3, 0, 8, 8)


def test_two_models_are_read_in_one_batch_as_each_alone():
    one, other = [layer(8), layer(4)], [layer(8, seed=5), layer(4, seed=6)]
    weights = torch.rand(2, 6, 1, 3)
    both = phrase_maps_by_group(side_by_side(one, other), weights, (8, 8))
    for index, layers in enumerate((one, other)):
        assert torch.allclose(both[index], phrase_maps_by_group(layers, weights[[index]], (8, 8))[0], atol=1e-6)


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_a_result_keeps_them_and_the_original_models_attention(tiny, tmp_path):
    request = GenerationRequest(model="tiny", base_text="a person with red hair", target_texts=("a winter hat",),
                                num_inference_steps=3, map_steps=2)
    result = GenerationService("cpu").generate(request)
    one = result.maps[0]
    count = len(result.prompt.phrases)
    assert one.layer_maps.shape == (len(one.layer_groups), 2 * count + 1, *one.sfcm.shape)
    assert one.original_maps.shape == one.phrase_maps.shape and not np.array_equal(one.original_maps, one.phrase_maps)
    read = read_result(write_result(result, tmp_path / "kept")).maps[0]
    assert read.layer_groups == one.layer_groups and np.abs(read.layer_maps - one.layer_maps).max() < 1e-3
    assert np.abs(read.original_maps - one.original_maps).max() < 1e-3


def test_a_result_of_an_earlier_version_is_read_without_them(tiny, tmp_path):
    folder = write_result(GenerationService("cpu").generate(GenerationRequest(
        model="tiny", base_text="a person", num_inference_steps=2, map_steps=1)), tmp_path / "kept")
    with np.load(folder / "maps.npz") as data:
        known = {name: data[name] for name in data if "layer" not in name and name != "original_maps"}
    np.savez_compressed(folder / "maps.npz", **known)
    assert read_result(folder).maps[0].layer_groups == () and not read_result(folder).maps[0].layer_maps.size
