"""Holding the original outside the SFCM while a portrait is drawn.

An extension: the paper uses the SFCM in training alone. Both paths start from the same noise and are drawn in step, so at
every noise level the original's latents are known, and the places that the target does not concern can be given back to it.
"""

from torch import Tensor


def running_map(previous: Tensor | None, m_hat: Tensor, smoothing: float) -> Tensor:
    """The SFCM over the steps so far, (B, H, W): smoothing of the old, 1 - smoothing of the new; single maps flicker."""
    return m_hat if previous is None else smoothing * previous + (1 - smoothing) * m_hat


def hold(x_res: Tensor, x_ref: Tensor, m_hat: Tensor, gain: float, targets: int = 1) -> Tensor:
    """w x_res + (1 - w) x_ref with w = min(gain K Mhat, 1), latents of one noise level (B, C, H, W), Mhat (B, H, W) in [0, 1].

    Mhat is 1 at its peak alone; a gain above 1 makes whole regions the customized path's own. A gain of 0 is the original.
    Of K `targets` in one prompt one has that peak, and the others answer below it: the gain of one would hold them back.
    """
    w = (gain * targets * m_hat).clamp(0, 1)[:, None].to(x_res)  # (B, 1, H, W)
    return w * x_res + (1 - w) * x_ref
