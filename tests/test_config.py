"""The schema: what is refused, and that each refusal is one line that names the field and the remedy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spf import config
from spf.config import GenerationRequest, MethodConfig, TrainConfig, parse
from spf.errors import InvalidInput, ModelNotFound
from spf.pocket import presets

NOT_A_NUMBER = st.sampled_from(["abc", "", "1e", "one", "0x10", "1,5", "NaN", "-", None, [], {}, math.nan, math.inf, -math.inf])
BASE = "a portrait of a person with red hair"


def request(**values) -> GenerationRequest:
    return parse(GenerationRequest, {"base_text": BASE, **values})


def refusal(schema, values) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse(schema, values)
    message = str(caught.value)
    assert message.startswith(f"{caught.value.field}: ") and "\n" not in message
    return caught.value


@pytest.mark.parametrize("name", config.model_presets())
def test_model_presets_load(name):
    preset = config.model_preset(name)
    assert preset.name == name
    request(model=name, base_text=preset.base_text, num_inference_steps=preset.num_inference_steps,
            guidance_scale=preset.guidance_scale)


@pytest.mark.parametrize("preset", config.training_presets())
def test_training_presets_load(preset):
    loaded = config.train_config(preset, {"data": "pictures", "name": "hat", "stage2.max_train_steps": 7})
    assert (loaded.data, loaded.name, loaded.stage2.max_train_steps) == ("pictures", "hat", 7)
    assert loaded.model in config.model_presets()


def test_pretraining_presets_load():
    trained = {path.stem for path in (config.CONFIGS / "pretrain").glob("*.yaml")}
    assert {"recogniser"} < trained <= {"recogniser", *config.model_presets()}
    assert presets.pretrain_config("pocket").vocabulary == 1024
    assert presets.pretrain_config("recogniser").base == "pocket"


def test_defaults_are_the_papers_numbers():
    """Appendix C."""
    method, paper = MethodConfig(), config.train_config("paper", {})
    for found in (method, paper.method, config.train_config("paper", {"model": "sd15"}).method):  # pocket's own are others
        assert (found.lambda_text, found.lambda_fine, found.lambda_enhanced) == (0.2, 0.1, 0.6)
    facts = [(s.train_batch_size, s.num_train_epochs, s.learning_rate, s.trainable) for s in (paper.stage1, paper.stage2)]
    assert facts == [(8, 2, 1e-5, "full"), (2, 5, 5e-5, "cross")]


@given(st.one_of(st.integers(max_value=0), st.integers(min_value=201), st.floats(1, 200).filter(lambda x: x % 1),
                 NOT_A_NUMBER, st.sampled_from([1e9, "1e9", "-1", "2.5", str(2**64)])))
def test_impossible_steps_are_refused(steps):
    assert refusal(GenerationRequest, {"base_text": BASE, "num_inference_steps": steps}).field == "num_inference_steps"


@given(st.one_of(st.floats(max_value=1, exclude_max=True), st.floats(min_value=30, exclude_min=True), NOT_A_NUMBER))
def test_impossible_guidance_is_refused(guidance):
    assert refusal(GenerationRequest, {"base_text": BASE, "guidance_scale": guidance}).field == "guidance_scale"


@given(st.one_of(st.integers(max_value=-1), st.integers(min_value=2**63), NOT_A_NUMBER, st.just("9" * 5000)))
def test_impossible_seeds_are_refused(seed):
    assert refusal(GenerationRequest, {"base_text": BASE, "seed": seed}).field == "seed"


@given(st.integers(0, 2**63 - 1), st.integers(1, 200), st.floats(1, 30), st.integers(0, 200))
def test_possible_numbers_are_taken_also_as_text(seed, steps, guidance, map_steps):
    values = {"seed": seed, "num_inference_steps": steps, "guidance_scale": guidance, "map_steps": map_steps}
    made = request(**values)
    assert {name: getattr(made, name) for name in values} == values
    assert request(**{name: repr(value) for name, value in values.items()}) == made


@pytest.mark.parametrize("text", ["", " \n\t ", ",", " .,. ", "!?", "...", "---", "()", "\u3002\u3001"])
def test_a_text_that_says_nothing_is_refused(text):
    assert refusal(GenerationRequest, {"base_text": text}).field == "base_text"
    assert refusal(GenerationRequest, {"base_text": BASE, "target_texts": ["a hat", text]}).field == "target_texts"


@pytest.mark.parametrize("text", ["\U0001f60a", "\u7ea2\u53d1\u7684\u4eba", "\u00e9", "7", "a"])
def test_any_language_says_something(text):
    assert request(base_text=text).base_text == text


@pytest.mark.parametrize("field", ["base_text", "negative_prompt", "target_texts"])
def test_an_endless_text_is_refused_with_the_limit(field):
    text = "a" * 100_000
    error = refusal(GenerationRequest, {"base_text": BASE, field: [text] if field == "target_texts" else text})
    assert error.field.split(".")[0] == field
    assert "100,000" in str(error) and "2,000" in str(error)
    assert len(str(error)) < 200, "the text itself must not be repeated"


@pytest.mark.parametrize("target", [BASE, f" {BASE.upper()}, ", f"{BASE}."])
def test_a_target_that_equals_the_base_is_refused(target):
    error = refusal(GenerationRequest, {"base_text": BASE, "target_texts": ("a hat", target)})
    assert error.field == "target_texts" and "base_text" in str(error)


@pytest.mark.parametrize("target", ["a hat", "A HAT", "a  hat", "a hat,"])
def test_the_same_target_twice_is_refused(target):
    assert refusal(GenerationRequest, {"base_text": BASE, "target_texts": ("a hat", target)}).field == "target_texts"


def test_too_many_targets_are_refused():
    targets = [f"hat {i}" for i in range(config.MAX_TARGETS + 1)]
    assert refusal(GenerationRequest, {"base_text": BASE, "target_texts": targets}).field == "target_texts"
    assert len(request(target_texts=targets[1:]).target_texts) == config.MAX_TARGETS


def test_white_space_is_normalised_everywhere():
    made = request(base_text=" a\n person ", target_texts=["\ta   hat"], negative_prompt="bad\n\nhands ")
    assert (made.base_text, made.target_texts, made.negative_prompt) == ("a person", ("a hat",), "bad hands")


def test_half_a_character_is_refused():
    assert refusal(GenerationRequest, {"base_text": "a \ud800 person"}).field == "base_text"


@pytest.mark.parametrize("values, field, remedy", [
    ({"base_text": BASE, "sede": 1}, "sede", "spelling"),
    ({}, "base_text", "missing"),
    ({"base_text": None}, "base_text", "missing"),
    ({"base_text": 5}, "base_text", "string"),
    ({"base_text": BASE, "customization": "../hat"}, "customization", "is no name"),
    ({"base_text": BASE, "model": "a/b"}, "model", "lower-case"),
    ({"base_text": BASE, "customization": "x" * 65}, "customization", "is no name"),
    ({"base_text": BASE, "customization": ""}, "customization", "is no name"),
    ([1, 2], "settings", "dictionary"),
    ("text", "settings", "dictionary"),
    ({"base_text": BASE, 5: 6}, "5", "string"),
])
def test_refusals_name_field_and_remedy(values, field, remedy):
    error = refusal(GenerationRequest, values)
    assert error.field == field and remedy in str(error)


@pytest.mark.parametrize("overrides, field", [
    ({"stage2.learning_rate": 0}, "stage2.learning_rate"),
    ({"stage2.learnig_rate": 1e-4}, "stage2.learnig_rate"),
    ({"stage1.train_batch_size": 0}, "stage1.train_batch_size"),
    ({"method.lambda_text": float("nan")}, "method.lambda_text"),
    ({"method.gamma": "cosine"}, "method.gamma"),
    ({"stage": "3"}, "stage"),
    ({"stage.x": 1}, "stage.x"),
    ({"stage1": 5}, "stage1"),
    ({"data": None}, "data"),
    ({"name": "Winter Hat"}, "name"),
    ({"seed": 2**63}, "seed"),
    ({"a..b": 1}, "a"),
])
def test_bad_training_settings_name_their_field(overrides, field):
    with pytest.raises(InvalidInput) as caught:
        config.train_config("quick", {"data": "pictures", "name": "hat", **overrides})
    assert caught.value.field == field and "\n" not in str(caught.value)


def test_training_starts_from_the_method_of_its_model(tiny):
    path = config.CONFIGS / "models" / "tiny.yaml"
    path.write_text(path.read_text() + "method: {gamma: contextual, lambda_text: 0.5}\n")
    method = config.train_config("tiny", {"method.lambda_text": 0.7}).method
    assert (method.gamma, method.lambda_text, method.lambda_fine) == ("contextual", 0.7, 0.1)


def test_unknown_presets_name_those_that_exist():
    with pytest.raises(ModelNotFound, match="'sdxl'.*pocket"):
        config.model_preset("sdxl")
    with pytest.raises(InvalidInput, match="'slow'.*paper.*quick"):
        config.train_config("slow", {})


def test_settings_cannot_change_afterwards():
    made = request()
    with pytest.raises(ValueError):
        made.seed = 3


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_an_assigned_number_keeps_its_value_and_type(value):
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    parsed = config.parse_assignments([f"stage2.learning_rate={text}"])["stage2.learning_rate"]
    assert parsed == value and isinstance(parsed, type(value))


@pytest.mark.parametrize("field", ["mixed_precision", "reference_precision"])
def test_a_precision_of_no_needs_no_quotes(field):
    assert getattr(config.train_config("low-memory", config.parse_assignments([f"{field}=no"])), field) == "no"
    with pytest.raises(InvalidInput, match=f"{field}: .*'no' or 'bf16'"):
        config.train_config("quick", config.parse_assignments([f"{field}=yes"]))


def test_assignments_keep_everything_after_the_first_equals_sign():
    assert config.parse_assignments(["data=/tmp/a=b c", "name=hat", "name=cap"]) == {"data": "/tmp/a=b c", "name": "cap"}


@pytest.mark.parametrize("assignment", ["seed", "=3", "a b=3", "", "seed=[1", "seed={a: ]", "seed=2024-13-45", "seed=!!x y"])
def test_what_is_no_assignment_is_refused(assignment):
    with pytest.raises(InvalidInput) as caught:
        config.parse_assignments([assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content, words", [
    (None, "does not exist"), (b"a: [1", "YAML"), (b"\xff\xfe\x00", "YAML"), (b"- 1\n- 2\n", "key: value"), (b"", "key: value"),
    (b"day: 2024-13-45", "YAML")])
def test_a_bad_yaml_file_is_named(tmp_path, content, words):
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words) as caught:
        config.load_yaml(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_configuration_survives_its_own_dump():
    loaded = config.train_config("quick", {"data": "pictures", "name": "hat"})
    assert parse(TrainConfig, loaded.model_dump(mode="json")) == loaded


@pytest.mark.parametrize("text, weights, written", [
    ("hat", {"hat": 1}, "hat"), ("hat:0.7+neon:0.5", {"hat": 0.7, "neon": 0.5}, "hat:0.7+neon:0.5"),
    ("a.b-c_d:-2", {"a.b-c_d": -2}, "a.b-c_d:-2"), ("hat:1.000+cap:01", {"hat": 1, "cap": 1}, "hat+cap")])
def test_a_mix_of_customizations_is_read_and_written(text, weights, written):
    assert config.mix_weights(text) == weights and config.mix_text(weights) == written
    assert config.mix_weights(written) == weights


@pytest.mark.parametrize("text", [
    "", "+", "hat+", "Hat", "../hat", "hat:", "hat:x", "hat:0", "hat:2.5", "hat:nan", "hat:1e1", "hat:0.1.2", "hat+hat:0.5",
    "a b",
    "+".join(f"h{i}" for i in range(9))])
def test_an_unreadable_mix_is_refused(text):
    with pytest.raises(InvalidInput, match="customization"):
        config.parse(config.GenerationRequest, {"base_text": "a person", "customization": text})


def test_several_seeds_are_requests_of_one_each():
    singles = request(seed=2**63 - 2, count=3, scheduler="euler").one_by_one()
    assert [(single.seed, single.count, single.scheduler) for single in singles] == [
        (2**63 - 2, 1, "euler"), (2**63 - 1, 1, "euler"), (0, 1, "euler")]
    assert request(seed=4).one_by_one() == (request(seed=4),)


@pytest.mark.parametrize("field, value", [
    ("count", 0), ("count", 65), ("scheduler", "pndm"), ("height", 8), ("width", 5000), ("width", 32.5)])
def test_counts_schedulers_and_sizes_out_of_range_are_refused(field, value):
    assert refusal(GenerationRequest, {"base_text": BASE, field: value}).field == field
