"""One generation: original and customized portrait from the same initial latent, and the maps of the same passes.

What the maps need runs beside the two paths, never in a batch with them, so asking for maps changes no pixel.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spf.backbones.base import Backbone, Sampler, TextFeatures
from spf.clip import Clip
from spf.config import GenerationRequest, MethodConfig
from spf.errors import Cancelled, InvalidInput
from spf.generation.guide import Guide
from spf.generation.layers import groups, phrase_maps_by_group, side_by_side
from spf.generation.originals import Original
from spf.generation.request import GenerationResult, StepMaps, StepView
from spf.generation.together import Answer, Ask, Path, run_together
from spf.method import control_map
from spf.method.attention import AttentionLayer
from spf.method.emphasis import weighted_prompt
from spf.method.hold import hold, running_map, weight
from spf.method.phrases import Prompt, first_targets
from spf.metrics.pixels import mean_absolute_difference, resized_map

OnStep = Callable[[StepView], None]
Encode = Callable[[tuple[Prompt, ...]], TextFeatures]

LOOKS = 5  # steps at which a generation without several maps can be looked at


@dataclass(frozen=True, eq=False)
class _Responded:
    """One step of the response path before it goes on."""

    x_t: Tensor  # (1, C, h, w) as the guide moved it
    prediction: Tensor  # (2, C, h, w): what to guide away from, then that of the prompt
    reference: Tensor | None  # (2, C, h, w) the reference's for the same x_t and the base text, where held places heal
    m_hat: Tensor | None  # (1, H, W)
    maps: StepMaps | None


class Pair:
    """Both paths in step. `reference` and `response` may be the same backbone (nothing customized)."""

    def __init__(self, reference: Backbone, response: Backbone, clip: Clip, resolution: int,
                 request: GenerationRequest, method: MethodConfig, guide: Guide | None = None, encode: Encode | None = None):
        """`encode`: what is asked in place of the reference's text encoders."""
        self.reference, self.response, self.clip, self.request, self.method = reference, response, clip, request, method
        self.guide, self.encode = guide or Guide(), encode or reference.encode_prompts
        negative = self._negative()
        prompt = weighted_prompt(request.base_text, request.target_texts)
        if len(prompt.targets) < len(request.target_texts):
            raise InvalidInput("target_texts", "contains an empty phrase; write what should change, or remove the phrase")
        self.full = self._weighted(self.encode((negative, prompt)))  # row 0 guides away, row 1 is the prompt
        self.prompt = self.full.prompts[1]  # as it fits the encoder
        # (1, T, E, P): without the columns that pad it to a negative prompt of more phrases
        self.phrase_weights = self.full.phrase_weights[1:, ..., :len(self.prompt.phrases)]
        self.base = self.encode((negative, first_targets(self.prompt, 0)))
        self.gamma = self._gamma()  # (1, P)
        self.full = self.guide.text(response, self.full)
        self.apart = request.hold.first_step(request.num_inference_steps) if request.hold else 0  # until then there is one path
        self.drawn = drawn_steps(request.num_inference_steps, request.map_steps, self.apart)
        self.shape = reference.latent_shape(request.height or resolution, request.width or resolution)
        self._begin()

    def _begin(self) -> None:
        """What belongs to one seed."""
        request = self.request
        generator = torch.Generator().manual_seed(request.seed)  # on the CPU: a seed means the same on every device
        # each path has its own: some samplers count the steps they were asked for
        self.reference_sampler, self.sampler = (
            self.reference.sampler(request.num_inference_steps, request.scheduler, self.shape[1:]) for _ in range(2))
        self.noise = torch.randn(1, *self.shape, generator=generator).to(self.gamma.device) * self.sampler.init_noise_sigma
        self.seconds = {"original": 0.0, "customized": 0.0, "maps": 0.0}

    def of_seed(self, seed: int) -> Pair:
        """The same texts and settings from another seed; nothing is encoded again."""
        other = copy.copy(self)
        other.request = self.request.model_copy(update={"seed": seed})
        other._begin()
        return other

    @property
    def original_key(self) -> tuple:
        """Everything that the reference path depends on, besides the model."""
        request = self.request
        return (self.base.prompts[1], request.negative_prompt, request.seed, request.num_inference_steps,
                request.guidance_scale, request.scheduler, self.noise.shape)

    def run(self, known: Original | None = None, on_step: OnStep | None = None,
            is_cancelled: Callable[[], bool] = lambda: False) -> GenerationResult:
        """The result; `known` is the original of an earlier one with the same `original_key`. Raises Cancelled."""
        return run_together([self.steps(known, on_step, is_cancelled)])[0]

    def steps(self, known: Original | None = None, on_step: OnStep | None = None,
              is_cancelled: Callable[[], bool] = lambda: False) -> Path:
        """What `run` does, as a path that can be drawn together with those of other seeds. Sets `original`."""
        held = self.request.hold
        if held and known and not known.latents:
            known = None  # drawn again, for its latents
        x_ref = x_res = self.noise
        x_0_ref, maps, reached, followed, steps = None, [], [], None, len(self.sampler.timesteps)
        first = known.first.to(self.noise) if known and known.apart == self.apart else None
        looks = self.drawn if len(self.drawn) > 1 else drawn_steps(steps, LOOKS, self.apart)
        for step, t in enumerate(self.sampler.timesteps):
            if is_cancelled():
                raise Cancelled("Generation was cancelled.")
            if known is None:
                x_ref, x_0_ref, answered = yield from self._advance(
                    "original", self.reference, self.reference_sampler, self.base, x_ref, t)
                first = answered if step == self.apart else first
            if held:
                x_ref = known.latents[step].to(x_ref) if known else x_ref
                reached.append(x_ref.cpu())
            if step < self.apart:
                x_res = x_ref
                continue
            responded = yield from self._respond(step, t, x_res, first if step == self.apart else None)
            if self._decides(step):
                followed = running_map(followed, responded.m_hat, held.smoothing)
            x_res, x_0 = self._go_on(step, t, responded, followed, x_ref)
            if responded.maps is not None:
                maps.append(responded.maps)
            if on_step and step in looks:
                on_step(StepView(step, steps, partial(self._preview, known, x_0_ref, x_0), responded.maps))
        self.original = known or self._original(x_ref, first, reached)
        return self._finish(self._picture(x_res), maps)

    def _original(self, x_ref: Tensor, first: Tensor, reached: list[Tensor]) -> Original:
        picture = self._picture(x_ref)
        return Original(picture, first.cpu(), self._seen(picture).cpu(), tuple(reached), self.apart)

    def _decides(self, step: int) -> bool:
        """Whether the map of this step is among those that hold the original."""
        held = self.request.hold
        return held is not None and (step == self.apart or (step + 1) % held.interval == 0)

    def _heals(self, step: int) -> bool:
        held = self.request.hold
        return held is not None and held.heals(step, len(self.sampler.timesteps))

    def _respond(self, step: int, t: Tensor, x_t: Tensor, known: Tensor | None) -> Generator[Ask, Answer, _Responded]:
        """What the response predicts at one step, and the maps and the reference's prediction where they are wanted.

        `known`: the reference's unguided prediction for x_t, if it is there already, as it is where both paths part.
        """
        with self._timed("customized"):
            moved = self.guide.latents(self.response, step, t, x_t, self.full)
        if moved is not x_t:
            known = None
        drawn = step in self.drawn
        measured = drawn or self._decides(step)
        response = yield from self._ask("customized", self.response, moved.expand(2, -1, -1, -1), t, self.full, captures=measured)
        reference, layers = None, []
        if self._heals(step):
            answer = yield from self._ask(
                "customized", self.reference, moved.expand(2, -1, -1, -1), t, self.base, captures=drawn)
            reference, known, layers = answer.prediction, answer.prediction[1:], [layer.rows(1) for layer in answer.layers]
        elif drawn or (measured and known is None):  # Eq. 5 asks for the same x_t
            answer = yield from self._ask("maps", self.reference, moved, t, self.base[[1]], captures=True)
            known, layers = answer.prediction if known is None else known, answer.layers
        m_hat, maps = self._measure(step, t, known, response, layers) if measured else (None, None)
        return _Responded(moved, response.prediction, reference, m_hat, maps)

    def _measure(self, step: int, t: Tensor, prediction: Tensor, response: Answer, reference_layers: list[AttentionLayer],
                 ) -> tuple[Tensor, StepMaps | None]:
        """Mhat of the response's own pass and the reference's unguided `prediction`, and the maps where they are drawn."""
        with self._timed("maps"):
            layers, method = [layer.rows(1) for layer in response.layers], self.method
            found = control_map.fine_control_map(
                prediction, response.prediction[1:], layers, self.phrase_weights, self.gamma,
                norm=method.soft_map_norm, normalize=method.phrase_normalization, layers_used=method.map_layers,
                reduce=method.phrase_reduce)
            return found[2], self._maps(step, t, found, layers, reference_layers) if step in self.drawn else None

    def _go_on(self, step: int, t: Tensor, responded: _Responded, followed: Tensor | None, x_ref: Tensor,
               ) -> tuple[Tensor, Tensor]:
        """The next latents of the response path and its one-step x_0, held by the map `followed` so far if it is to be."""
        held, prediction = self.request.hold, responded.prediction
        if held is None:
            return self._sample(self.sampler, prediction, responded.x_t, t)
        w = weight(followed, held.gain, held.floor, targets=len(self.prompt.targets) or 1)
        if responded.reference is not None:
            return self._sample(self.sampler, hold(prediction, responded.reference, w), responded.x_t, t)
        x_res, x_0 = self._sample(self.sampler, prediction, responded.x_t, t)
        return hold(x_res, x_ref, w), x_0

    def _advance(self, path: str, backbone: Backbone, sampler: Sampler, text: TextFeatures, x_t: Tensor, t: Tensor,
                 ) -> Generator[Ask, Answer, tuple[Tensor, Tensor, Tensor]]:
        """One guided step: the next latents, the one-step x_0, and what was predicted without guidance."""
        answer = yield from self._ask(path, backbone, x_t.expand(2, -1, -1, -1), t, text)
        return *self._sample(sampler, answer.prediction, x_t, t), answer.prediction[1:]

    def _ask(self, path: str, backbone: Backbone, x_t: Tensor, t: Tensor, text: TextFeatures, captures: bool = False,
             ) -> Generator[Ask, Answer, Answer]:
        answer = yield Ask(backbone, x_t, t.expand(len(x_t)), text, captures)
        self.seconds[path] += answer.seconds
        return answer

    def _sample(self, sampler: Sampler, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        unconditional, conditional = prediction.chunk(2)
        guided = unconditional + self.request.guidance_scale * (conditional - unconditional)
        sampled = sampler.step(guided, t, x_t).prev_sample
        return sampled, self.reference.objective.predict_x0(x_t, guided, t[None])

    def _maps(self, step: int, t: Tensor, found: tuple[Tensor, Tensor, Tensor], layers: list[AttentionLayer],
              reference_layers: list[AttentionLayer]) -> StepMaps:
        m, attention, m_hat = found
        size, targets = tuple(m.shape[-2:]), self.full.target_weights[1:]
        count = len(self.prompt.phrases)
        base = F.pad(self.base.phrase_weights[1:, ..., :count], (0, targets.shape[-1]))  # as many columns as the other has
        weights = torch.cat([torch.cat([self.phrase_weights, targets], dim=-1), base])  # (2, T, E, P + K)
        response, original = phrase_maps_by_group(side_by_side(layers, reference_layers), weights, size)
        both = torch.cat([response, original[:, :count]], dim=1)  # (1 + G, P + K + P, H, W)
        every = both[0]
        maps = (m[0], m_hat[0], attention[0], every[count:len(every) - count], every[len(every) - count:])
        return StepMaps(step, int(t), *(value.float().cpu().numpy() for value in maps), tuple(groups(layers)),
                        both[1:].float().cpu().numpy())

    def _negative(self) -> Prompt:
        """The negative prompt. Raises InvalidInput naming it if it does not fit the encoder."""
        negative = weighted_prompt(self.request.negative_prompt, ())
        try:
            return self.encode((negative,)).prompts[0] if negative.text else negative
        except InvalidInput as error:
            raise InvalidInput("negative_prompt", str(error).removeprefix(f"{error.field}: ")) from None

    def _weighted(self, full: TextFeatures) -> TextFeatures:
        """The prompt's embeddings with every target phrase at its weight: e_0 + sum_k w_k (e_k - e_(k-1)).

        e_k belongs to the base text with the first k phrases, so that weights of 1 are the prompt, of 0 the base text.
        """
        weights, prompt = self.request.weights, full.prompts[1]
        if all(weight == 1 for weight in weights):
            return full
        growing = tuple(first_targets(prompt, count) for count in range(len(weights) + 1))
        factors = torch.tensor(weights, device=full.embeddings.device)

        def weigh(own: Tensor, steps: Tensor) -> Tensor:
            return torch.stack([own[0], steps[0] + torch.tensordot(factors.to(steps), steps.diff(dim=0), dims=1)])

        return full.conditioned(weigh, self.encode(growing))

    def _gamma(self) -> Tensor:
        if not self.prompt.targets:
            return torch.zeros(1, len(self.prompt.phrases), device=self.full.embeddings.device)
        if self.method.gamma == "contextual":
            phrases, target = self.full[[1]].phrase_means()
            return control_map.phrase_relevance(phrases[:, :len(self.prompt.phrases)], target)
        phrases = self.clip.embed_text_lists([[phrase.text for phrase in self.prompt.phrases]])
        return control_map.phrase_relevance(phrases, self.clip.embed_texts([self.prompt.target.text]))

    def _picture(self, latents: Tensor) -> Image.Image:
        return to_pictures(self.reference.decode(latents))[0]

    @torch.inference_mode()
    def _preview(self, known: Original | None, original: Tensor, customized: Tensor) -> tuple[Image.Image, Image.Image]:
        """What a step shows of both paths, from their x_0; a known original is shown as it is."""
        return known.picture if known else self._picture(original), self._picture(customized)

    def _finish(self, customized: Image.Image, maps: list[StepMaps]) -> GenerationResult:
        result = GenerationResult(
            self.request, self.original.picture, customized, self.prompt, self.gamma.cpu().numpy()[0], maps,
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
            scheduler=self.request.scheduler or self.reference.default_scheduler)
        result.metrics.update(self._metrics(result))
        return result

    def _metrics(self, result: GenerationResult) -> dict[str, float]:
        values = {"mean_absolute_difference": mean_absolute_difference(result.original, result.customized)}
        if result.maps:
            values["sfcm_mean"] = float(result.mean_map("sfcm").mean())
            outside = resized_map(result.mean_map("sfcm"), result.original.size) < 0.5
            if outside.any():
                values["outside_sfcm"] = mean_absolute_difference(result.original, result.customized, outside)
        if self.prompt.targets:
            original, customized = self.original.seen.to(self.clip.device)[0], self._seen(result.customized)[0]
            base, full = (customized @ self.clip.embed_texts([self.prompt.base.text, self.prompt.text]).T).tolist()
            values |= {"clip_target_margin": full - base, "clip_image_similarity": float(original @ customized)}
        return {name: round(value, 5) for name, value in values.items()}

    def _seen(self, picture: Image.Image) -> Tensor:
        return self.clip.embed_images(to_tensor(picture).to(self.clip.device))  # (1, D)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


def drawn_steps(num_inference_steps: int, map_steps: int, first: int = 0) -> tuple[int, ...]:
    """Which steps from `first` on draw maps: `map_steps` of them, evenly spread, the last step always among them.

    Spread over the whole way if that leaves out the steps before `first`: maps that hold are mostly measured there too.
    """
    count = min(map_steps, num_inference_steps - first)
    whole = _spread(0, num_inference_steps, count)
    return whole if all(step >= first for step in whole) else _spread(first, num_inference_steps, count)


def _spread(first: int, end: int, count: int) -> tuple[int, ...]:
    return tuple(first + round((i + 1) * (end - first) / count) - 1 for i in range(count))


def to_pictures(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1], clamped here -> RGB pictures."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in pixels]


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
