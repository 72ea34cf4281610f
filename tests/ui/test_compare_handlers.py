"""A blind comparison from the form to the rates, without a browser."""

import pytest

from spf.errors import InvalidInput
from spf.ui import catalog
from spf.ui import compare_handlers as handlers
from spf.ui.compare_handlers import CompareForm

FORM = CompareForm("winter-hat", "neon", "a person", "a winter hat", 3)


def test_pairs_are_drawn_answered_later_and_counted(service):
    steps = list(handlers.prepare(service, FORM))
    assert [share for share, _ in steps[:-1]] == [0, 1 / 3, 2 / 3]
    assert [request.customization for request in service.requests] == ["winter-hat", "neon"] * 3
    session = steps[-1][1]
    asked = handlers.ask(session)
    assert "Pair 1 of 3" in asked.words and len(asked.pictures) == 3
    assert "neon" not in asked.words, "who is who is not told"
    asked = handlers.answer(session, asked.pair, ["left", "right", "tie"])
    assert asked.pair == 1 and handlers.ask(session).pair == 1, "it goes on after a reload"
    with pytest.raises(InvalidInput, match="one is still open"):
        handlers.answer(session, 1, ["left", None, "tie"])
    for pair in (1, 2):
        asked = handlers.answer(session, pair, ["tie", "tie", "tie"])
    assert asked.pair is None
    table = handlers.results(session)
    assert "winter-hat better" in table and "50%" in table
    assert handlers.as_csv(session).read_text().count("\n") == 1 + 9


def test_a_session_whose_pictures_are_gone_says_so(service):
    session = list(handlers.prepare(service, FORM))[-1][1]
    for path in catalog.outputs().glob("*/*/customized.png"):
        path.unlink()
    with pytest.raises(InvalidInput, match="gone or damaged"):
        handlers.ask(session)
    assert handlers.ask(None) is None and handlers.ask("another") is None


@pytest.mark.parametrize(("values", "words"), [
    (("winter-hat", "winter-hat", "a person", "a hat", 3), "both contestants are the same"),
    (("winter-hat", None, "a person", "a hat", 3), "nothing is chosen"),
    (("winter-hat", "neon", "", "a hat", 3), "base_text: is empty"),
    (("winter-hat", "neon", "a person", "", 3), "empty phrase"),
    (("winter-hat", "neon", "a person", "a hat", 0), "whole number from 1 to 50"),
    (("winter-hat", "neon", "a person", "a hat", 2.5), "whole number"),
    (("winter-hat", "neon", "a person", "a hat", 1e9), "whole number"),
    (("winter-hat", "neon", "a person", "a hat", float("nan")), "whole number"),
    (("winter-hat", "neon", "a person", "a hat", None), "must be a number"),
])
def test_bad_input_draws_nothing(service, values, words):
    with pytest.raises(InvalidInput, match=words):
        list(handlers.prepare(service, CompareForm(*values)))
    assert service.requests == [] and handlers.study().sessions() == []
