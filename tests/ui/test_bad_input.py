"""Every bad input of the page and of app.py: one sentence with field and remedy, nothing run, nothing left."""

import io
import socket
import struct
import time
import zlib
from dataclasses import replace

import fakes
import pytest
from PIL import Image

import app
from spf.errors import InvalidInput, ModelNotFound, SpfError
from spf.jobs import store
from spf.ui import generate_handlers, markup, strings, teach_handlers, timeline_handlers
from spf.ui.chips import Chip
from spf.ui.generate_handlers import Form
from spf.ui.session import Session
from spf.ui.teach_handlers import UPLOADED, TeachForm

FORM = Form(base_text="a person, with red hair", targets=(Chip("a winter hat"),), seed="7", customization="winter-hat")
TEACH = TeachForm(attribute="turban", count=9, name="turban", budget="quick")

GENERATE = [
    ({"base_text": ""}, strings.BASE_TEXT, "is empty"),
    ({"base_text": " ,. \n"}, strings.BASE_TEXT, "is empty"),
    ({"base_text": None}, strings.BASE_TEXT, "is empty"),
    ({"base_text": "x" * 100_000}, strings.BASE_TEXT, "too long (100,000 characters)"),
    ({"targets": (Chip("x" * 100_000),)}, strings.TARGETS, "too long (100,000 characters)"),
    ({"targets": (Chip("A person, with red hair."),)}, strings.TARGETS, "equals base_text"),
    ({"targets": (Chip("a hat"), Chip("A  hat"))}, strings.TARGETS, "same phrase twice"),
    ({"targets": (Chip(" , "),)}, strings.TARGETS, "empty phrase"),
    ({"targets": (Chip(7),)}, strings.TARGETS, "string"),
    ({"targets": tuple(Chip(f"hat {i}") for i in range(17))}, strings.TARGETS, "16"),
    ({"seed": ""}, strings.SEED, "must be a number, for example 7"),
    ({"seed": None}, strings.SEED, "must be a number"),
    ({"seed": "abc"}, strings.SEED, "must be a number, for example 7 (got 'abc')"),
    ({"seed": "-1"}, strings.SEED, "greater than or equal to 0"),
    ({"seed": str(2**64)}, strings.SEED, "less than"),
    ({"seed": "1.5"}, strings.SEED, "integer"),
    ({"steps": None}, strings.STEPS, "must be a number, for example 20 (got nothing)"),
    ({"steps": 0}, strings.STEPS, "greater than or equal to 1"),
    ({"steps": 1e9}, strings.STEPS, "less than or equal to 200"),
    ({"steps": 2.5}, strings.STEPS, "integer"),
    ({"guidance": None}, strings.GUIDANCE, "must be a number"),
    ({"guidance": float("nan")}, strings.GUIDANCE, "finite number"),
    ({"guidance": float("inf")}, strings.GUIDANCE, "finite number"),
    ({"guidance": 0.5}, strings.GUIDANCE, "greater than or equal to 1"),
    ({"map_steps": -1}, strings.MAP_STEPS, "greater than or equal to 0"),
    ({"map_steps": [3]}, strings.MAP_STEPS, "must be a number"),
    ({"pairs": None}, strings.PAIRS, "must be a number, for example 4"),
    ({"pairs": 0}, strings.PAIRS, "greater than or equal to 1"),
    ({"pairs": 1000}, strings.PAIRS, "less than or equal to 64"),
    ({"hold": "much"}, strings.HOLD, "must be a number, for example 3 (got 'much')"),
    ({"hold": 1000}, strings.HOLD, "less than or equal to 20"),
    ({"hold": -1}, strings.HOLD, "greater than or equal to 0"),
    ({"smoothing": ""}, strings.SMOOTHING, "must be a number, for example 0.5 (got nothing)"),
    ({"smoothing": 1}, strings.SMOOTHING, "less than 1"),
    ({"interval": 0}, strings.INTERVAL, "greater than or equal to 1"),
    ({"interval": 1.5}, strings.INTERVAL, "integer"),
    ({"start": ""}, strings.HOLD_START, "must be a number, for example 0.15 (got nothing)"),
    ({"start": 1}, strings.HOLD_START, "less than 1"),
    ({"floor": "half"}, strings.FLOOR, "must be a number, for example 0.5 (got 'half')"),
    ({"floor": 1}, strings.FLOOR, "less than 1"),
    ({"heal": None}, strings.HEAL, "must be a number, for example 0.85 (got nothing)"),
    ({"heal": 1.1}, strings.HEAL, "less than or equal to 1"),
    ({"start": -0.1}, strings.HOLD_START, "greater than or equal to 0"),
    ({"width": "wide"}, strings.WIDTH, "must be a number, for example 512 (got 'wide')"),
    ({"height": 8}, strings.HEIGHT, "greater than or equal to 16"),
    ({"height": 1e6}, strings.HEIGHT, "less than or equal to 4096"),
    ({"scheduler": "magic"}, strings.SCHEDULER, "'ddim'"),
    ({"model": "gpt"}, strings.MODEL, "choose one of"),
    ({"model": "../../etc/passwd"}, strings.MODEL, ""),
    ({"model": ""}, strings.MODEL, strings.NO_CHOICE),
    ({"customization": "../x"}, strings.CUSTOMIZATION, "is no name of a customization"),
]


def plain(html: str) -> str:
    return html.replace("&#x27;", "'").replace("&quot;", '"')


@pytest.mark.parametrize(("change", "label", "words"), GENERATE)
def test_generate_refuses_in_one_sentence_and_leaves_the_rest_alone(service, change, label, words):
    session = Session()
    screens = list(generate_handlers.generate(service, replace(FORM, **change), session))
    notice = plain(screens[-1].notice)
    assert 'role="alert"' in notice and f"<p>{label}: " in notice and words in notice
    assert len(notice) < 400, "a sentence, not the 100,000 characters"
    assert screens[-1].busy is False
    assert all(screen.panes is None and screen.timeline is None for screen in screens)
    assert service.requests == [] and session.timeline.steps() == []


PROMPTS = {
    "a million letters": "x" * 1_000_000, "many words": "hat " * 400, "NUL": "a hat\x00", "terminal": "a \x1b[31mhat\x07",
    "right to left": "\u202ea hat", "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 hat", "no weight": "(a:1.2.3)",
    "weight without end": "(a:1e309)", "weight that is no number": "(a:nan)", "negative weight": "(a hat:-3)",
    "nested": "(" * 900 + "a hat" + ")" * 900, "never closed": "(" * 1900, "escapes": "\\(" * 900, "a LoRA": "<lora:../../x:1>",
    "words of others": "a hat BREAK AND [red:blue:0.5]", "punctuation": "?!;:", "markup": "<img src=x onerror=alert(1)>",
    "template": "${1+1}{{value}}", "surrogate": "a \ud800 hat", "lines": "a\nhat\r\n", "a path": "../../../etc/passwd"}


@pytest.mark.parametrize("field", ["base_text", "targets", "negative"])
@pytest.mark.parametrize("text", PROMPTS.values(), ids=PROMPTS)
def test_any_text_is_drawn_or_refused_in_one_sentence_soon(service, field, text):
    change = {"targets": (Chip(text),)} if field == "targets" else {field: text}
    session, started = Session(), time.monotonic()
    final = list(generate_handlers.generate(service, replace(FORM, steps=2, map_steps=0, **change), session))[-1]
    assert time.monotonic() - started < 20, "it would hang, not wait for a busy machine"
    assert final.busy is False and strings.UNEXPECTED not in final.notice and len(final.notice) < 500
    assert "<img" not in final.notice and "<img" not in (final.status or "")
    drawn = bool(session.timeline.steps())
    assert drawn != ('role="alert"' in final.notice), "one of the two, and a step that was drawn is there again after a reload"
    if drawn:
        form, _ = timeline_handlers.reopen(Session(), session.timeline.key)
        assert form == Form.of_request(service.requests[0])


def test_an_unknown_customization_is_refused_by_the_service_and_shown(monkeypatch):
    from spf.backbones import checkpoints
    from spf.config import model_preset

    class Service(fakes.FakeService):
        def generate(self, request, on_step=None, is_cancelled=lambda: False):
            checkpoints.customization(request.customization, model_preset(request.model))

    screens = list(generate_handlers.generate(Service(), replace(FORM, customization="nowhere"), Session()))
    notice = plain(screens[-1].notice)
    assert "Customization: 'nowhere' does not exist or cannot be read; choose one of: winter-hat" in notice


TEACHING = [
    ({"name": ""}, strings.NAME, "lower-case letters"),
    ({"name": "../../x"}, strings.NAME, "lower-case letters"),
    ({"name": "A Hat"}, strings.NAME, "lower-case letters"),
    ({"name": "x" * 65}, strings.NAME, "64"),
    ({"name": "winter-hat"}, strings.NAME, "exists already; choose another name, for example 'winter-hat-2'"),
    ({"method": None}, strings.METHOD, strings.NO_CHOICE),
    ({"method": "magic"}, strings.METHOD, "'spf'"),
    ({"budget": None}, strings.BUDGET, strings.NO_CHOICE),
    ({"budget": "huge"}, strings.BUDGET, "choose one of"),
    ({"model": "gpt!"}, strings.MODEL, "choose one of"),
    ({"attribute": None}, strings.ATTRIBUTE, strings.NO_CHOICE),
    ({"attribute": "crown"}, strings.ATTRIBUTE, "choose one of"),
    ({"count": None}, strings.COUNT, "must be a number"),
    ({"count": "many"}, strings.COUNT, "must be a number"),
    ({"count": 2.5}, strings.COUNT, "whole number"),
    ({"count": float("nan")}, strings.COUNT, "whole number"),
    ({"count": float("inf")}, strings.COUNT, "whole number"),
    ({"count": 0}, strings.COUNT, "between 1 and"),
    ({"count": 10**9}, strings.COUNT, "between 1 and"),
    ({"source": UPLOADED}, strings.SOURCE, strings.NO_PICTURES),
    ({"source": UPLOADED, "uploads": ("a.png",)}, strings.PHRASE, strings.EMPTY_PHRASE),
    ({"source": UPLOADED, "uploads": ("a.png",), "phrase": "x" * 2001, "shared_base": "a"}, strings.PHRASE, "too long"),
    ({"source": UPLOADED, "uploads": ("a.png",), "phrase": "a hat"}, strings.SHARED_BASE, "is empty"),
    ({"source": UPLOADED, "uploads": ("a.png",), "phrase": "a hat", "shared_base": "A hat"}, strings.PHRASE, "equals"),
]


def refusal(form: TeachForm, spf_home) -> str:
    with pytest.raises(SpfError) as caught:
        teach_handlers.start(form)
    assert store.runs() == []
    assert not list(spf_home.glob("datasets/*")), "nothing half-written"
    return plain(markup.problem(caught.value))


@pytest.mark.parametrize(("change", "label", "words"), TEACHING)
def test_teach_refuses_in_one_sentence_and_writes_nothing(training, spf_home, change, label, words):
    training()
    notice = refusal(replace(TEACH, **change), spf_home)
    assert f"<p>{label}: " in notice and words in notice


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header says that it is large."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + stream.getvalue()[24:29]
    return stream.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + stream.getvalue()[33:]


def test_every_bad_picture_is_named_with_its_remedy(training, spf_home, tmp_path):
    training()
    (tmp_path / "text.png").write_bytes(b"not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "good.png")
    cut = (tmp_path / "good.png").read_bytes()[:-30]
    (tmp_path / "cut.png").write_bytes(cut)
    (tmp_path / "huge.png").write_bytes(claiming(60_000, 60_000))
    names = ("text.png", "empty.jpg", "tiny.png", "cut.png", "huge.png", "good.png")
    form = replace(TEACH, source=UPLOADED, phrase="a hat", shared_base="a person",
                   uploads=tuple(str(tmp_path / name) for name in names))
    notice = refusal(form, spf_home)
    assert "5 problems" in notice and "good.png" not in notice
    for name, words in zip(names, ("not a picture", "0 bytes", "use 64x64", "damaged or cut off", "megapixels"),
                           strict=False):
        assert f"<li>{name}: " in notice and words in notice


def test_names_of_files_are_escaped(training, spf_home, tmp_path):
    training()
    path = tmp_path / "<b>x.png"
    path.write_bytes(b"no")
    form = replace(TEACH, source=UPLOADED, phrase="a hat", shared_base="a person", uploads=(str(path),))
    assert "<b>" not in refusal(form, spf_home)


def test_a_missing_model_is_refused_before_anything_is_left_on_disk(spf_home, monkeypatch):
    def missing(preset):
        raise ModelNotFound("model: unet/weights does not exist; restore it.")

    monkeypatch.setattr(store, "require_model", missing)
    assert "Model: unet/weights does not exist" in refusal(TEACH, spf_home)


# --- app.py

def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        app.main(list(arguments))
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org", ""])
def test_a_host_open_to_others_needs_a_password(capsys, host):
    assert "protect it with --auth user:password" in refused(capsys, "--host", host)


@pytest.mark.parametrize("auth", ["", "user", "user:", ":password"])
def test_half_a_password_is_none(capsys, auth):
    assert "user:password" in refused(capsys, "--host", "0.0.0.0", "--auth", auth)


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_impossible_ports(capsys, port):
    assert "between 1 and 65535" in refused(capsys, "--port", port)


def test_a_host_that_is_not_this_computer(capsys):
    assert "--host" in refused(capsys, "--host", "host.invalid", "--auth", "a:b")


def test_a_taken_port_is_refused_with_a_free_one_to_try(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        message = refused(capsys, "--port", str(port))
    assert f"--port: {port} on 127.0.0.1 cannot be used" in message and f"--port {port % 65535 + 1}" in message


def test_loopback_needs_no_password():
    assert app._auth(app._flags().parse_args(["--host", "127.0.0.1"])) is None
    assert app._auth(app._flags().parse_args(["--host", "0.0.0.0", "--auth", "me:a:b"])) == ("me", "a:b")


def test_a_device_that_does_not_exist_is_named():
    service = app.LateService("nonsense")
    with pytest.raises(InvalidInput, match="--device: 'nonsense' cannot be used here"):
        service.load("pocket")
