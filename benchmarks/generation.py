"""Times one pair of portraits, what maps and holding add, and what a swapped phrase costs: `python benchmarks/generation.py`.

All variants run interleaved in one process; the figures are medians with the quartiles, and ratios of medians.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

import spf  # noqa: E402, F401
from spf import config  # noqa: E402
from spf.config import GenerationRequest, HoldConfig  # noqa: E402
from spf.generation.service import GenerationService  # noqa: E402
from spf.method.phrases import join_prompt  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--customization", default="starter")
    parser.add_argument("--repeat", type=int, default=9)
    arguments = parser.parse_args()
    service = GenerationService()
    preset = service.load(arguments.model)
    request = GenerationRequest(
        model=arguments.model, customization=arguments.customization, base_text=preset.base_text,
        target_texts=("a winter hat",), num_inference_steps=preset.num_inference_steps,
        guidance_scale=preset.guidance_scale)
    print(json.dumps({
        "threads": torch.get_num_threads(), "steps": preset.num_inference_steps,
        **_pairs(service, request, arguments.repeat),
        **_capture(service, arguments.model, preset, 10 * arguments.repeat)}, indent=2))


def _pairs(service: GenerationService, request: GenerationRequest, repeat: int) -> dict:
    """Seconds of a whole pair without maps, with 5, with one at every step, with the original held, and of swapped phrases."""
    variants = {"pair": 0, "pair_5_maps": 5, "pair_every_map": request.num_inference_steps, "held_5_maps": 5, "swap_5_maps": 5,
                "held_swap_5_maps": 5}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    service.generate(request)
    for round_ in range(repeat):
        for name, map_steps in variants.items():
            varied = request.model_copy(update={
                "seed": round_ * 10 + list(variants).index(name), "map_steps": map_steps,
                "hold": HoldConfig() if name.startswith("held") else None})
            if "swap" in name:  # its original is known
                service.generate(varied.model_copy(update={"target_texts": ("a turban",)}))
            started = time.perf_counter()
            service.generate(varied)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": {name: _spread(values) for name, values in seconds.items()},
        "swap_over_pair": round(medians["swap_5_maps"] / medians["pair_5_maps"], 3),
        "held_over_pair": round(medians["held_5_maps"] / medians["pair_5_maps"], 3),
        "held_swap_over_held_pair": round(medians["held_swap_5_maps"] / medians["held_5_maps"], 3),
    }


@torch.inference_mode()
def _capture(service: GenerationService, model: str, preset: config.ModelPreset, repeat: int) -> dict:
    """The same guided pass with and without its features being kept."""
    backbone = service._model(model).reference
    text = backbone.encode_prompts([join_prompt("", ()), join_prompt(preset.base_text, ())])
    x_t, t = torch.randn(2, *backbone.latent_shape(preset.resolution)), torch.tensor([500, 500])
    plain, kept = [], []
    for _ in range(repeat):
        started = time.perf_counter()
        backbone.predict(x_t, t, text)
        plain.append(time.perf_counter() - started)
        started = time.perf_counter()
        with backbone.capture() as features:
            backbone.predict(x_t, t, text)
            features.layers()
        kept.append(time.perf_counter() - started)
    return {"capture": {"plain": _spread(plain), "captured": _spread(kept),
                        "ratio": round(statistics.median(kept) / statistics.median(plain), 3)}}


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}


if __name__ == "__main__":
    main()
