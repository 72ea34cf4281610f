"""Settings under a name."""

import json
from dataclasses import replace

import pytest

from spf.errors import InvalidInput
from spf.ui import presets
from spf.ui.chips import Chip
from spf.ui.generate_handlers import Form

FORM = Form(base_text="a person", targets=(Chip("a hat", 0.5),), customization="winter-hat", negative="blur", seed="7", steps=12,
            guidance=3.5, map_steps=2, scheduler="euler", width=96, height=64, pairs=4, hold=2.5,
            smoothing=0.25, interval=2, start=0.3, floor=0.2, heal=0.9)


def test_settings_come_back_and_texts_and_seed_stay(spf_home):
    assert presets.names() == [] and "'sketch'" in presets.save(" sketch ", FORM)
    other = Form(base_text="another", targets=(Chip("a tie"),), seed="9")
    assert presets.use("sketch", other) == replace(FORM, base_text="another", targets=(Chip("a tie"),), seed="9")
    presets.save("sketch", replace(FORM, steps=5))
    assert presets.use("sketch", other).steps == 5 and presets.names() == ["sketch"]
    presets.delete("sketch")
    assert presets.names() == [] and list((spf_home / "presets").iterdir()) == []


def test_settings_from_before_holding_had_more_of_them_draw_without_them(spf_home):
    presets.save("old", FORM)
    path = spf_home / "presets" / "old.json"
    values = json.loads(path.read_text())
    for setting in ("start", "floor", "heal"):
        del values["hold"][setting]
    path.write_text(json.dumps(values))
    form = presets.use("old", Form())
    assert (form.start, form.floor, form.heal) == (0, 0, 1)


@pytest.mark.parametrize(("name", "form", "words"), [
    ("", FORM, "settings_name: may hold lower-case letters"), ("../x", FORM, "settings_name: "),
    ("fine", replace(FORM, steps=0), "num_inference_steps: "), ("fine", replace(FORM, width="wide"), "width: must be a number")])
def test_what_cannot_be_used_is_not_saved(spf_home, name, form, words):
    with pytest.raises(InvalidInput, match=words):
        presets.save(name, form)
    assert not (spf_home / "presets").exists()


def test_settings_do_not_need_usable_texts():
    assert presets.save("fine", replace(FORM, base_text="", seed="x"))


@pytest.mark.parametrize("name", [None, "", "nowhere", "../../etc/passwd"])
def test_only_what_is_listed_is_read_or_deleted(name):
    for act in (lambda: presets.use(name, FORM), lambda: presets.delete(name)):
        with pytest.raises(InvalidInput, match="settings: nothing is chosen"):
            act()


@pytest.mark.parametrize("text", ["", "[]", "{\"steps\": 3}", "{\"num_inference_steps\": 0}", "\x00"])
def test_a_damaged_file_is_said(spf_home, text):
    (spf_home / "presets").mkdir(parents=True)
    (spf_home / "presets" / "bad.json").write_text(text)
    with pytest.raises(InvalidInput, match="'bad' is damaged"):
        presets.use("bad", FORM)
