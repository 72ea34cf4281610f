"""Holding the original outside the SFCM while a portrait is drawn.

An extension: the paper uses the SFCM in training alone. Both paths start from the same noise and are drawn in step, so at
every noise level the original's latents are known, and the places that the target does not concern can be given back to it.
Where both meet, the one's hair may end in the other's hat, and no model ever saw such a picture. So the last steps heal: held
places are no longer given back, but go on as the original model, asked for the original's text, goes on from the latents there.
"""

from torch import Tensor


def running_map(previous: Tensor | None, m_hat: Tensor, smoothing: float) -> Tensor:
    """The SFCM over the steps so far, (B, H, W): smoothing of the old, 1 - smoothing of the new; single maps flicker."""
    return m_hat if previous is None else smoothing * previous + (1 - smoothing) * m_hat


def weight(m_hat: Tensor, gain: float, floor: float = 0.0, targets: int = 1) -> Tensor:
    """w of `hold`, (B, 1, H, W): 0 where gain K Mhat is `floor` or less, 1 where it is 1 or more; Mhat (B, H, W) in [0, 1].

    Mhat is 1 at its peak alone; a gain above 1 makes whole regions the customized path's own. A gain of 0 is the original.
    Of K `targets` in one prompt one has that peak, and the others answer below it: the gain of one would hold them back.
    The floor is in [0, 1): half a customized path is no picture, so that what concerns a place hardly shall not touch it.
    """
    return ((gain * targets * m_hat - floor) / (1 - floor)).clamp(0, 1)[:, None]


def hold(res: Tensor, ref: Tensor, w: Tensor) -> Tensor:
    """w res + (1 - w) ref: latents of one noise level, or predictions for the same latents, (B, C, H, W)."""
    w = w.to(res)
    return w * res + (1 - w) * ref
