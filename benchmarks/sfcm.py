"""How well each reading of the SFCM finds the true region: `python benchmarks/sfcm.py --attribute winter-hat`.

It wants the customization that `benchmarks/teaching.py` leaves after stage 1 (`--customization winter-hat-stage1`).
Rendered pictures come with the truth: where the target changes them. For every reading of D9-D11, over pictures and
timesteps: mean SFCM inside and outside that region, and the share of maps that are empty. Prints one Markdown table.
"""

import argparse
import random
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import spf  # noqa: E402, F401
from spf import config  # noqa: E402
from spf.backbones import checkpoints  # noqa: E402
from spf.clip import Clip  # noqa: E402
from spf.method.control_map import fine_control_map, phrase_relevance  # noqa: E402
from spf.method.phrases import join_prompt  # noqa: E402
from spf.pocket import captions, renderer, world  # noqa: E402
from spf.pocket.autoencoder import to_images  # noqa: E402

TIMESTEPS = (100, 300, 500, 700)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--attribute", default="winter-hat")
    parser.add_argument("--customization", default="winter-hat-stage1")
    parser.add_argument("--pictures", type=int, default=24)
    arguments = parser.parse_args()
    pieces = list(_maps(arguments.model, arguments.attribute, arguments.customization, arguments.pictures))
    print("| gamma | phrases | layers | inside | outside | empty |\n|---|---|---|---|---|---|")
    for gamma, reduce, layers in product(("clip", "contextual"), ("sum", "max", "mean"), ("all", "middle")):
        inside, outside, empty = _score(pieces, gamma, reduce, layers)
        print(f"| {gamma} | {reduce} | {layers} | {inside:.3f} | {outside:.3f} | {empty:.2f} |")
    inside, outside, _ = _score(pieces, None, "sum", "all")
    print(f"| M alone | | | {inside:.3f} | {outside:.3f} | |")


@torch.inference_mode()
def _maps(model: str, attribute: str, customization: str, count: int):
    """Per timestep: both predictions, attention layers, texts, gammas and the true region on the latent grid."""
    preset = config.model_preset(model)
    reference = checkpoints.load_backbone(preset)
    response = reference.fork()
    checkpoints.apply(response, checkpoints.customization(customization, preset).tensors())
    clip = Clip.load(preset.clip)
    rng = random.Random("sfcm")
    portraits = [world.sample_portrait(rng, attribute) for _ in range(count)]
    pixels = np.stack([np.asarray(renderer.draw(portrait, preset.resolution)) for portrait in portraits])
    x_0 = reference.encode_images(to_images(pixels, torch.device("cpu")))
    masks = torch.stack([torch.from_numpy(renderer.part_mask(portrait, "target")) for portrait in portraits]).float()
    masks = F.adaptive_avg_pool2d(masks[:, None], x_0.shape[-2:])[:, 0]  # (B, h, w)
    bases = [captions.base_caption(portrait, rng) for portrait in portraits]
    full = reference.encode_prompts([join_prompt(base, [world.TARGETS[attribute].phrase]) for base in bases])
    base = reference.encode_prompts([join_prompt(prompt.base.text, ()) for prompt in full.prompts])
    gammas = {
        "clip": phrase_relevance(clip.embed_text_lists([[p.text for p in prompt.phrases] for prompt in full.prompts]),
                                 clip.embed_texts([prompt.target.text for prompt in full.prompts])),
        "contextual": phrase_relevance(*full.phrase_means()),
    }
    for t in TIMESTEPS:
        times = torch.full((count,), t)
        x_t = reference.objective.add_noise(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(t)), times)
        with response.capture() as features:
            eps_res = response.predict(x_t, times, full)
            layers = [layer.attention for layer in features.layers()]
        yield reference.predict(x_t, times, base), eps_res, layers, full.phrase_weights, gammas, masks


def _score(pieces: list, gamma: str | None, reduce: str, layers_used: str) -> tuple[float, float, float]:
    inside, outside, empty = [], [], []
    for eps_ref, eps_res, layers, weights, gammas, masks in pieces:
        m, _, m_hat = fine_control_map(eps_ref, eps_res, layers, weights, gammas[gamma or "clip"],
                                       layers_used=layers_used, reduce=reduce)
        values = m if gamma is None else m_hat
        inside.append((values * masks).sum() / masks.sum())
        outside.append((values * (1 - masks)).sum() / (1 - masks).sum())
        empty.append((values.amax((-2, -1)) == 0).float().mean())
    return tuple(float(torch.stack(rows).mean()) for rows in (inside, outside, empty))


if __name__ == "__main__":
    main()
