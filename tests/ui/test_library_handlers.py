"""The Library tab without a browser."""

import json

import fakes
import pytest

from spf.backbones import source
from spf.config import home, model_presets
from spf.errors import CustomizationError, InvalidInput, ModelNotFound
from spf.ui import catalog, generate_handlers, strings
from spf.ui import library_handlers as handlers
from spf.ui.chips import Chip
from spf.ui.generate_handlers import Form
from spf.ui.session import Session


@pytest.fixture
def mine(spf_home):
    return fakes.add_customization(spf_home / "customizations", "turban", "a <b>turban</b>")


def test_cards_show_phrases_origin_and_the_newest_portrait(service, mine):
    assert strings.LIBRARY_NO_PICTURE in handlers.table()
    form = Form(base_text="a person", targets=(Chip("a winter hat"),), customization="turban", steps=4)
    list(generate_handlers.generate(service, form, Session()))
    cards = handlers.table()
    assert "A portrait made with turban" in cards and strings.LIBRARY_SHIPPED in cards
    assert "<b>" not in cards and "&lt;b&gt;turban" in cards
    assert "difference 3.1%, outside the SFCM n/a, target gain +0.042" in cards, "the scores of that portrait"
    result = next((home() / "outputs").glob("*/*/result.json"))
    result.write_text(result.read_text().replace('"metrics"', '"nothing"'))
    assert f"<dt>{strings.LIBRARY_SCORES}</dt><dd>{strings.METRIC_UNDEFINED}</dd>" in handlers.table()


def test_a_stage_that_another_run_made_is_not_listed_with_no_steps(mine):
    card = json.loads((mine / "customization.json").read_text())
    (mine / "customization.json").write_text(json.dumps(card | {"summary": {"stage1_steps": 0, "stage2_steps": 168}}))
    cards = handlers.table()
    assert strings.LIBRARY_FACTS["stage2_steps"] in cards and strings.LIBRARY_FACTS["stage1_steps"] not in cards


@pytest.mark.parametrize("processes, listed", [(1, False), (2, True)])
def test_devices_are_listed_where_there_were_several(mine, processes, listed):
    card = json.loads((mine / "customization.json").read_text())
    summary = {"recipe": "adalora", "processes": processes, "stage1_batch_per_device": 8, "stage1_global_batch": 8 * processes}
    (mine / "customization.json").write_text(json.dumps(card | {"summary": summary}))
    cards = handlers.table()
    assert (strings.LIBRARY_FACTS["processes"] in cards) == (strings.LIBRARY_FACTS["stage1_batch_per_device"] in cards) == listed
    assert f"<dd>{8 * processes}</dd>" in cards and f"<dd>{strings.METHODS['adalora']}</dd>" in cards


def test_models_say_what_they_are_and_whether_they_are_here(service, monkeypatch):
    def require(preset):
        if preset.name == "sd15":
            raise ModelNotFound("model: is not here; get it with 'python -m spf download sd15'.")

    monkeypatch.setattr(source, "require_model", require)
    list(generate_handlers.generate(service, Form(base_text="a person", steps=4), Session()))
    cards = handlers.models().split("<article")[1:]
    assert len(cards) == len(model_presets())
    [pocket] = [card for card in cards if "<dd>pocket</dd>" in card]
    [missing] = [card for card in cards if "<dd>sd15</dd>" in card]
    assert strings.LIBRARY_MODEL_HERE in pocket and "128 × 128" in pocket and "U-Net" in pocket and "original.png" in pocket
    assert "Model: is not here" in missing and "download sd15" in missing and strings.LIBRARY_NO_PICTURE in missing


def test_only_the_users_own_can_be_renamed_and_deleted(mine):
    assert handlers.choices() == ["turban"]
    assert "hat" in handlers.rename("turban", " hat ")
    words, trashed = handlers.delete("hat")
    assert "hat" not in catalog.customizations()
    assert handlers.undo(trashed) == "'hat' is back." and "hat" in catalog.customizations()
    with pytest.raises(CustomizationError, match="comes with the app"):
        handlers.delete("winter-hat")
    for act in (lambda: handlers.delete(None), lambda: handlers.rename("", "x")):
        with pytest.raises(InvalidInput, match="nothing is chosen"):
            act()


def test_a_mix_is_written_as_the_request_reads_it(mine):
    rows = handlers.mix_rows("pocket")
    assert [row[0] for row in rows] == ["turban", "winter-hat"]
    assert handlers.mix([["turban", "0.7"], ["winter-hat", 1], ["neon", ""]]) == "turban:0.7+winter-hat"
    assert catalog.phrases("turban:0.7+winter-hat") == ["a <b>turban</b>", "a winter hat", "a warm winter hat"]


@pytest.mark.parametrize(("rows", "words"), [
    ([], "has no weight yet"), (None, "has no weight yet"), ([["turban", "much"]], "must be a number"),
    ([["turban", 9]], "between"), ([["../x", 1]], "is no name"), ([["turban", "nan"]], "weight")])
def test_a_mix_that_cannot_be_is_refused(rows, words):
    with pytest.raises(InvalidInput, match=words):
        handlers.mix(rows)


def test_nothing_is_imported_without_a_file():
    with pytest.raises(InvalidInput, match="nothing is chosen"):
        handlers.bring_in(None, "")
    assert list((home() / "customizations").glob("*")) == []


def test_where_there_is_none_of_ones_own_it_is_said_how_to_get_one():
    for act in (lambda: handlers.delete(None), lambda: handlers.rename(None, "x")):
        with pytest.raises(InvalidInput, match="none of your own yet; teach one"):
            act()


@pytest.mark.parametrize(("chosen", "value", "label"), [
    ("turban", "turban", "turban"), ("gone", "", strings.NO_CUSTOMIZATION), (None, "", strings.NO_CUSTOMIZATION),
    ("turban:0.5+winter-hat:0.5", "turban:0.5+winter-hat:0.5", "mix: turban:0.5+winter-hat:0.5"),
    ("turban:0.5+gone:0.5", "", strings.NO_CUSTOMIZATION)])
def test_the_choice_of_the_portrait_tab_stays_while_it_exists(mine, chosen, value, label):
    choices, kept = catalog.kept_choice("pocket", chosen)
    assert kept == value and {name: words for words, name in choices}[kept] == label


def test_deleting_what_the_portrait_tab_uses_is_said(mine):
    assert "uses the original model now" in handlers.delete("turban", "turban:0.5+winter-hat:0.5")[0]
