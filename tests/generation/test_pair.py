"""One generation: the same pixels with and without maps, maps that are exact for their step, and a prompt cancel."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spf.config import HoldConfig, MethodConfig
from spf.errors import Cancelled, InvalidInput
from spf.generation.guide import Guide
from spf.generation.pair import drawn_steps, to_pictures, to_tensor
from spf.method import control_map
from spf.method.attention import encoder_phrase_maps

both_families = pytest.mark.parametrize("family", ["unet", "mmdit"])


@pytest.fixture(autouse=True)
def no_gradient():
    with torch.inference_mode():
        yield


@given(st.integers(1, 200), st.integers(0, 200), st.floats(0, 0.99))
def test_drawn_steps_are_spread_over_the_whole_way(steps, wanted, start):
    first = HoldConfig(start=start).first_step(steps)
    drawn = drawn_steps(steps, wanted, first)
    assert len(drawn) == min(steps - first, wanted) and len(set(drawn)) == len(drawn)
    assert list(drawn) == sorted(drawn) and all(first <= step < steps for step in drawn)
    if drawn:
        assert drawn[-1] == steps - 1
        begin = -1 if drawn == drawn_steps(steps, len(drawn)) else first - 1
        gaps = np.diff([begin, *drawn])
        assert gaps.max() - gaps.min() <= 1


def test_the_maps_of_the_default_are_those_that_hold():
    assert drawn_steps(20, 5, HoldConfig().first_step(20)) == (3, 7, 11, 15, 19) == drawn_steps(20, 5)
    assert drawn_steps(20, 5, 6) == (8, 11, 13, 16, 19)


@both_families
def test_asking_for_maps_changes_no_pixel(pair):
    plain, mapped, many = (pair(map_steps=count).run() for count in (0, 2, 200))
    assert plain.maps == [] and len(mapped.maps) == 2 and len(many.maps) == 3
    for result in (mapped, many):
        assert result.original.tobytes() == plain.original.tobytes()
        assert result.customized.tobytes() == plain.customized.tobytes()


def test_the_customized_model_with_a_target_draws_another_picture(pair):
    result = pair().run()
    assert result.original.tobytes() != result.customized.tobytes()
    assert result.original.size == result.customized.size == (32, 32)
    assert result.metrics["mean_absolute_difference"] > 0


@both_families
def test_nothing_customized_and_nothing_asked_is_the_original(pair, backbone):
    result = pair(response=backbone, target_texts=()).run()
    assert result.original.tobytes() == result.customized.tobytes()
    assert result.metrics == {"mean_absolute_difference": 0, "outside_sfcm": 0, "sfcm_mean": 0}
    assert all(not maps.soft_map.any() and not maps.sfcm.any() for maps in result.maps)
    assert result.gamma.tolist() == [0, 0, 0]


@both_families
def test_the_original_does_not_depend_on_target_or_customization(pair, backbone):
    customized, other = pair().run(), pair(target_texts=("a turban",)).run()
    plain = pair(response=backbone, target_texts=()).run()
    assert customized.original.tobytes() == other.original.tobytes() == plain.original.tobytes()
    assert customized.customized.tobytes() != other.customized.tobytes()


@both_families
def test_a_seed_means_one_picture(pair):
    first, again, other = pair().run(), pair().run(), pair(seed=4).run()
    assert first.customized.tobytes() == again.customized.tobytes() and first.original.tobytes() == again.original.tobytes()
    assert first.customized.tobytes() != other.customized.tobytes() and first.original.tobytes() != other.original.tobytes()


@both_families
@pytest.mark.parametrize("method", [MethodConfig(), MethodConfig(soft_map_norm="l2", phrase_reduce="max")])
def test_m_and_sfcm_are_those_of_the_response_paths_own_latent(pair, backbone, response, counted, method):
    """Recomputed from outside for every drawn step: both denoisers on the same x_t and t, without guidance (Eq. 5, D8)."""
    asked = counted(response)
    made = pair(method=method)
    result = made.run()
    assert [maps.step for maps in result.maps] == [1, 2]
    for maps in result.maps:
        x_t, t = (values[:1] for values in asked[maps.step])
        assert maps.timestep == int(t)
        full, base = (backbone.encode_prompts([made.prompt]), backbone.encode_prompts([made.base.prompts[1]]))
        with response.capture() as features:
            eps_res = response.predict(x_t, t, full)
            layers = [layer.attention for layer in features.layers()]
        m = control_map.soft_map(backbone.predict(x_t, t, base), eps_res, method.soft_map_norm)
        a = encoder_phrase_maps(layers, full.phrase_weights, (8, 8))
        sfcm = control_map.refine(m, a, torch.from_numpy(result.gamma)[None], method.phrase_reduce)
        for found, expected in ((maps.soft_map, m), (maps.phrase_maps, a), (maps.sfcm, sfcm),
                                (maps.target_maps, encoder_phrase_maps(layers, full.target_weights, (8, 8)))):
            np.testing.assert_allclose(found, expected[0].numpy(), atol=2e-3)
        assert m.max() > 0.9 and 0 < sfcm.mean() < 1


def test_the_latent_of_the_response_path_is_not_that_of_the_reference(pair, response, counted, backbone):
    """Otherwise the exactness above would prove nothing."""
    ours, theirs = counted(response), counted(backbone)
    pair(map_steps=0).run()
    assert torch.equal(ours[0][0], theirs[0][0]), "both begin with the same noise"
    assert not torch.allclose(ours[2][0], theirs[2][0])


def test_gamma_compares_each_phrase_with_the_target(pair, clip):
    result = pair().run()
    texts = clip.embed_texts([phrase.text for phrase in result.prompt.phrases])
    expected = (texts @ clip.embed_texts(["a winter hat"]).T).clamp(0, 1)[:, 0]
    np.testing.assert_allclose(result.gamma, expected.numpy(), atol=1e-5)


@both_families
@pytest.mark.parametrize("gamma", ["clip", "contextual"])
@pytest.mark.parametrize("targets", [(), ("a hat",), ("a hat", "freckled skin")])
def test_maps_fit_the_prompt_whatever_the_negative_prompt_is(pair, targets, gamma):
    """A negative prompt of more phrases than the base text once broke the maps."""
    made = pair(method=MethodConfig(gamma=gamma), base_text="a person, smiling", target_texts=targets,
                negative_prompt="blur, noise, bad hands, grain, red", num_inference_steps=1)
    result = made.run()
    assert result.gamma.shape == (2,)
    maps = result.maps[0]
    assert maps.soft_map.shape == maps.sfcm.shape == (8, 8)
    assert maps.phrase_maps.shape == (2, 8, 8) and maps.target_maps.shape == (len(targets), 8, 8)
    for values in (maps.soft_map, maps.sfcm, maps.phrase_maps, maps.target_maps):
        assert values.dtype == np.float32 and (0 <= values).all() and (values <= 1).all()


def test_a_negative_prompt_changes_the_picture(pair):
    assert pair().run().customized.tobytes() != pair(negative_prompt="a turban").run().customized.tobytes()


@both_families
def test_a_base_text_without_any_phrase_still_gives_maps(pair):
    result = pair(base_text="with", num_inference_steps=1).run()
    assert result.gamma.shape == (0,) and result.maps[0].phrase_maps.shape == (0, 8, 8)


@pytest.mark.parametrize("field, values", [
    ("target_texts", {"target_texts": ("zzqj " * 60,)}), ("base_text", {"base_text": "zzqj " * 60}),
    ("negative_prompt", {"negative_prompt": "zzqj " * 60})])
def test_a_text_that_does_not_fit_the_encoder_is_named(pair, field, values):
    with pytest.raises(InvalidInput, match="77") as caught:
        pair(**values)
    assert caught.value.field == field and str(caught.value).count(field) == 1


@both_families
def test_what_did_not_fit_is_left_out_of_both_paths(pair):
    made = pair(base_text=", ".join(f"a zzqj{i} hat" for i in range(30)), num_inference_steps=1)
    assert len(made.prompt.phrases) < 30 and made.base.prompts[1].text == made.prompt.base.text
    assert made.run().prompt.targets[0].text == "a winter hat"


@both_families
def test_every_drawn_step_is_shown_while_it_runs(pair):
    views = []
    result = pair().run(on_step=views.append)
    assert [(view.step, view.num_inference_steps) for view in views] == [(1, 3), (2, 3)]
    assert [view.maps for view in views] == result.maps
    assert [picture.size for picture in views[-1].pictures] == [(32, 32), (32, 32)]
    for preview, picture in zip(views[-1].pictures, (result.original, result.customized), strict=True):
        difference = np.abs(np.asarray(preview, int) - np.asarray(picture, int))
        assert difference.max() <= 4, "at the last step the one-step x_0 is nearly the picture"


def test_without_maps_a_few_steps_are_shown_and_nothing_is_decoded_that_nobody_looks_at(pair, backbone, monkeypatch):
    decoded, views = [], []
    decode = backbone.decode
    monkeypatch.setattr(type(backbone), "decode", lambda self, latents: decoded.append(latents) or decode(latents))
    pair(num_inference_steps=20, map_steps=0).run(on_step=views.append)
    assert [view.step for view in views] == [3, 7, 11, 15, 19] and all(view.maps is None for view in views)
    assert len(decoded) == 2, "the two pictures of the result"
    before, after = (np.asarray(view.pictures[1], int) for view in (views[0], views[-1]))
    assert len(decoded) == 6 and np.abs(before - after).max() > 0


@pytest.mark.parametrize("when", [0, 1, 2])
def test_cancelling_runs_no_further_step(pair, response, counted, when):
    asked, calls = counted(response), iter(range(100))
    with pytest.raises(Cancelled):
        pair(map_steps=0).run(is_cancelled=lambda: next(calls) == when)
    assert len(asked) == when


@both_families
def test_a_known_original_is_not_drawn_again(pair, backbone, counted):
    first = pair()
    expected = first.run()
    asked = counted(backbone)
    again = pair()
    assert again.original_key == first.original_key
    views = []
    result = again.run(first.original, on_step=views.append)
    assert len(asked) == 2, "only what M needs at the two drawn steps"
    assert all(view.pictures[0] is expected.original for view in views)
    assert result.original.tobytes() == expected.original.tobytes()
    assert result.customized.tobytes() == expected.customized.tobytes()


@pytest.mark.parametrize("change", [
    {"base_text": "a person"}, {"seed": 4}, {"num_inference_steps": 4}, {"guidance_scale": 3.5}, {"negative_prompt": "blur"},
    {"scheduler": "euler"}, {"height": 48}, {"width": 48}])
def test_whatever_changes_the_original_changes_its_key(pair, change):
    assert pair().original_key != pair(**change).original_key


def test_targets_and_maps_do_not_change_the_key_of_the_original(pair):
    assert pair().original_key == pair(target_texts=("a turban", "freckles"), map_steps=0).original_key


def test_mean_maps_average_the_drawn_steps(pair):
    result = pair().run()
    expected = (result.maps[0].phrase_maps[1] + result.maps[1].phrase_maps[1]) / 2
    np.testing.assert_allclose(result.mean_map("phrase_maps", 1), expected)
    with pytest.raises(ValueError, match="map_steps"):
        pair(map_steps=0, num_inference_steps=1).run().mean_map("sfcm")


def test_pictures_and_tensors_are_inverse():
    images = torch.rand(1, 3, 4, 5) * 2.4 - 1.2
    picture = to_pictures(images)[0]
    assert picture.size == (5, 4)
    torch.testing.assert_close(to_tensor(picture), images.clamp(-1, 1), atol=1 / 127.5, rtol=0)
    assert to_pictures(to_tensor(picture))[0].tobytes() == picture.tobytes()


@both_families
def test_weights_of_one_are_no_weights_and_of_zero_no_phrase(pair):
    plain, ones, none, zeros = (pair(target_texts=texts, target_weights=weights).run() for texts, weights in (
        (("a winter hat", "a turban"), ()), (("a winter hat", "a turban"), (1, 1)), ((), ()),
        (("a winter hat", "a turban"), (0, 0))))
    assert plain.customized.tobytes() == ones.customized.tobytes()
    assert np.abs(np.asarray(none.customized, int) - np.asarray(zeros.customized, int)).max() <= 1


@both_families
def test_a_weight_changes_its_phrase_only_and_the_embeddings_linearly(pair):
    texts = ("a winter hat", "a turban")
    half, whole, without = (pair(target_texts=texts, target_weights=weights).full.embeddings
                            for weights in ((1, 0.5), (1, 1), (1, 0)))
    torch.testing.assert_close(half, (whole + without) / 2)
    alone = pair(target_texts=texts[:1]).full.embeddings
    torch.testing.assert_close(without, alone)


@pytest.mark.parametrize("weights", [(1.0,), (1, 1, 1), (-0.1, 1), (2.1, 1), (float("nan"), 1), (float("inf"), 1), "12"])
def test_weights_that_cannot_be_used_are_refused(ask, weights):
    with pytest.raises(InvalidInput, match="target_weights"):
        ask(target_texts=("a hat", "a scarf"), target_weights=weights)


@both_families
def test_a_picture_that_is_not_square_has_maps_of_its_shape(pair, family):
    made = pair(height=48, width=32)
    result = made.run()
    assert result.original.size == result.customized.size == (32, 48)
    maps = result.maps[0]
    assert maps.soft_map.shape == maps.sfcm.shape == (12, 8) and maps.phrase_maps.shape == (3, 12, 8)
    assert result.original.tobytes() != pair(height=32, width=48).run().original.tobytes()


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler", "unipc"])
def test_maps_change_no_pixel_of_any_scheduler(pair, scheduler):
    plain, mapped = (pair(scheduler=scheduler, map_steps=count).run() for count in (0, 3))
    assert mapped.original.tobytes() == plain.original.tobytes()
    assert mapped.customized.tobytes() == plain.customized.tobytes()
    assert (plain.customized.tobytes() == pair(map_steps=0).run().customized.tobytes()) == (scheduler == "ddim")
    assert all(0 < maps.soft_map.max() <= 1 for maps in mapped.maps) and plain.scheduler == scheduler


@pytest.mark.parametrize("field, value", [("scheduler", "dpm"), ("height", 33), ("width", 8), ("width", 100_000)])
def test_a_scheduler_or_size_that_does_not_exist_is_refused(pair, field, value):
    with pytest.raises(InvalidInput, match=field):
        pair(**{field: value})


@both_families
def test_a_weighted_word_changes_the_picture_and_no_span(pair, family):
    plain, weighted = pair(), pair(base_text="a person, with (red hair:1.8), on a blue background")
    assert weighted.prompt.text == plain.prompt.text and weighted.prompt.phrases == plain.prompt.phrases
    assert torch.equal(weighted.phrase_weights, plain.phrase_weights)
    assert not torch.equal(weighted.full.embeddings, plain.full.embeddings)
    assert not torch.equal(weighted.base.embeddings, plain.base.embeddings), "the original is drawn from the same base text"
    assert weighted.original_key != plain.original_key
    result = weighted.run()
    assert len(result.maps[0].phrase_maps) == 3 and result.customized.tobytes() != plain.run().customized.tobytes()


def test_a_bracket_without_a_partner_is_text(pair):
    assert pair(base_text="a person :) smiling").prompt.base.text == "a person :) smiling"


def test_a_target_of_brackets_only_is_refused(pair):
    with pytest.raises(InvalidInput, match="target_texts"):
        pair(target_texts=("(:1.2)",))


@both_families
@pytest.mark.parametrize("heal", [1, 0.34])
def test_held_at_no_gain_is_the_original_and_maps_change_no_pixel_of_what_is_held(pair, heal):
    assert (nothing := pair(hold={"gain": 0, "heal": heal}).run()).customized.tobytes() == nothing.original.tobytes()
    held, mapped = (pair(hold={"gain": 2.0, "interval": 2, "heal": heal}, map_steps=count).run() for count in (0, 2))
    assert held.customized.tobytes() == mapped.customized.tobytes() and (len(held.maps), len(mapped.maps)) == (0, 2)
    free = pair().run()
    assert held.original.tobytes() == free.original.tobytes() != held.customized.tobytes() != free.customized.tobytes()


@both_families
@pytest.mark.parametrize("interval, targets, floor, heal", [
    (1, ("a hat",), 0, 1), (2, ("a hat",), 0.5, 1), (1, ("a hat", "a beard"), 0.2, 1), (1, ("a hat",), 0.2, 0.34),
    (2, ("a hat", "a beard"), 0, 0.34)])
def test_holding_is_both_paths_in_step_and_the_original_given_back_outside_the_running_map_until_it_heals(
        pair, backbone, response, interval, targets, floor, heal):
    hold = {"gain": 1.5, "smoothing": 0.25, "interval": interval, "floor": floor, "heal": heal}
    one = pair(hold=hold, map_steps=0, target_texts=targets)
    x_ref = x_res = one.noise
    samplers, followed = [backbone.sampler(3, None, one.shape[1:]) for _ in range(2)], None
    for step, t in enumerate(one.sampler.timesteps):
        times = t.expand(2)

        def guided(model, x, text, times=times):
            unconditional, conditional = model.predict(x.expand(2, -1, -1, -1), times, text).chunk(2)
            return unconditional + one.request.guidance_scale * (conditional - unconditional), conditional

        eps_ref, _ = guided(backbone, x_ref, one.base)
        x_ref = samplers[0].step(eps_ref, t, x_ref).prev_sample
        with response.capture() as captured:
            eps_res, conditional = guided(response, x_res, one.full)
            layers = [layer.attention.rows(1) for layer in captured.layers()]
        base = backbone.predict(x_res, times[:1], one.base[[1]])
        _, _, m_hat = control_map.fine_control_map(base, conditional, layers, one.phrase_weights, one.gamma)
        if step == 0 or step % interval == interval - 1:
            followed = m_hat if followed is None else 0.25 * followed + 0.75 * m_hat
        w = ((1.5 * len(targets) * followed - floor) / (1 - floor)).clamp(0, 1)[:, None]
        if heal < 1 and step >= 1:  # 0.34 of three steps
            eps_healing, _ = guided(backbone, x_res, one.base)
            x_res = samplers[1].step(w * eps_res + (1 - w) * eps_healing, t, x_res).prev_sample
        else:
            x_res = w * samplers[1].step(eps_res, t, x_res).prev_sample + (1 - w) * x_ref
    difference = np.abs(np.asarray(one.run().customized, int) - np.asarray(to_pictures(backbone.decode(x_res))[0], int))
    assert difference.max() <= 1


def test_a_held_original_is_not_drawn_again_either(pair, backbone, counted):
    first = pair(hold={"interval": 1})
    expected = first.run()
    assert len(first.original.latents) == 3
    asked, again = counted(backbone), pair(hold={"interval": 1})
    assert again.run(first.original).customized.tobytes() == expected.customized.tobytes()
    assert len(asked) == 2, "only what M needs, at the first step the answer that is known"
    assert again.original is first.original


@pytest.mark.parametrize("interval, measured", [(1, 2), (2, 1), (3, 1), (100, 0)])
def test_the_map_that_holds_is_measured_at_every_so_many_steps(pair, backbone, counted, interval, measured):
    hold = {"interval": interval}
    (first := pair(hold=hold, map_steps=0)).run()
    asked = counted(backbone)
    pair(hold=hold, map_steps=0).run(first.original)
    assert len(asked) == measured, "both paths begin as one: the first map needs no prediction of its own"


@both_families
def test_the_map_of_the_first_step_is_the_same_whether_the_original_is_drawn_or_known(pair):
    (first := pair(map_steps=3)).run()
    drawn, known = pair(map_steps=3).run().maps[0], pair(map_steps=3).run(first.original).maps[0]
    assert drawn.step == known.step == 0
    assert np.array_equal(drawn.sfcm, known.sfcm) and np.array_equal(drawn.soft_map, known.soft_map)


@pytest.mark.parametrize("interval, map_steps, rows", [(1, 0, [2, 2]), (100, 0, [2, 2]), (1, 3, [1, 2, 2]), (100, 3, [1, 2, 2])])
def test_where_held_places_heal_the_same_prediction_serves_the_maps(pair, backbone, counted, interval, map_steps, rows):
    healing = {"hold": {"interval": interval, "heal": 0.34}, "map_steps": map_steps}
    (first := pair(**healing)).run()
    asked, again = counted(backbone), pair(**healing)
    again.run(first.original)
    assert [len(x_t) for x_t, _ in asked] == rows


def test_the_healing_steps_are_a_share_of_all():
    hold = HoldConfig()
    assert [step for step in range(20) if hold.heals(step, 20)] == [17, 18, 19]
    assert not any(HoldConfig(heal=1).heals(step, 200) for step in range(200)) and HoldConfig(heal=0).heals(0, 1)


def test_a_guide_that_moves_the_noise_is_measured_where_it_moved_it(pair, backbone, counted):
    class Mover(Guide):
        def latents(self, backbone, step, t, x_t, full):
            return 2 * x_t

    (first := pair(hold={"interval": 1}, map_steps=0)).run()
    asked = counted(backbone)
    moved = pair(hold={"interval": 1}, map_steps=0)
    moved.guide = Mover()
    moved.run(first.original)
    assert len(asked) == 3


def test_looking_at_maps_changes_no_pixel_of_what_is_held_at_some_steps(pair):
    held, mapped = (pair(hold={"interval": 2}, map_steps=count).run() for count in (0, 3))
    assert held.customized.tobytes() == mapped.customized.tobytes()


@both_families
@pytest.mark.parametrize("start, own", [(0.0, 3), (0.15, 3), (0.34, 2), (0.99, 1)])
def test_until_the_paths_part_only_the_original_is_asked(pair, response, backbone, counted, start, own):
    hold = {"start": start, "interval": 1}
    first = pair(hold=hold, map_steps=0)
    asked = counted(response)
    expected = first.run()
    assert len(asked) == own
    known = pair(hold=hold, map_steps=0)
    asked = counted(backbone)
    assert known.run(first.original).customized.tobytes() == expected.customized.tobytes()
    assert len(asked) == own - 1, "where they part the original's answer is known"


@both_families
def test_the_customized_path_begins_where_the_original_is(pair):
    late = {"hold": {"start": 0.34, "interval": 1}, "map_steps": 0}
    (first := pair(**late)).run()
    for known in (None, first.original):
        one = pair(**late)
        one.guide = Watcher(seen := [])
        one.run(known)
        assert one.apart == 1 and len(seen) == 2 and torch.equal(seen[0], first.original.latents[0])


class Watcher(Guide):
    """Sees where the response path is at each of its steps."""

    def __init__(self, seen):
        self.seen = seen

    def latents(self, backbone, step, t, x_t, full):
        self.seen.append(x_t)
        return x_t


@pytest.mark.parametrize("scheduler", [None, "ddim", "dpmpp_2m", "euler", "unipc"])
def test_every_sampler_can_start_late(pair, scheduler):
    late = {"num_inference_steps": 6, "scheduler": scheduler, "map_steps": 2}
    free, held = pair(**late).run(), pair(**late, hold={"start": 0.34, "gain": 20.0, "heal": 0.7}).run()
    assert held.original.tobytes() == free.original.tobytes() and held.customized.tobytes() != free.customized.tobytes()
    assert [maps.step for maps in held.maps] == [2, 5]


def test_where_the_paths_part_the_original_is_asked_if_it_is_known_from_another_place(pair, backbone, counted):
    (first := pair(hold={"start": 0.34, "interval": 1}, map_steps=0)).run()
    expected = pair(hold={"start": 0.0, "interval": 1}, map_steps=0).run()
    asked, again = counted(backbone), pair(hold={"start": 0.0, "interval": 1}, map_steps=0)
    assert again.run(first.original).customized.tobytes() == expected.customized.tobytes() and len(asked) == 3


def test_an_original_without_its_latents_is_drawn_again_where_it_is_held(pair):
    free, held = pair(), pair(hold={})
    free.run()
    assert free.original.latents == ()
    assert held.run(free.original).customized.tobytes() == pair(hold={}).run().customized.tobytes()
    assert len(held.original.latents) == 3
    free.run(held.original)
    assert free.original is held.original, "its latents are not lost by a picture that holds nothing"
