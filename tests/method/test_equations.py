"""Every equation of the paper by itself against literal.py: its values and its gradients, in float64 and from half precision.

test_algorithm.py composes them; here each one meets the shapes and edges that a composition hides: grids that do not
divide one another, one phrase or none, maps of zeros, masks without a token, and inputs in half precision.
"""

import literal
import pytest
import torch
from torch import Tensor

from spf.method import attention, control_map, diffusion, losses

REDUCTIONS = ("mean_sum", "mean_mean", "l2norm")
HALF = [torch.float16, torch.bfloat16]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def stacked(m) -> Tensor:
    """A tensor of nested lists of scalars."""
    return torch.stack([stacked(row) for row in m]) if isinstance(m, list) else torch.as_tensor(m, dtype=torch.float64)


def rows(m: Tensor) -> literal.Map:
    """(H, W) as literal.py takes it."""
    return [list(row) for row in m]


def assert_agree(fast: Tensor, slow: Tensor, inputs: list[Tensor], moves: bool = True) -> None:
    """Values to 1e-6, and the gradient of a random projection of them to every input; `moves`: one that is not zero."""
    assert fast.shape == slow.shape and fast.dtype == torch.float64
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-12)
    projection = torch.randn(slow.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = [torch.autograd.grad(
                     (out * projection).sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
                 if out.requires_grad else [torch.zeros_like(x) for x in inputs] for out in (fast, slow)]
    for mine, theirs in zip(*gradients, strict=True):
        assert theirs.any() == moves
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6 * theirs.abs().max().item() + 1e-12)


def assert_close_from_half(fast: Tensor, slow: Tensor, tolerance: float = 1e-5) -> None:
    """What is computed from half precision is float32, and as exact as that where nothing was rounded to half on the way."""
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.double(), slow.detach(), rtol=tolerance, atol=tolerance)


# Eq. 1, 9, 13: both families

OBJECTIVES = {"unet": (diffusion.EpsilonObjective(torch.linspace(0.99, 0.02, 40, dtype=torch.float64)), torch.tensor([3, 35])),
              "mmdit": (diffusion.FlowObjective(), torch.tensor([120.0, 800.0], dtype=torch.float64))}


def coefficient(family: str, row: int) -> tuple[float, float]:
    """(a, b) of x_t = a x_0 + b noise."""
    objective, t = OBJECTIVES[family]
    if family == "mmdit":
        return 1 - t[row].item() / 1000, t[row].item() / 1000
    abar = objective.alphas_cumprod[t[row]].item()
    return abar**0.5, (1 - abar) ** 0.5


def each_number(function, *tensors: Tensor) -> Tensor:
    """function(row, number of each tensor) at every place."""
    rows = [[function(row, *numbers) for numbers in zip(*(x[row].flatten() for x in tensors), strict=True)]
            for row in range(len(tensors[0]))]
    return stacked(rows).reshape(tensors[0].shape)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 1, 1, 1), (2, 6)])
@pytest.mark.parametrize("family", OBJECTIVES)
def test_eq_1_9_13_noising_target_and_one_step_prediction(family, shape):
    objective, t = OBJECTIVES[family]
    ab = [coefficient(family, row) for row in range(2)]
    x_0, noise, prediction = (draw(*shape, seed=seed) for seed in range(3))
    x_t = objective.add_noise(x_0, noise, t)
    assert_agree(x_t, each_number(lambda row, x, e: ab[row][0] * x + ab[row][1] * e, x_0, noise), [x_0, noise])
    target = objective.target(x_0, noise, t)
    assert_agree(target, each_number(lambda row, x, e: e if family == "unet" else e - x, x_0, noise), [noise])

    def one_step(row, x, p):
        a, b = ab[row]
        return x / a - b * p / a if family == "unet" else x - b * p

    seen = x_t.detach().requires_grad_()
    assert_agree(objective.predict_x0(seen, prediction, t), each_number(one_step, seen, prediction), [seen, prediction])


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", OBJECTIVES)
def test_eq_9_of_half_precision_is_wide(family, dtype):
    """The schedule of a model is float32; b/a magnifies what half precision would round away."""
    objective, t = OBJECTIVES[family]
    objective = diffusion.EpsilonObjective(objective.alphas_cumprod.float()) if family == "unet" else objective
    x_t, prediction = draw(2, 3, 5, 7).to(dtype), draw(2, 3, 5, 7, seed=1).to(dtype)
    ab = [coefficient(family, row) for row in range(2)]
    slow = each_number(lambda row, x, p: (x - ab[row][1] * p) / (ab[row][0] if family == "unet" else 1),
                       x_t.double(), prediction.double())
    assert_close_from_half(objective.predict_x0(x_t, prediction, t if family == "unet" else t.float()), slow)


@pytest.mark.parametrize("weight", [None, [0.5, 2.0], [0.0, 1.0], [0.0, 0.0]])
def test_eq_1_13_the_loss(weight):
    prediction, target = draw(2, 3, 5, 7), draw(2, 3, 5, 7, seed=1)
    weights = [1.0, 1.0] if weight is None else weight
    terms = [w * sum((p - y) ** 2 for p, y in zip(prediction[row].flatten(), target[row].flatten(), strict=True)) / 105
             for row, w in enumerate(weights)]
    given = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    assert_agree(diffusion.diffusion_loss(prediction, target, given), sum(terms) / 2, [prediction, target], moves=any(weights))


# Eq. 3, 14, 4, 15, 8: F, and the two alignment losses

LAYERS = {  # heads, tokens, positions, channels of a head
    "one of everything": (1, 1, 1, 1), "odd": (3, 5, 7, 3), "more tokens than positions": (2, 9, 4, 5), "one token": (2, 1, 6, 2)}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spec", LAYERS)
def test_eq_3_attention_of_keys_to_queries(spec, masked):
    heads, tokens, positions, d = LAYERS[spec]
    K, Q, w = draw(2, heads, tokens, d), draw(2, heads, positions, d, seed=1), rand(2, positions, seed=2)
    ones = torch.ones_like(w)
    slow = stacked([[literal.features(K[b, h], Q[b, h], Q[b, h], list((w if masked else ones)[b])) for h in range(heads)]
                    for b in range(2)])
    assert_agree(attention.text_features(K, Q, Q, w if masked else None), slow, [Q, *[w] * masked])
    if positions > 1:  # a softmax over one position does not depend on its score
        assert_agree(attention.text_features(K, Q, Q, w if masked else None), slow, [K])


@pytest.mark.parametrize("spec", LAYERS)
def test_eq_14_attention_of_text_queries_to_the_image(spec):
    heads, tokens, positions, d = LAYERS[spec]
    Q_txt, w = draw(2, heads, tokens, d), rand(2, positions, seed=3)
    K_vis, V_vis = draw(2, heads, positions, d, seed=1), draw(2, heads, positions, d, seed=2)
    slow = stacked([[literal.features(Q_txt[b, h], K_vis[b, h], V_vis[b, h], list(w[b])) for h in range(heads)]
                    for b in range(2)])
    fast = attention.text_features(Q_txt, K_vis, V_vis, w)
    assert_agree(fast, slow, [V_vis, w])
    assert_agree(fast, slow, [Q_txt, K_vis], moves=positions > 1)


@pytest.mark.parametrize("dtype", HALF)
def test_eq_3_in_half_precision_is_near(dtype):
    K, Q, w = draw(1, 2, 5, 4).to(dtype), draw(1, 2, 7, 4, seed=1).to(dtype), rand(1, 7, seed=2).float()
    wide = K[0].double(), Q[0].double(), list(w[0].double())
    slow = stacked([[literal.features(wide[0][h], wide[1][h], wide[1][h], wide[2]) for h in (0, 1)]])
    fast = attention.text_features(K, Q, Q, w)
    assert fast.dtype == dtype, "the fused kernel's own precision; the losses widen it"
    torch.testing.assert_close(fast.double(), slow.detach(), rtol=0, atol=0.02)


@pytest.mark.parametrize("bases", [([0, 1, 2, 3, 4], [2]), ([0, 3], [1, 2, 4]), ([], [4]), ([], [])])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_eq_3_8_14_text_consistent_loss(bases, reduction):
    """Two layers of different widths; a sample without a base token counts as zero."""
    ref, res = [draw(2, 3, 5, 2), draw(2, 1, 5, 4, seed=1)], [draw(2, 3, 5, 2, seed=2), draw(2, 1, 5, 4, seed=3)]
    mask = torch.zeros(2, 5)
    for row, tokens in enumerate(bases):
        mask[row, tokens] = 1
    layers = [sum(literal.text_term(list(a[b]), list(c[b]), bases[b], reduction) for b in (0, 1)) / 2
              for a, c in zip(ref, res, strict=True)]
    slow = sum(layers) / (2 if reduction == "mean_mean" else 1)
    assert_agree(losses.text_consistent_loss(ref, res, mask, reduction), slow, [*ref, *res], moves=any(bases))


@pytest.mark.parametrize("weighing", ["none", "some", "zero"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_eq_4_8_15_fine_grained_loss(weighing, reduction):
    ref, res = [draw(2, 3, 7, 2), draw(2, 1, 4, 5, seed=1)], [draw(2, 3, 7, 2, seed=2), draw(2, 1, 4, 5, seed=3)]
    weights = [rand(2, 7, seed=4), rand(2, 4, seed=5)]
    if weighing != "some":  # a map of ones, where everything is exempt, and none at all
        weights = [(w * 0 if weighing == "zero" else w * 0 + 1).detach() for w in weights]
    if weighing == "zero" and reduction == "l2norm":  # the slope of a root at zero is the only thing that differs
        assert losses.fine_grained_loss(ref, res, weights, reduction) == 0
        return
    layers = [sum(literal.fine_term(list(a[b]), list(c[b]), list(w[b]), reduction) for b in (0, 1)) / 2
              for a, c, w in zip(ref, res, weights, strict=True)]
    slow = sum(layers) / (2 if reduction == "mean_mean" else 1)
    fast = losses.fine_grained_loss(ref, res, None if weighing == "none" else weights, reduction)
    assert_agree(fast, slow, [*ref, *res, *(weights if weighing == "some" else [])], moves=weighing != "zero")


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_eq_8_of_half_precision_is_wide(dtype, reduction):
    ref, res, w = draw(1, 3, 7, 2).to(dtype), draw(1, 3, 7, 2, seed=1).to(dtype), rand(1, 7, seed=2).to(dtype)
    wide = [list(x[0].double()) for x in (ref, res, w)]
    text = losses.text_consistent_loss([ref], [res], torch.tensor([[0, 1, 1, 0, 1, 0, 0]], dtype=dtype), reduction)
    assert_close_from_half(text, literal.text_term(wide[0], wide[1], [1, 2, 4], reduction))
    assert_close_from_half(losses.fine_grained_loss([ref], [res], [w], reduction), literal.fine_term(*wide, reduction))


# Eq. 5, 16: the soft map


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (1, 1, 2, 2), (2, 3, 3, 11), (1, 16, 6, 4)])
def test_eq_5_16_soft_map(shape, norm):
    ref, res = draw(*shape), draw(*shape, seed=1)
    slow = stacked([literal.soft_map(ref[b], res[b], norm) for b in range(shape[0])])
    assert_agree(control_map.soft_map(ref, res, norm), slow, [ref, res])


@pytest.mark.parametrize("dtype", HALF)
def test_eq_5_of_half_precision_is_wide(dtype):
    ref, res = draw(1, 4, 5, 7).to(dtype), draw(1, 4, 5, 7, seed=1).to(dtype)
    assert_close_from_half(control_map.soft_map(ref, res), stacked([literal.soft_map(ref[0].double(), res[0].double(), "l1")]))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_eq_5_of_equal_predictions_is_a_zero_map(norm):
    ref = draw(2, 4, 5, 7)
    res = (ref + 1e-6 * draw(2, 4, 5, 7, seed=1)).detach()
    slow = stacked([literal.soft_map(ref[b], res[b], norm) for b in range(2)])
    assert_agree(control_map.soft_map(ref, res, norm), slow, [ref], moves=False)


# Eq. 6, 17: phrase maps

# latent size, [(grid, heads, channels of a head)], whether the layers are an MM-DiT's
SHAPES = {
    "unet": ((5, 3), [((5, 3), 2, 3), ((3, 2), 1, 2), ((2, 1), 3, 1), ((3, 2), 1, 5)], False),
    "unet, one layer": ((4, 3), [((1, 2), 1, 2)], False),
    "mmdit": ((6, 4), [((3, 2), 2, 3), ((3, 2), 1, 4)], True),
}
TOKENS = 7
# tokens of each phrase, by encoder: CLIP has the first four tokens and T5 the rest
PHRASES = {
    "none": [], "one": [[[1, 2], [5]]], "one, one token": [[[2], [4]]], "three": [[[0], [4, 5]], [[1, 2], [6]], [[3], [4]]]}


class Scene:
    """Random layers of one sample, as spf.method and as literal.py take them, and phrases as columns."""

    def __init__(self, shape: str, phrases: str, encoders: int, seed: int = 0):
        self.size, self.spec, joint = SHAPES[shape]
        self.phrases = [by_encoder[:encoders] for by_encoder in PHRASES[phrases]]
        self.inputs: list[Tensor] = []
        self.layers, self.literal = [], []
        for j, ((h, w), heads, d) in enumerate(self.spec):
            rows = (h * w, TOKENS, *[h * w] * joint)
            Q, K, *I = (draw(1, heads, n, d, seed=10 * j + i + 100 * seed) for i, n in enumerate(rows))  # noqa: E741
            self.inputs += [Q, K, *I]
            self.layers.append(attention.AttentionLayer(Q, K, (h, w), *I))
            parts = {"I_res": list(I[0][0]), "T_res": list(K[0])} if joint else {}
            self.literal.append(literal.Layer(h, w, [], list(K[0]), list(Q[0]), list(Q[0]), **parts))
        self.weights = torch.zeros(1, TOKENS, encoders, len(self.phrases), dtype=torch.float64)
        for i, by_encoder in enumerate(self.phrases):
            for e, tokens in enumerate(by_encoder):
                self.weights[0, tokens, e, i] = 1 / len(tokens)

    def maps(self, normalize: str = "minmax") -> list[literal.Map]:
        return [literal.encoder_mean(self.literal, by_encoder, *self.size, normalize) for by_encoder in self.phrases]


@pytest.mark.parametrize("normalize", ["minmax", "none"])
@pytest.mark.parametrize("phrases", PHRASES)
@pytest.mark.parametrize("shape, encoders", [("unet", 1), ("unet, one layer", 1), ("mmdit", 2), ("mmdit", 1)])
def test_eq_6_17_phrase_maps(shape, encoders, phrases, normalize):
    scene = Scene(shape, phrases, encoders)
    fast = attention.encoder_phrase_maps(scene.layers, scene.weights, scene.size, normalize)
    slow = stacked([scene.maps(normalize)]) if scene.phrases else torch.zeros(1, 0, *scene.size, dtype=torch.float64)
    assert_agree(fast, slow, scene.inputs, moves=bool(scene.phrases))
    if encoders == 1:
        assert torch.equal(attention.phrase_maps(scene.layers, scene.weights[:, :, 0], scene.size, normalize), fast)


@pytest.mark.parametrize("shape", SHAPES)
def test_eq_6_of_uniform_attention_is_a_zero_map(shape):
    scene = Scene(shape, "three", 1)
    layers = [attention.AttentionLayer(0 * y.query, y.text_key, y.grid, y.image_key) for y in scene.layers]
    assert not attention.encoder_phrase_maps(layers, scene.weights, scene.size).any()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape, encoders", [("unet", 1), ("mmdit", 2)])
def test_eq_6_17_in_half_precision_are_near(shape, encoders, dtype):
    scene = Scene(shape, "three", encoders)
    layers = [attention.AttentionLayer(y.query.to(dtype), y.text_key.to(dtype), y.grid,
                                       None if y.image_key is None else y.image_key.to(dtype)) for y in scene.layers]
    fast = attention.encoder_phrase_maps(layers, scene.weights.float(), scene.size)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.double(), stacked([scene.maps()]).detach(), rtol=0, atol=0.05)


# Eq. 7, 18: gamma and Mhat


@pytest.mark.parametrize("phrases", [0, 1, 4])
def test_eq_7_gamma(phrases):
    embeddings, target = draw(2, phrases, 5), draw(2, 5, seed=1)
    if phrases == 4:
        with torch.no_grad():
            embeddings[:, 3] = -target  # an opposite is not less than irrelevant
    slow = [[literal.clamp01(literal.cosine(list(e), list(target[b]))) for e in embeddings[b]] for b in range(2)]
    slow = stacked(slow) if phrases else torch.zeros(2, 0, dtype=torch.float64)
    inputs = [target, *[embeddings] * bool(phrases)]
    assert_agree(control_map.phrase_relevance(embeddings, target), slow, inputs, moves=bool(phrases))


@pytest.mark.parametrize("dtype", HALF)
def test_eq_7_gamma_of_half_precision_is_wide(dtype):
    embeddings, target = draw(1, 3, 768).to(dtype), (draw(1, 768) + draw(1, 768, seed=1)).to(dtype)
    slow = [literal.clamp01(literal.cosine(list(e.double()), list(target[0].double()))) for e in embeddings[0]]
    assert_close_from_half(control_map.phrase_relevance(embeddings, target), stacked([slow]))


@pytest.mark.parametrize("reduce", ["sum", "max", "mean"])
@pytest.mark.parametrize("phrases", [0, 1, 3])
@pytest.mark.parametrize("size", [(5, 7), (1, 3)])
def test_eq_7_18_refined_map(size, phrases, reduce):
    M, A, gamma = rand(2, *size), (rand(2, phrases, *size, seed=1) * 0.3).detach().requires_grad_(), rand(2, phrases, seed=2)
    slow = stacked([literal.refined_map(rows(M[b]), [rows(a) for a in A[b]], list(gamma[b]), reduce) for b in range(2)])
    assert slow.any()
    assert_agree(control_map.refine(M, A, gamma, reduce), slow, [M, *[A, gamma] * bool(phrases)])


@pytest.mark.parametrize("reduce", ["sum", "max", "mean"])
@pytest.mark.parametrize("rest", [0.0, 0.04])
def test_eq_7_where_nothing_is_left_is_a_zero_map(reduce, rest):
    M = (rand(2, 5, 7) * rest).detach().requires_grad_()
    A, gamma = rand(2, 1, 5, 7, seed=1), rand(2, 1, seed=2)
    slow = stacked([literal.refined_map(rows(M[b]), [rows(A[b, 0])], list(gamma[b]), reduce) for b in range(2)])
    assert not slow.any()
    assert_agree(control_map.refine(M, A, gamma, reduce), slow, [M, A, gamma], moves=False)


@pytest.mark.parametrize("size, grid", [((5, 7), (3, 4)), ((6, 4), (3, 2)), ((5, 7), (5, 7)), ((7, 3), (1, 1)), ((2, 3), (4, 5))])
def test_eq_8_the_map_on_the_grid_of_a_layer(size, grid):
    sfcm = rand(2, *size)
    slow = stacked([[1 - m for m in literal.pool(rows(sfcm[b]), *grid)] for b in range(2)])
    assert_agree(control_map.alignment_weight(sfcm, grid), slow, [sfcm])


@pytest.mark.parametrize("layers_used, kept", [("all", [0, 1, 2, 3]), ("middle", [1, 3])])
@pytest.mark.parametrize("phrases", ["none", "one", "three"])
def test_algorithm_1_lines_24_to_31(phrases, layers_used, kept):
    """The grids are 5x3, 3x2 twice and 2x1; 'middle' leaves the finest and the coarsest out (D9)."""
    scene, gamma = Scene("unet", phrases, 1), (0.5 + rand(1, len(PHRASES[phrases]), seed=5) / 2).detach()
    ref, res = draw(1, 4, *scene.size, seed=6), draw(1, 4, *scene.size, seed=7)
    scene.literal = [scene.literal[index] for index in kept]
    M = literal.soft_map(ref[0], res[0], "l1")
    m_hat = literal.refined_map(M, scene.maps(), list(gamma[0]), "sum")
    fast = control_map.fine_control_map(ref, res, scene.layers, scene.weights, gamma, layers_used=layers_used)
    assert 0 < stacked(m_hat).mean() < 1
    torch.testing.assert_close(fast[0], stacked([M]), rtol=1e-6, atol=1e-12)
    if scene.phrases:
        torch.testing.assert_close(fast[1], stacked([scene.maps()]), rtol=1e-6, atol=1e-12)
    assert_agree(fast[2], stacked([m_hat]), [ref, res])


@pytest.mark.parametrize("norm, normalize, reduce", [("l2", "minmax", "max"), ("l1", "none", "mean")])
def test_algorithm_1_lines_24_to_31_in_an_mmdit(norm, normalize, reduce):
    """All layers of a transformer are of one grid, which is the middle too."""
    scene, gamma = Scene("mmdit", "three", 2), (0.5 + rand(1, 3, seed=5) / 2).detach()
    ref, res = draw(1, 16, *scene.size, seed=6), draw(1, 16, *scene.size, seed=7)
    slow = literal.refined_map(literal.soft_map(ref[0], res[0], norm), scene.maps(normalize), list(gamma[0]), reduce)
    for layers_used in ("all", "middle"):
        fast = control_map.fine_control_map(ref, res, scene.layers, scene.weights, gamma, norm, normalize, layers_used, reduce)
        assert_agree(fast[2], stacked([slow]), [ref, res])


def test_the_middle_of_two_grids_is_both():
    layers = [attention.AttentionLayer(draw(1, 1, h * w, 2), draw(1, 1, 3, 2, seed=1), (h, w)) for h, w in ((4, 4), (2, 2))]
    weights = torch.ones(1, 3, 1, 1, dtype=torch.float64) / 3
    ref, res, gamma = draw(1, 2, 4, 4), draw(1, 2, 4, 4, seed=1), torch.zeros(1, 1, dtype=torch.float64)
    every, middle = (control_map.fine_control_map(ref, res, layers, weights, gamma, layers_used=used)[2]
                     for used in ("all", "middle"))
    assert torch.equal(every, middle)


# Eq. 9-12: response enhancement and the sum


def gated(terms: list[Tensor], weight: list[float] | None) -> Tensor:
    """Reading D15: a weighted mean that weights below one in sum do not blow up."""
    if weight is None:
        return sum(terms) / len(terms)
    return sum(w * term for w, term in zip(weight, terms, strict=True)) / max(1.0, sum(weight))


WEIGHTS = [None, [1.0, 0.0, 1.0], [0.2, 0.0, 0.3], [3.0, 0.5, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_eq_9_plain_clip_loss(weight):
    image, text = draw(3, 6), draw(3, 6, seed=1)
    slow = gated([1 - literal.cosine(list(image[b]), list(text[b])) for b in range(3)], weight)
    given = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    assert_agree(losses.clip_loss(image, text, given), slow + 0 * image.sum(), [image, text], moves=weight is None or any(weight))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_eq_10_11_representation_bias_and_enhanced_loss(weight):
    image, text, truth = draw(3, 6), draw(3, 6, seed=1), draw(3, 6, seed=2)
    bias, bias_0 = losses.representation_bias(image, text), losses.representation_bias(truth, text)
    assert_agree(bias, stacked([literal.bias(image[b], text[b]) for b in range(3)]), [image, text])
    slow = gated([literal.enhanced(image[b], truth[b], text[b]) for b in range(3)], weight)
    given = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    moves = weight is None or any(weight)
    assert_agree(losses.enhanced_loss(bias, bias_0, given), slow + 0 * image.sum(), [image, text, truth], moves)


@pytest.mark.parametrize("dtype", HALF)
def test_eq_9_to_11_of_half_precision_are_wide(dtype):
    image, text, truth = (draw(1, 512, seed=seed).to(dtype) for seed in range(3))
    wide = [x[0].double() for x in (image, truth, text)]
    bias, bias_0 = losses.representation_bias(image, text), losses.representation_bias(truth, text)
    assert_close_from_half(bias, stacked([literal.bias(wide[0], wide[2])]))
    assert_close_from_half(losses.enhanced_loss(bias, bias_0), literal.enhanced(*wide))
    assert_close_from_half(losses.clip_loss(image, text), 1 - literal.cosine(list(wide[0]), list(wide[2])))


def test_eq_12_the_sum():
    terms = {name: draw(1, seed=seed)[0] for seed, name in enumerate("abcd")}
    assert_agree(losses.total_loss(terms), terms["a"] + terms["b"] + terms["c"] + terms["d"], list(terms.values()))
