"""What a pre-training step of the embedded MM-DiT costs: `python benchmarks/flow_step.py`.

Random weights and inputs of the configured shapes; torch's fused attention against attention written out, patches of 2 x 2
against single cells, interleaved. Processor time of one thread, so that other work on the machine counts little.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import spf  # noqa: E402, F401

# isort: split
import torch  # noqa: E402
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0  # noqa: E402

from spf.pocket import flow  # noqa: E402
from spf.pocket.component import multiplies_bf16  # noqa: E402
from spf.pocket.presets import pretrain_config  # noqa: E402

CLIP_TOKENS = 77
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(1)
    steps = {f"patch {patch}, {name}": step(patch, fused)
             for patch in (1, 2) for name, fused in (("fused", True), ("written out", False))}
    seconds = {name: [] for name in steps}
    for turn in range(repeat + 1):
        for name, once in steps.items():
            started = time.process_time()
            once()
            if turn:  # the first one allocates
                seconds[name].append(time.process_time() - started)
    batch = pretrain_config("pocket-dit").denoiser.batch_size
    rates = {name: [batch / value for value in values] for name, values in seconds.items()}
    print(json.dumps({"bf16": multiplies_bf16(CPU), "batch_size": batch, "samples_per_second": {
        name: {"median": round(statistics.median(values), 1), "lowest": round(min(values), 1), "highest": round(max(values), 1)}
        for name, values in rates.items()}}, indent=2))


def step(patch: int, fused: bool) -> Callable[[], None]:
    """Forward, backward and AdamW on one batch."""
    config = pretrain_config("pocket-dit")
    architecture, size = {**config.denoiser.architecture, "patch_size": patch}, config.denoiser.architecture["sample_size"]
    network = flow.build(config.denoiser.model_copy(update={"architecture": architecture}), config.text_encoder_3,
                         config.text_encoder_3.vocabulary)
    if fused:
        for module in network.modules():
            if isinstance(module, Attention):
                module.set_processor(JointAttnProcessor2_0())
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.denoiser.learning_rate)
    batch, channels = config.denoiser.batch_size, architecture["in_channels"]
    x_t, t = torch.randn(batch, channels, size, size), 1000 * torch.rand(batch)
    clip, pooled = torch.randn(batch, CLIP_TOKENS, 256), torch.randn(batch, architecture["pooled_projection_dim"])
    ids = torch.randint(3, config.text_encoder_3.vocabulary, (batch, config.text_encoder_3.length))

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16(CPU)):
            loss = (network(x_t, t, clip, pooled, network.text_encoder_3(ids).last_hidden_state).float() - x_t).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


if __name__ == "__main__":
    main()
