"""The endpoint that draws: one pair as itself, several seeds as a list, each saved under an id of its own."""

import gradio as gr
import pytest

from app import LateService
from spf.ui.api import add_api


@pytest.fixture
def generate(tiny):
    with gr.Blocks() as demo:
        add_api(LateService("cpu"))
    (function,) = (fn.fn for fn in demo.fns.values() if fn.api_name == "generate")
    return lambda **values: function(base_text="a person", model="tiny", map_steps=0, num_inference_steps=2, **values)


def test_one_pair_or_several(generate):
    one = generate(seed=4)
    several = generate(seed=3, count=2)["pairs"]
    assert [pair["request"]["seed"] for pair in several] == [3, 4] and one["request"] == several[1]["request"]
    assert len({one["id"], *(pair["id"] for pair in several)}) == 3 and several[0]["files"].keys() == one["files"].keys()


@pytest.mark.parametrize("count", [0, 65, -1])
def test_a_number_of_seeds_that_cannot_be_is_refused_by_name(generate, count):
    with pytest.raises(gr.Error, match="count"):
        generate(count=count)
