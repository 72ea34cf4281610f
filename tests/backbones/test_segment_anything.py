import numpy as np
import pytest
import torch
from transformers import (
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from spf.backbones import segment_anything as sam
from spf.errors import ModelNotFound


def test_boxes_hold_their_masks_tightly():
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 5, 0] = True
    assert sam.boxes(masks).tolist() == [[2, 1, 7, 3], [0, 5, 1, 6]]
    assert sam.boxes(masks[:0]).shape == (0, 4)


def test_of_overlapping_boxes_the_best_remains():
    corners = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [20, 20, 30, 30.0]])
    scores = np.array([0.90, 0.95, 0.99, 0.91])
    assert sam.distinct(corners, scores, 0.7) == [2, 1, 3]  # 0 lies over 1 by 0.9
    assert sam.distinct(corners, scores, 0.95) == [2, 1, 3, 0]
    assert sam.distinct(corners[:0], scores[:0], 0.7) == []


def test_points_are_spread_over_the_picture_and_nothing_else():
    points = sam._grid(torch.tensor([64, 32]))
    assert points.shape == (1024, 2)
    assert points[0].tolist() == [0.5, 1.0] and points[-1].tolist() == [31.5, 63.0]  # x, y


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random SAM on disk."""
    path = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "image_size": 64, "patch_size": 16}
    config = SamConfig(
        vision_config=SamVisionConfig(**size, output_channels=16, num_hidden_layers=1, num_attention_heads=2, mlp_dim=16,
                                      window_size=2, global_attn_indexes=[0], num_pos_feats=8),
        prompt_encoder_config=SamPromptEncoderConfig(**size, mask_input_channels=4),
        mask_decoder_config=SamMaskDecoderConfig(hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2,
                                                 iou_head_hidden_dim=16))
    SamModel(config).save_pretrained(path)
    SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(path)
    return path


def test_segments_have_the_pictures_size_and_no_two_share_a_box(folder, monkeypatch):
    monkeypatch.setattr(sam, "PREDICTED_IOU", -10.0)
    monkeypatch.setattr(sam, "STABILITY", 0.0)
    monkeypatch.setattr(sam, "POINTS_PER_SIDE", 4)
    finder = sam.SegmentAnything(folder)
    masks = finder(torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert masks.dtype == bool and masks.shape[1:] == (40, 48) and len(masks) > 0
    assert masks.any(axis=(1, 2)).all()
    corners = sam.boxes(masks)
    assert sorted(sam.distinct(corners, np.ones(len(masks)), sam.BOX_OVERLAP)) == list(range(len(masks)))


def test_segments_that_are_not_sure_are_left_out(folder, monkeypatch):
    monkeypatch.setattr(sam, "PREDICTED_IOU", 10.0)
    monkeypatch.setattr(sam, "POINTS_PER_SIDE", 4)
    assert sam.SegmentAnything(folder)(torch.zeros(3, 40, 48)).shape == (0, 40, 48)


def test_a_folder_that_is_no_sam_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match=f"Seg-Cons: {tmp_path} cannot be used"):
        sam.SegmentAnything(tmp_path)
