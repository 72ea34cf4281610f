"""spf.method composed as stage 2 composes it, against literal.py: every loss, and its gradient to every input."""

from dataclasses import dataclass, fields

import literal
import pytest
import torch

from spf.method import attention, control_map, diffusion, losses

LAMBDA = (0.2, 0.1, 0.6)
TOKENS = 6
PHRASES = ([[1, 2], [3]], [[1], [2, 3, 4]])  # token indices per sample; base tokens are all of them
TERMS = ("diff", "text", "fine", "enhanced", "total")

# name: (latent size, [(grid, heads, head dim)], MM-DiT?)
SHAPES = {
    "unet, grids and head dims differ": ((4, 6), [((2, 3), 2, 3), ((4, 6), 1, 2), ((2, 3), 1, 5)], False),
    "unet, grid does not divide the latent": ((5, 4), [((3, 2), 1, 2), ((2, 2), 2, 3)], False),
    "mm-dit": ((6, 4), [((3, 2), 2, 3), ((3, 2), 1, 4)], True),
}


@dataclass
class LayerInputs:
    """Per layer, (B, H, N or T, D)."""

    K_ref: torch.Tensor
    K_res: torch.Tensor
    Q_ref: torch.Tensor
    Q_res: torch.Tensor
    I_ref: torch.Tensor | None = None
    I_res: torch.Tensor | None = None
    V_ref: torch.Tensor | None = None
    V_res: torch.Tensor | None = None
    T_res: torch.Tensor | None = None

    def tensors(self):
        return {f.name: t for f in fields(self) if (t := getattr(self, f.name)) is not None}


class Scene:
    """Random float64 leaves for one stage-2 step of two samples; predictions stand in for the denoisers' answers."""

    def __init__(self, shape: str, seed: int):
        self.size, self.layers_spec, self.mmdit = SHAPES[shape]
        self.rng = torch.Generator().manual_seed(seed)
        b, d_clip = len(PHRASES), 5
        self.leaves: dict[str, torch.Tensor] = {}
        latent = (b, 3, *self.size)
        self.leaf("pred_ref", *latent)
        self.leaf("pred_res", *latent)
        self.leaf("phrase_embeddings", b, 2, d_clip)
        self.leaf("target_embedding", b, d_clip)
        self.leaf("image_0", b, d_clip)
        self.x_0, self.noise = self.draw(*latent), self.draw(*latent)
        self.vision = self.draw(d_clip, self.x_0[0].numel())  # stands in for tau_vision of the decoded latent
        self.layers = [self.layer(j, *spec) for j, spec in enumerate(self.layers_spec)]
        self.gate = torch.tensor([1.0, float(seed % 2)], dtype=torch.float64)
        if self.mmdit:
            self.objective, self.t = diffusion.FlowObjective(), torch.tensor([310.0, 620.0], dtype=torch.float64)
        else:
            schedule = torch.linspace(0.99, 0.01, 50, dtype=torch.float64)
            self.objective, self.t = diffusion.EpsilonObjective(schedule), torch.tensor([7, 31])

    def draw(self, *dims):
        return torch.randn(*dims, generator=self.rng, dtype=torch.float64)

    def leaf(self, name, *dims):
        self.leaves[name] = self.draw(*dims).requires_grad_()
        return self.leaves[name]

    def layer(self, j, grid, heads, d):
        n, b = grid[0] * grid[1], len(PHRASES)
        names = {"K_ref": TOKENS, "K_res": TOKENS, "Q_ref": n, "Q_res": n}
        if self.mmdit:
            names |= {"I_ref": n, "I_res": n, "V_ref": n, "V_res": n, "T_res": TOKENS}
        return LayerInputs(**{name: self.leaf(f"{name}[{j}]", b, heads, rows, d) for name, rows in names.items()})

    def gradients(self, terms):
        """{term: {leaf: gradient}}; a leaf that the term does not touch has a zero gradient."""
        leaves = list(self.leaves.values())
        out = {}
        for term in TERMS:
            found = torch.autograd.grad(terms[term], leaves, retain_graph=True, allow_unused=True)
            out[term] = {
                name: torch.zeros_like(leaf) if g is None else g
                for (name, leaf), g in zip(self.leaves.items(), found, strict=True)
            }
        return out


def ours(scene: Scene, reduction: str, phrase_reduce: str, norm: str, attach: bool) -> dict[str, torch.Tensor]:
    """One step, as the stage writes it. `attach` keeps the graph through Mhat (the reading that D12 rejects)."""
    leaf, x_0, t = scene.leaves, scene.x_0, scene.t
    x_t = scene.objective.add_noise(x_0, scene.noise, t)
    weights = torch.zeros(len(PHRASES), TOKENS, 3, dtype=torch.float64)  # third column: padding
    for b, phrases in enumerate(PHRASES):
        for i, tokens in enumerate(phrases):
            weights[b, tokens, i] = 1 / len(tokens)
    mask = weights.sum(-1) > 0
    with torch.set_grad_enabled(attach):
        layers = [
            attention.AttentionLayer(y.Q_res, y.T_res if scene.mmdit else y.K_res, grid, y.I_res)
            for y, (grid, _, _) in zip(scene.layers, scene.layers_spec, strict=True)
        ]
        A = attention.phrase_maps(layers, weights, scene.size)
        padded = torch.nn.functional.pad(leaf["phrase_embeddings"], (0, 0, 0, 1))
        gamma = control_map.phrase_relevance(padded, leaf["target_embedding"])
        M = control_map.soft_map(leaf["pred_ref"], leaf["pred_res"], norm=norm)
        sfcm = control_map.refine(M, A, gamma, phrase_reduce)
        w = [control_map.alignment_weight(sfcm, grid) for grid, _, _ in scene.layers_spec]
    F = {
        path: [
            attention.text_features(
                y[f"K_{path}"], y.get(f"I_{path}", y[f"Q_{path}"]), y.get(f"V_{path}", y[f"Q_{path}"]), w_j
            )
            for y, w_j in zip((y.tensors() for y in scene.layers), w, strict=True)
        ]
        for path in ("ref", "res")
    }
    x0_hat = scene.objective.predict_x0(x_t, leaf["pred_res"], t)
    bias_hat, bias_0 = (
        losses.representation_bias(image, leaf["target_embedding"])
        for image in (x0_hat.flatten(1) @ scene.vision.T, leaf["image_0"])
    )
    terms = {
        "diff": diffusion.diffusion_loss(leaf["pred_res"], scene.objective.target(x_0, scene.noise, t)),
        "text": losses.text_consistent_loss(F["ref"], F["res"], mask, reduction),
        "fine": losses.fine_grained_loss(
            [y.Q_ref for y in scene.layers], [y.Q_res for y in scene.layers], w, reduction
        ),
        "enhanced": losses.enhanced_loss(bias_hat, bias_0, scene.gate),
    }
    scaled = {name: scale * terms[name] for name, scale in zip(TERMS, (1, *LAMBDA), strict=False)}
    return terms | {"total": losses.total_loss(scaled), "sfcm": sfcm}


def literally(scene: Scene, reduction: str, phrase_reduce: str, norm: str, attach: bool) -> dict[str, torch.Tensor]:
    """The same step by literal.py, one sample at a time."""
    sums = dict.fromkeys(TERMS, 0)
    maps = []
    batch = len(PHRASES)
    for b, phrases in enumerate(PHRASES):
        pick = {name: leaf[b] for name, leaf in scene.leaves.items()}
        x_0, noise, pred = scene.x_0[b], scene.noise[b], pick["pred_res"]
        if scene.mmdit:
            s = scene.t[b] / 1000
            target, x_t = noise - x_0, (1 - s) * x_0 + s * noise
            x0_hat = x_t - s * pred
        else:
            abar = scene.objective.alphas_cumprod[scene.t[b]]
            target, x_t = noise, torch.sqrt(abar) * x_0 + torch.sqrt(1 - abar) * noise  # line 21
            x0_hat = x_t / torch.sqrt(abar) - torch.sqrt(1 - abar) * pred / torch.sqrt(abar)  # line 39
        layers = [
            literal.Layer(*grid, **{name: list(t[b]) for name, t in y.tensors().items()})
            for y, (grid, _, _) in zip(scene.layers, scene.layers_spec, strict=True)
        ]
        with torch.set_grad_enabled(attach):
            M = literal.soft_map(pick["pred_ref"], pred, norm)  # line 25
            A = [literal.phrase_map(layers, tokens, *scene.size) for tokens in phrases]  # lines 27-28
            cosines = [literal.cosine(list(e), list(pick["target_embedding"])) for e in pick["phrase_embeddings"]]
            sfcm = literal.refined_map(M, A, [literal.clamp01(c) for c in cosines], phrase_reduce)  # line 31
        base = sorted(token for phrase in phrases for token in phrase)
        text, fine = literal.alignment(layers, sfcm, base, reduction)  # lines 33-37
        image = [sum(row[k] * x for k, x in enumerate(x0_hat.flatten())) for row in scene.vision]
        enhanced = literal.enhanced(torch.stack(image), pick["image_0"], pick["target_embedding"])
        error = (target - pred).flatten()
        sums["diff"] += sum(e * e for e in error) / len(error) / batch
        sums["text"] += text / batch
        sums["fine"] += fine / batch
        sums["enhanced"] += scene.gate[b] * enhanced / scene.gate.sum()
        maps.append(torch.stack([torch.stack(row) for row in sfcm]))
    sums["total"] = sum(scale * sums[term] for term, scale in zip(TERMS, (1, *LAMBDA), strict=False))
    return sums | {"sfcm": torch.stack(maps)}


CASES = [
    (shape, seed, reduction, phrase_reduce, norm, attach)
    for shape in SHAPES
    for seed, reduction, phrase_reduce, norm, attach in [
        (0, "mean_sum", "sum", "l1", False),
        (1, "mean_mean", "max", "l2", False),
        (2, "l2norm", "mean", "l1", True),
        (3, "mean_sum", "sum", "l2", True),
    ]
]


@pytest.mark.parametrize("shape, seed, reduction, phrase_reduce, norm, attach", CASES)
def test_every_loss_and_gradient_equals_the_literal_algorithm(shape, seed, reduction, phrase_reduce, norm, attach):
    scene = Scene(shape, seed)
    options = (reduction, phrase_reduce, norm, attach)
    fast, slow = ours(scene, *options), literally(scene, *options)
    torch.testing.assert_close(fast["sfcm"], slow["sfcm"], rtol=1e-6, atol=1e-12)
    assert 0 < fast["sfcm"].mean() < 1, "a map of zeros or ones would test nothing"
    for term in TERMS:
        torch.testing.assert_close(fast[term], slow[term], rtol=1e-6, atol=0, msg=term)
    fast_gradients, slow_gradients = scene.gradients(fast), scene.gradients(slow)
    for term in TERMS:
        for name, expected in slow_gradients[term].items():
            scale = expected.abs().max().item()
            torch.testing.assert_close(
                fast_gradients[term][name], expected, rtol=1e-6, atol=1e-6 * scale, msg=f"d {term} / d {name}"
            )


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_reach_exactly_what_they_should(shape):
    """D12: with Mhat detached no alignment gradient reaches the predictions or gamma; attached, it would."""
    scene = Scene(shape, 0)
    for attach in (False, True):
        gradients = scene.gradients(ours(scene, "mean_sum", "sum", "l1", attach))
        for term, feature in (("text", "K_res[0]"), ("fine", "Q_res[0]")):
            assert gradients[term][feature].any()
            for name in ("pred_ref", "pred_res", "phrase_embeddings", "target_embedding"):
                assert gradients[term][name].any() == attach, f"d {term} / d {name}, attached: {attach}"
    assert not ours(scene, "mean_sum", "sum", "l1", False)["sfcm"].requires_grad


def on_meta(*dims, dtype=torch.float32):
    return torch.empty(*dims, dtype=dtype, device="meta")


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("reduction, phrase_reduce", [("mean_sum", "sum"), ("mean_mean", "max"), ("l2norm", "mean")])
def test_a_step_never_waits_for_the_device(joint, reduction, phrase_reduce):
    """Meta tensors hold no data, so anything that reads a value back (.item(), bool(), .tolist()) raises on them."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(on_meta(1) > 0)
    b, heads, d, grid, size = 2, 3, 4, (4, 6), (8, 12)
    query, text_key, pred = on_meta(b, heads, 24, d), on_meta(b, heads, 5, d), on_meta(b, 4, *size)
    image_key = on_meta(b, heads, 24, d) if joint else None
    objective = diffusion.FlowObjective() if joint else diffusion.EpsilonObjective(torch.linspace(0.9, 0.1, 10))
    t = objective.sample_timesteps(b, device="meta")
    x_t = objective.add_noise(pred, pred, t)
    layer = attention.AttentionLayer(query, text_key, grid, image_key)
    A = attention.encoder_phrase_maps([layer], on_meta(b, 5, 1 + joint, 2), size)
    gamma = control_map.phrase_relevance(on_meta(b, 2, 7), on_meta(b, 7))
    sfcm = control_map.refine(control_map.soft_map(pred, x_t), A, gamma, phrase_reduce)
    assert control_map.subtraction_sequence(sfcm, A, gamma).shape == (b, 3, *size)
    w = control_map.alignment_weight(sfcm, grid)
    F = [attention.text_features(text_key, query, query, w)]
    bias = losses.representation_bias(objective.predict_x0(x_t, pred, t).flatten(1), on_meta(b, 384))
    gate = (objective.error_amplification(t) <= 1).float() * objective.signal_level(t)
    terms = {
        "diff": diffusion.diffusion_loss(pred, objective.target(pred, x_t, t), gate),
        "text": losses.text_consistent_loss(F, F, on_meta(b, 5, dtype=torch.bool), reduction),
        "fine": losses.fine_grained_loss([query], [query], [w], reduction),
        "enhanced": losses.enhanced_loss(bias, bias, gate) + losses.clip_loss(bias, bias, gate),
    }
    assert losses.total_loss(terms).shape == ()
