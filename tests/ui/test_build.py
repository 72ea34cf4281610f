"""The page as gradio sees it, and its endpoints through the real client."""

import json
import re
import shutil
import subprocess
import sys

import gradio_client
import httpx
import pytest
from gradio_client.exceptions import AppError
from PIL import Image

from spf import config
from spf.config import REPOSITORY
from spf.ui import build, launch, strings

ENDPOINTS = {f"/{name}" for name in (
    "generate inspect train jobs job cancel resume customizations history export".split())}


@pytest.fixture(scope="module")
def demo():
    from fakes import FakeService

    return build.build(FakeService())


def test_exactly_the_designed_endpoints_are_public(demo):
    public = {f"/{fn.api_name}" for fn in demo.fns.values() if fn.api_visibility == "public"}
    assert public == ENDPOINTS


def test_events_that_run_the_model_share_one_queue(demo):
    running = [fn for fn in demo.fns.values() if fn.concurrency_id == "device"]
    assert len(running) == 7 and all(fn.concurrency_limit == 1 for fn in running)


def test_generate_waits_for_the_form_that_the_opening_page_fills(demo):
    button = next(block for block in demo.blocks.values() if block.elem_id == "spf-generate")
    assert button.interactive is False
    opening = [fn for fn in demo.fns.values() if any(event == "load" for _, event in fn.targets)]
    assert any(button in fn.outputs for fn in opening)


def test_every_text_of_the_page_comes_from_the_strings(demo):
    known = " ".join(str(value) for value in vars(strings).values())
    labels = {block.label for block in demo.blocks.values()
              if getattr(block, "label", None) and block.get_block_name() != "api"}
    assert labels and {label for label in labels if label not in known} == set()


def test_the_keys_open_the_tabs_in_their_order(demo):
    tabs = [block.label for block in demo.blocks.values() if block.get_block_name() == "tabitem"]
    assert tabs == list(strings.TABS)
    assert any(f"to {len(tabs)}: open a tab" in does for _, does in strings.KEYS)


def test_the_launch_settings_keep_the_page_private(spf_home):
    settings = launch.settings()
    assert settings["share"] is False and settings["run_history"] is False and settings["strict_cors"] is True
    assert settings["max_file_size"] == "20mb" and settings["mcp_server"] is False and settings["footer_links"] == []
    assert settings["allowed_paths"] == [str(spf_home.resolve() / "outputs")]
    assert str(spf_home.resolve() / "customizations") in settings["blocked_paths"]


def test_building_the_page_loads_no_model_library_and_writes_nothing(tmp_path):
    code = ("import sys; from spf.ui import build; build.build(object()); "
            "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "SPF_HOME": str(tmp_path / "home"), "HOME": str(tmp_path),
             "GRADIO_ANALYTICS_ENABLED": "False"})
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
    assert not (tmp_path / "home").exists()


@pytest.fixture
def client(service, training):
    training(steps=10, seconds_per_step=0.0)
    demo = build.build(service)
    url = launch.launch(demo)
    yield gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": 120})
    demo.close()


def test_the_api_through_the_real_client(client, service, spf_home):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == ENDPOINTS

    card = client.predict(api_name="/customizations")["winter-hat"]
    assert (card["model"], card["shipped"], card["phrases"][0]) == ("pocket", True, "a winter hat")

    result = client.predict(base_text="a person", target_texts=["a winter hat"], seed=5, api_name="/generate")
    assert result["request"]["seed"] == 5 and result["request"]["num_inference_steps"] == 20
    assert service.requests[0].guidance_scale == config.model_preset("pocket").guidance_scale, "the model's own"
    assert set(result["files"]) == {"original", "customized", "sfcm", "maps"}
    assert client.predict(api_name="/history")["results"][0]["request"] == result["request"]

    seen = client.predict(result_id=result["id"], api_name="/inspect")
    assert [entry["key"] for entry in seen["maps"]][:2] == ["soft_map", "without:0"] and len(seen["steps"]) == 5
    assert seen["maps"][0]["values"][0]["high"] > 0.9 and set(seen["files"]) == {"original", "customized", "sfcm", "maps"}

    run = client.predict(attribute="neon", name="neon", count=8, api_name="/train")
    assert run["name"] == "neon" and "8 usable pictures" in run["report"]
    assert client.predict(run_id=run["run_id"], api_name="/job")["run_id"] == run["run_id"]
    assert client.predict(run_id=run["run_id"], api_name="/cancel")["run_id"] == run["run_id"]
    assert [one["run_id"] for one in client.predict(api_name="/jobs")["jobs"]] == [run["run_id"]]


def test_the_browser_is_told_to_fetch_nothing_from_elsewhere(client):
    for path in ("", "config", "gradio_api/info", "nowhere"):
        policy = httpx.get(client.src + path, timeout=120).headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


def test_pictures_of_the_api_can_be_fetched_and_other_files_cannot(client, spf_home):
    import httpx

    result = client.predict(base_text="a person", api_name="/generate")
    picture = result["files"]["customized"]
    with Image.open(picture if isinstance(picture, str) else picture["path"]) as image:
        assert image.size == (128, 128)
    shown = spf_home / "outputs"
    secret = spf_home / "customizations" / "secret.txt"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("secret")
    found = next(shown.glob("*/*/customized.png")).resolve()
    assert httpx.get(f"{client.src}gradio_api/file={found}").status_code == 200
    for path in (secret, REPOSITORY / "app.py", "/etc/passwd", found.parent / "../../../customizations/secret.txt"):
        assert httpx.get(f"{client.src}gradio_api/file={path}").status_code in (403, 404)


def documented(language: str, client) -> str:
    """The example in docs/api.md, for this server."""
    text = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1].replace("http://127.0.0.1:7860", client.src.rstrip("/"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_curl_calls_work(client, service):
    code = documented("sh", client).replace("| python -c", f"| {sys.executable} -c")
    done = subprocess.run(["bash", "-euc", code], capture_output=True, text=True, timeout=120)
    assert "event: complete" in done.stdout, done.stdout + done.stderr
    answer = json.loads(done.stdout.split("data: ")[-1])[0]
    assert answer["request"]["seed"] == 3 and set(answer["files"]) == {"original", "customized", "sfcm", "maps"}
    assert service.requests[-1].customization == "starter"


def test_the_documented_python_calls_work(client, service, capsys):
    exec(documented("python", client), {})  # noqa: S102 - our own page
    assert service.requests[-1].target_weights == (0.8,) and "('M', " in capsys.readouterr().out


@pytest.mark.parametrize(("endpoint", "arguments", "words"), [
    ("/generate", {"base_text": ""}, "base_text: is empty"),
    ("/generate", {"base_text": "a person", "num_inference_steps": 1000}, "less than or equal to 200"),
    ("/generate", {"base_text": "a person", "model": "gpt"}, "choose one of"),
    ("/train", {"attribute": "crown", "name": "crown"}, "choose one of"),
    ("/train", {"attribute": "neon", "name": "x", "count": 8, "method": "magic"}, "'spf'"),
    ("/generate", {"base_text": "a person", "scheduler": "magic"}, "'ddim'"),
    ("/train", {"attribute": "neon", "name": "../x"}, "lower-case letters"),
    ("/job", {"run_id": "../../etc"}, "does not exist"),
    ("/cancel", {"run_id": "nothing"}, "does not exist"),
    ("/resume", {"run_id": "nothing"}, "does not exist"),
    ("/inspect", {"result_id": "../../customizations"}, "is not the id of a saved result"),
    ("/inspect", {"result_id": "2026-01-01/000000-7"}, "is not the id of a saved result"),
    ("/export", {"name": "nothing"}, "does not exist"),
    ("/export", {"name": "winter-hat", "format": "ckpt"}, "choose one of"),
    ("/generate", {"base_text": "a person", "target_texts": ["a hat"], "target_weights": [9]}, "less than or equal to 2"),
])
def test_the_api_refuses_with_the_same_sentences(client, endpoint, arguments, words):
    with pytest.raises(AppError, match=words):
        client.predict(**arguments, api_name=endpoint)


def test_an_unexpected_error_tells_the_client_nothing_of_the_inside(client, service, monkeypatch):
    monkeypatch.setattr(service, "generate", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(AppError) as caught:
        client.predict(base_text="a person", api_name="/generate")
    assert strings.UNEXPECTED in str(caught.value) and "division" not in str(caught.value)
