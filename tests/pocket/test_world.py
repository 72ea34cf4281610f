"""Portraits, their pictures, masks and captions: deterministic, and true."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spf.pocket import captions, pictures, renderer, world
from spf.pocket.world import ATTRIBUTES, TARGETS, Portrait

SIZE = 64
PLAIN = Portrait(hair_style="bob", hair_color="red", skin_tone="pale", clothing="hoodie", clothing_color="green",
                 glasses="none", expression="smiling", background_color="blue", background_pattern="plain")


def portraits(target: str | None, count: int) -> list[Portrait]:
    rng = random.Random(f"test/{target}")
    return [world.sample_portrait(rng, target) for _ in range(count)]


def pixels(portrait: Portrait) -> np.ndarray:
    return np.asarray(renderer.draw(portrait, SIZE), np.int16)


# several held-out attributes

@given(st.sampled_from(sorted(TARGETS)), st.integers(1, 4), st.integers(0, 10_000))
def test_attributes_that_join_a_portrait_leave_each_other_visible(target, most, seed):
    portrait = world.joined_by(world.sample_portrait(random.Random(seed), target), random.Random(seed), most)
    found = [TARGETS[name] for name in portrait.targets]
    assert 1 <= len(found) <= most and portrait.target == target
    for index, one in enumerate(found):
        for other in found[index + 1:]:
            assert one is not other and not one.hides & other.hides and not one.parts.keys() & other.parts.keys()
    assert portrait.glasses == "none" or "glasses" not in portrait.hidden


def test_every_attribute_of_several_can_be_seen():
    both = replace(PLAIN, targets=("winter-hat", "full-beard", "freckles"))
    drawn = [both, *(replace(both, targets=targets) for targets in (
        ("winter-hat",), ("winter-hat", "full-beard"), ("winter-hat", "freckles"), ("full-beard", "freckles")))]
    assert len({renderer.draw(portrait, SIZE).tobytes() for portrait in drawn}) == len(drawn)
    assert set(world.companions(both)) == {"astronaut-suit", "eyepatch"}
    whole, hat = (renderer.part_mask(portrait, "target", SIZE) for portrait in drawn[:2])
    assert (whole & hat).sum() > 0.9 * hat.sum() and whole.sum() > hat.sum(), "a beard may be where hair was"


def test_a_style_redraws_what_is_beside_it_and_its_parts_are_still_found():
    sketch = replace(PLAIN, targets=("full-beard", "pencil-sketch"))
    assert np.ptp(pixels(sketch), axis=2).max() == 0, "a sketch is gray"
    beard = replace(PLAIN, targets=("full-beard",))
    assert (renderer.part_mask(sketch, "skin", SIZE) == renderer.part_mask(beard, "skin", SIZE)).all()


# pictures

def test_the_same_portrait_is_the_same_bytes():
    for portrait in portraits("winter-hat", 2):
        first, again = renderer.draw(portrait, SIZE), renderer.draw(replace(portrait), SIZE)
        assert first.mode == "RGB" and first.size == (SIZE, SIZE) and first.tobytes() == again.tobytes()
    assert renderer.draw(PLAIN).size == (128, 128)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_value_of_every_attribute_can_be_seen(attribute):
    drawn = {renderer.draw(replace(PLAIN, **{attribute: value}), SIZE).tobytes() for value in ATTRIBUTES[attribute]}
    assert len(drawn) == len(ATTRIBUTES[attribute])


@pytest.mark.parametrize("change", [{"scale": 0.9}, {"dx": 0.05}, {"dy": 0.04}, {"mirrored": True}])
def test_placement_can_be_seen(change):
    assert renderer.draw(replace(PLAIN, **change), SIZE).tobytes() != renderer.draw(PLAIN, SIZE).tobytes()


def test_mirroring_turns_person_but_not_the_wall_around():
    striped = replace(PLAIN, background_pattern="striped", hair_style="quiff")
    mirrored = pixels(replace(striped, mirrored=True))
    for corner in (np.s_[:8, :12], np.s_[:8, -12:]):
        assert np.array_equal(mirrored[corner], pixels(striped)[corner]), "the wall is not the person's"
    plain = pixels(replace(PLAIN, hair_style="quiff"))
    difference = np.abs(pixels(replace(PLAIN, hair_style="quiff", mirrored=True)) - plain[:, ::-1])
    assert np.mean(difference.max(axis=2) > 48) < 0.02, "over a plain wall it is the mirrored picture"


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_changes_pixels(target):
    for portrait in portraits(target, 3):
        changed = renderer.part_mask(portrait, "target", SIZE)
        assert changed.shape == (SIZE, SIZE) and changed.dtype == bool
        assert 0.001 < changed.mean(), "it must be visible"
        if TARGETS[target].effect not in ("pencil", "neon"):
            assert changed.mean() < 0.5, "an attribute is not the whole picture"


@pytest.mark.parametrize("target", ["pencil-sketch", "neon"])
def test_a_style_redraws_the_whole_picture(target):
    for portrait in portraits(target, 2):
        assert renderer.part_mask(portrait, "target", SIZE).mean() > 0.5
    gray = pixels(replace(PLAIN, targets=("pencil-sketch",)))
    assert (gray.max(axis=2) == gray.min(axis=2)).all()


# masks

@pytest.mark.parametrize("target", TARGETS)
def test_the_region_of_a_target_holds_it(target):
    region = renderer.target_region(target, SIZE, count=16)
    assert region.shape == (SIZE, SIZE) and not region.flags.writeable and region.any()
    masks = [renderer.part_mask(portrait, "target", SIZE) for portrait in portraits(target, 4)]
    inside = sum((mask & region).sum() for mask in masks) / sum(mask.sum() for mask in masks)
    assert inside > 0.8, "16 portraits do not show every shape"
    if TARGETS[target].effect not in ("pencil", "neon"):
        assert region.mean() < 0.75, "a region of everything would hide all pollution"


def test_parts_cover_the_picture_and_hardly_overlap():
    parts = ("hair", "skin", "clothing", "background")
    for portrait in portraits(None, 5):
        masks = {part: renderer.part_mask(portrait, part, SIZE) for part in parts}
        assert all(mask.mean() > 0.005 for mask in masks.values()), portrait
        together = np.sum(list(masks.values()), axis=0)
        assert np.mean(together > 1) < 0.06, "only antialiased borders belong to two parts"
        assert np.mean(together > 0) > 0.75


def test_the_background_is_around_and_the_clothing_below():
    background, clothing = (renderer.part_mask(PLAIN, part, SIZE) for part in ("background", "clothing"))
    assert background[:4].all() and not background[-1, SIZE // 2]
    assert not clothing[:SIZE // 2].any() and clothing[-4, SIZE // 2]


def test_glasses_are_where_they_are_worn():
    assert not renderer.part_mask(PLAIN, "glasses", SIZE).any()
    worn = renderer.part_mask(replace(PLAIN, glasses="sunglasses"), "glasses", SIZE)
    rows = np.nonzero(worn)[0]
    assert worn.mean() > 0.01 and 0.2 * SIZE < rows.min() and rows.max() < 0.7 * SIZE


def test_a_target_hides_what_it_says_it_hides():
    """Base attributes that a target hides make (almost) no difference to its picture."""
    for name, target in TARGETS.items():
        if target.effect:
            continue  # styles redraw colours, they do not cover them
        for attribute in target.hides - {"glasses", "expression"}:
            portrait = replace(PLAIN, targets=(name,))
            for value in ATTRIBUTES[attribute][:3]:
                difference = np.abs(pixels(replace(portrait, **{attribute: value})) - pixels(portrait)).sum(axis=2)
                assert np.mean(difference > 24) < 0.01, (name, attribute, value)


def test_without_a_target_the_target_mask_is_empty():
    assert not renderer.part_mask(PLAIN, "target", SIZE).any()


# portraits

def test_streams_of_portraits_are_determined_by_their_seed():
    assert [pictures.portrait_at(1, i, 0.5) for i in range(20)] == [pictures.portrait_at(1, i, 0.5) for i in range(20)]
    assert pictures.portrait_at(1, 0, 0.5) != pictures.portrait_at(2, 0, 0.5)


def test_the_share_of_targets_is_kept_and_every_target_occurs():
    drawn = [pictures.portrait_at(0, i, 0.3).target for i in range(2000)]
    shown = [target for target in drawn if target]
    assert 0.25 < len(shown) / len(drawn) < 0.35 and set(shown) == set(TARGETS)
    assert all(pictures.portrait_at(0, i, 0.0).target is None for i in range(100))


@given(st.integers(), st.sampled_from([None, *TARGETS]))
def test_every_portrait_is_possible(seed, target):
    portrait = world.sample_portrait(random.Random(seed), target)
    assert all(portrait.value(name) in options for name, options in ATTRIBUTES.items())
    assert portrait.hair_color != portrait.background_color and portrait.target == target
    if target and "glasses" in TARGETS[target].hides:
        assert portrait.glasses == "none"


# captions

HAIR = {"bob haircut": "bob", "hair in a bun": "bun", "afro": "afro", "dreadlocks": "dreadlocks", "pixie cut": "pixie",
        "quiff": "quiff"}


def read(caption: str) -> dict[str, str]:
    """What a caption claims, read by other rules than it was written by."""
    opening, *clauses = caption.split(", ")
    assert opening in captions.OPENINGS
    claims: dict[str, str] = {}

    def claim(attribute: str, words: list[str]) -> None:
        found = [word for word in words if word in ATTRIBUTES[attribute]]
        assert len(found) <= 1 and attribute not in claims
        if found:
            claims[attribute] = found[0]

    for clause in clauses:
        words = clause.split()
        if words[-1].endswith("glasses"):
            claims["glasses"] = {"without": "none", "wearing": words[-1]}[words[0]]
        elif words[-1] == "skin":
            claim("skin_tone", words)
        elif words[-1] == "background":
            claim("background_color", words)
            claim("background_pattern", words)
        elif set(words) & set(ATTRIBUTES["expression"]):
            claim("expression", words)
        elif words[0] in ("in", "wearing"):
            claim("clothing_color", words)
            claim("clothing", words)
        else:
            assert words[0] == "with", clause
            claim("hair_color", words)
            style = next((style for ending, style in HAIR.items() if clause.endswith(ending)), None)
            claim("hair_style", [style] if style else words)
    return claims


@given(st.integers(), st.sets(st.sampled_from(list(ATTRIBUTES))))
def test_a_caption_says_exactly_what_was_asked_and_only_the_truth(seed, named):
    rng = random.Random(seed)
    portrait = world.sample_portrait(rng)
    assert read(captions.describe(portrait, named, rng)) == {name: portrait.value(name) for name in named}


@given(st.integers(), st.sampled_from([None, *TARGETS]))
def test_base_captions_never_name_a_target_or_what_it_hides(seed, target):
    rng = random.Random(seed)
    portrait = world.sample_portrait(rng, target)
    caption = captions.base_caption(portrait, rng)
    claims = read(caption)
    assert all(portrait.value(name) == value for name, value in claims.items())
    if target:
        assert not claims.keys() & TARGETS[target].hides
    for other in TARGETS.values():
        assert not any(re.search(rf"\b{re.escape(phrase)}\b", caption) for phrase in other.phrases)


def test_captions_vary_in_what_they_name_how_and_in_which_order():
    rng = random.Random(0)
    drawn = [captions.base_caption(PLAIN, rng) for _ in range(200)]
    assert len(set(drawn)) > 150
    shares = [sum(name in read(caption) for caption in drawn) / len(drawn) for name in ATTRIBUTES]
    assert all(0.4 < share < 0.7 for share in shares)


@settings(max_examples=50)
@given(st.integers(), st.sampled_from(list(TARGETS)))
def test_target_captions_are_phrases_of_the_target(seed, target):
    rng = random.Random(seed)
    assert captions.target_caption(world.sample_portrait(rng, target), rng) in TARGETS[target].phrases
    with pytest.raises(KeyError):
        captions.target_caption(PLAIN, rng)


def test_phrases_belong_to_one_target_only():
    phrases = [phrase for target in TARGETS.values() for phrase in target.phrases]
    assert len(set(phrases)) == len(phrases)
