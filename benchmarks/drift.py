"""How far teaching moves the model's predictions, whatever the prompt: `python benchmarks/drift.py --customization NAME ...`.

Along the original's own way from noise to picture, at five of its steps: what the taught model predicts without text, for the
base text and for the full prompt, against what the original predicts without text and for the base text, and both combined by
guidance. Each figure is the root mean square of the difference over the standard deviation of the original's prediction.
'original' stands for no customization: what the phrase alone does. Captions and seeds are those of the tuning split. Prints one
Markdown table.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import spf  # noqa: E402, F401
from spf import config  # noqa: E402
from spf.backbones import checkpoints  # noqa: E402
from spf.backbones.base import Backbone  # noqa: E402
from spf.config import EvaluationConfig  # noqa: E402
from spf.evaluation.sampling import initial_latents  # noqa: E402
from spf.evaluation.testset import triples  # noqa: E402
from spf.method.phrases import join_prompt  # noqa: E402

LOOKS = (0, 5, 10, 14, 18)  # steps of the preset's 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--attribute", default="winter-hat")
    parser.add_argument("--customization", nargs="+", default=["starter"])
    parser.add_argument("--pairs", type=int, default=12)
    asked = parser.parse_args()
    preset = config.model_preset(asked.model)
    reference = checkpoints.load_backbone(preset)
    cases = triples(config.parse(EvaluationConfig, {
        "name": "drift", "model": asked.model, "split": "tune", "triples": asked.pairs,
        "methods": {"original": {"title": "Original"}}, "tables": {}}), asked.attribute)
    print("| customization | t | without text | base text | full prompt against base text | guided |\n|---|---|---|---|---|---|")
    for name in ("original", *asked.customization):
        response = reference if name == "original" else _customized(reference, name, preset)
        for t, *moved in _along(reference, response, cases, preset):
            print(f"| {name} | {t} | " + " | ".join(f"{value:.3f}" for value in moved) + " |")


def _customized(reference: Backbone, name: str, preset: config.ModelPreset) -> Backbone:
    tensors = checkpoints.customization(name, preset).tensors()
    response = reference.fork(tensors)
    checkpoints.apply(response, tensors)
    return response


@torch.inference_mode()
def _along(reference: Backbone, response: Backbone, cases: list, preset: config.ModelPreset):
    """(t, moved without text, with the base text, with the full prompt, guided) at each look."""
    empty, base, full = (reference.encode_prompts(prompts) for prompts in (
        [join_prompt("", ())] * len(cases), [case.base for case in cases], [case.prompt for case in cases]))
    x_t = initial_latents(reference, [case.seed for case in cases], preset.resolution)
    sampler = reference.sampler(preset.num_inference_steps, latent_size=tuple(x_t.shape[-2:]))
    for step, t in enumerate(sampler.timesteps):
        times = t.expand(len(x_t))
        u, b = reference.predict(x_t, times, empty), reference.predict(x_t, times, base)
        guided = u + preset.guidance_scale * (b - u)
        if step in LOOKS:
            u_res, b_res, f_res = (response.predict(x_t, times, text) for text in (empty, base, full))
            yield (int(t), _moved(u_res, u), _moved(b_res, b), _moved(f_res, b),
                   _moved(u_res + preset.guidance_scale * (f_res - u_res), guided))
        x_t = sampler.step(guided, t, x_t).prev_sample


def _moved(taught: Tensor, original: Tensor) -> float:
    return ((taught - original).square().mean().sqrt() / original.std()).item()


if __name__ == "__main__":
    main()
