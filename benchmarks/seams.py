"""How torn held portraits look, in a number and a sheet: `python benchmarks/seams.py --out docs/seams.png`.

The same captions and seeds (tuning split) drawn freely, held without `floor` and `heal`, and held as the app does. A picture that
a denoiser knows is one that it returns: to each, a little noise is added (timesteps 100, 200, 300, each with four noises), and
what the model that drew it makes of that, asked for the picture's own prompt, is compared with it. The residue is the mean square
of the difference in latents, times 10,000; those of the originals are asked of the original model. Prints one Markdown table;
`--out` also writes the pictures of the first target, a row for each way.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

import spf  # noqa: E402, F401
from spf import config  # noqa: E402
from spf.backbones import checkpoints  # noqa: E402
from spf.backbones.base import Backbone  # noqa: E402
from spf.config import EvaluationConfig, GenerationRequest, HoldConfig  # noqa: E402
from spf.evaluation.testset import Triple, triples  # noqa: E402
from spf.generation.pair import to_tensor  # noqa: E402
from spf.generation.service import GenerationService  # noqa: E402
from spf.method.phrases import Prompt  # noqa: E402
from spf.pocket import world  # noqa: E402

WAYS = {"drawn freely": None, "held, neither": HoldConfig(floor=0, heal=1), "held, floor": HoldConfig(heal=1),
        "held, healed": HoldConfig(floor=0), "held, both (the default)": HoldConfig(),
        "held, both, healed from 0.75": HoldConfig(heal=0.75)}
TIMESTEPS, NOISES = (100, 200, 300), 4
ATTRIBUTES = ("winter-hat", "turban", "mohawk", "full-beard", "eyepatch", "astronaut-suit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--customization", default="starter")
    parser.add_argument("--attribute", nargs="+", default=ATTRIBUTES)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    preset = config.model_preset(asked.model)
    reference = checkpoints.load_backbone(preset)
    tensors = checkpoints.customization(asked.customization, preset).tensors()
    response = reference.fork(tensors)
    checkpoints.apply(response, tensors)
    service, found = GenerationService(), {name: [] for name in ("original", *WAYS)}
    for attribute in asked.attribute:
        cases = _cases(asked.model, attribute, asked.pairs)
        drawn = {name: _draw(service, asked, preset, cases, hold) for name, hold in WAYS.items()}
        originals = [result.original for result in drawn["drawn freely"]]
        found["original"].append(residue(reference, originals, [case.base for case in cases]))
        for name, results in drawn.items():
            found[name].append(residue(response, [result.customized for result in results], [case.prompt for case in cases]))
        if asked.out and attribute == asked.attribute[0]:
            _sheet([originals, *([result.customized for result in results] for results in drawn.values())]).save(asked.out)
    print("| residue | " + " | ".join(asked.attribute) + " | all |\n|---|" + "---|" * (len(asked.attribute) + 1))
    for name, values in found.items():
        print(f"| {name} | " + " | ".join(f"{float(one.mean()):.0f}" for one in (*values, torch.cat(values))) + " |")


def _cases(model: str, attribute: str, count: int) -> list[Triple]:
    return triples(config.parse(EvaluationConfig, {
        "name": "seams", "model": model, "split": "tune", "triples": count,
        "methods": {"original": {"title": "Original"}}, "tables": {}}), attribute)


def _draw(service: GenerationService, asked: argparse.Namespace, preset: config.ModelPreset, cases: list[Triple],
          hold: HoldConfig | None) -> list:
    return [service.generate(GenerationRequest(
        model=asked.model, customization=asked.customization, base_text=case.base_text,
        target_texts=(world.TARGETS[case.target].phrase,), seed=case.seed, map_steps=0, hold=hold,
        num_inference_steps=preset.num_inference_steps, guidance_scale=preset.guidance_scale)) for case in cases]


@torch.inference_mode()
def residue(backbone: Backbone, pictures: list[Image.Image], prompts: list[Prompt]) -> Tensor:
    """(B,) of B pictures and their prompts."""
    x_0, text = backbone.encode_images(torch.cat(list(map(to_tensor, pictures)))), backbone.encode_prompts(prompts)
    generator, total = torch.Generator().manual_seed(1), torch.zeros(len(pictures))
    for timestep in TIMESTEPS:
        t = torch.full((len(pictures),), timestep)
        for _ in range(NOISES):
            x_t = backbone.objective.add_noise(x_0, torch.randn(x_0.shape, generator=generator), t)
            again = backbone.objective.predict_x0(x_t, backbone.predict(x_t, t, text), t)
            total += (again - x_0).square().mean(dim=(1, 2, 3))
    return 1e4 * total / (len(TIMESTEPS) * NOISES)


def _sheet(rows: list[list[Image.Image]], count: int = 12) -> Image.Image:
    size = rows[0][0].width
    sheet = Image.new("RGB", (count * size, len(rows) * size), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures[:count]):
            sheet.paste(picture, (column * size, row * size))
    return sheet


if __name__ == "__main__":
    main()
