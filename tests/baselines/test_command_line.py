"""The methods on the command line: what is refused, before anything is loaded, and with which words."""

import pytest
from typer.testing import CliRunner

from spf.cli import app
from spf.errors import InvalidInput

GENERATE = ["generate", "--out", "pair", "--base", "a person", "--target", "a winter hat"]


@pytest.mark.parametrize("arguments, message", [
    ([*GENERATE, "--method", "lora"], "--method: 'lora' does not act while drawing; choose magnet or storm"),
    ([*GENERATE, "--set", "strength=2"], "--set: .*choose one with --method"),
    ([*GENERATE, "--method", "magnet", "--set", "strength=-2"], "guide.magnet.strength"),
    ([*GENERATE, "--method", "storm", "--set", "strength=2"], "guide.storm.strength: is not a known setting"),
    (["train", "--data", "x", "--name", "y", "--method", "magnet"], "recipe: .*'tokencompose'"),
    (["train", "--data", "x", "--name", "y", "--method", "lora", "--stage", "2"], "stage: '2' is a part of the recipe 'spf'"),
])
def test_what_does_not_fit_is_refused_in_words(arguments, message):
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InvalidInput)
    with pytest.raises(InvalidInput, match=message):
        raise result.exception


def test_rendered_sets_have_masks_where_asked(tmp_path):
    for name, more in (("plain", []), ("masked", ["--masks"])):
        arguments = ["dataset", "render", "--attribute", "turban", "--count", "1", "--out", str(tmp_path / name), *more]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "masked" / "masks" / "00000.png").is_file() and not (tmp_path / "plain" / "masks").exists()
    assert (tmp_path / "masked" / "00000.png").read_bytes() == (tmp_path / "plain" / "00000.png").read_bytes()
