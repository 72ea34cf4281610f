"""What a training-free method may change while the customized portrait is drawn; the original is never touched."""

from __future__ import annotations

from torch import Tensor

from spf.backbones.base import Backbone, TextFeatures


class Guide:
    """Changes nothing. Called without gradients, under inference mode."""

    def text(self, backbone: Backbone, full: TextFeatures) -> TextFeatures:
        """The text features that the response path is sampled with. Row 0 guides away, row 1 is the prompt."""
        return full

    def latents(self, backbone: Backbone, step: int, t: Tensor, x_t: Tensor, full: TextFeatures) -> Tensor:
        """The latents (1, C, h, w) that step `step`, at timestep t (a scalar), begins from."""
        return x_t
