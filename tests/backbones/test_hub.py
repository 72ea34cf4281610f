"""Models from a hub: one that this test runs itself, one that is silent, one that talks nonsense, and none at all."""

import hashlib
import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from published import preset

from spf.backbones import source
from spf.backbones.loading import load_backbone
from spf.errors import ModelNotFound

REPO, REVISION = "someone/portraits", "0" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs; `folder` is what the repository holds."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith(f"/api/models/{REPO}/tree/"):
            files = [file for file in self.folder.rglob("*") if file.is_file()]
            return self.answer(json.dumps([{"type": "file", "path": str(file.relative_to(self.folder)),
                                            "size": file.stat().st_size, "oid": _oid(file)} for file in files]).encode())
        if path.startswith(f"/api/models/{REPO}"):
            return self.answer(json.dumps({"id": REPO, "modelId": REPO, "sha": REVISION, "siblings": []}).encode())
        name = path.removeprefix(f"/{REPO}/resolve/{REVISION}/")
        file = self.folder / name
        if name == path or not file.is_file():
            return self.send_error(404)
        if self.command == "GET":
            self.asked.append(name)
        self.answer(file.read_bytes(), ETag=f'"{_oid(file)}"', **{"X-Repo-Commit": REVISION})

    do_HEAD = do_GET

    def answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_args) -> None:
        """Nothing: the test's output is its own."""


def _oid(file: Path) -> str:
    return hashlib.sha1(str(file).encode()).hexdigest()


@pytest.fixture(autouse=True)
def at(monkeypatch, tmp_path):
    """at(port): the hub is at that port of this machine, its cache in the test's own folder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)

    def moved(port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")

    return moved


@pytest.fixture
def hub(at, sd15_folder, tmp_path):
    """A hub with a model as they are published: every weight also in fp16 and as a pickle, and things nobody asked for."""
    Hub.folder, Hub.asked = shutil.copytree(sd15_folder, tmp_path / "repository"), []
    for weights in list(Hub.folder.rglob("*.safetensors")):
        for other in (weights.with_name(f"{weights.stem}.fp16.safetensors"), weights.with_suffix(".bin")):
            shutil.copy(weights, other)
    for extra in ("evil.py", "unet/evil.py", "safety_checker/model.safetensors", "v1-5-pruned.safetensors"):
        (Hub.folder / extra).parent.mkdir(exist_ok=True)
        (Hub.folder / extra).write_text("never fetched")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at(server.server_port)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_from_the_hub_and_loads_from_the_cache_when_the_hub_is_gone(hub, at):
    made = source.download_hub_id(REPO)
    assert made.family == "unet" and load_backbone(made)
    whole = {str(file.relative_to(hub.folder)) for file in hub.folder.rglob("*")
             if file.suffix in (".json", ".txt") or file.name in ("model.safetensors", "diffusion_pytorch_model.safetensors")}
    assert set(hub.asked) == {name for name in whole if not name.startswith("safety_checker")}
    at(1)
    assert load_backbone(made) and source.register_model(REPO) == made


def test_a_variant_is_fetched_alone(hub):
    source.download(preset(REPO, variant="fp16"))
    weights = [name for name in hub.asked if name.endswith(".safetensors")]
    assert len(weights) == 3 and all(".fp16." in name for name in weights)


def test_a_download_that_was_broken_off_is_gone_on_with(hub, tmp_path):
    source.download(preset(REPO))
    snapshot = tmp_path / "cache" / "models--someone--portraits" / "snapshots" / REVISION
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=f"does not exist; get the rest with 'python -m spf download {REPO}'"):
        load_backbone(preset(REPO))
    assert load_backbone(preset(str(source.download(preset(REPO)))))


@pytest.mark.parametrize("variant, weights", [
    (None, ["text_encoder_3/model-00001-of-00002.safetensors", "transformer/diffusion_pytorch_model.safetensors"]),
    ("fp16", ["text_encoder_3/model.fp16-00001-of-00002.safetensors"])])
def test_of_a_published_repository_one_version_is_wanted(variant, weights):
    """T5's shards carry the variant before their number."""
    listed = ["model_index.json", "README.md", "sd3.5_medium.safetensors", "tokenizer_3/spiece.model",
              "tokenizer/merges.txt", "text_encoder_3/model-00001-of-00002.safetensors",
              "text_encoder_3/model.fp16-00001-of-00002.safetensors", "text_encoder_3/model.safetensors.index.json",
              "transformer/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
              "text_encoders/clip_g.safetensors", "unet/diffusion_pytorch_model.bin", "vae/diffusion_flax_model.msgpack"]
    wanted = list(filter_repo_objects(listed, allow_patterns=source.wanted_files(variant)))
    assert wanted == ["model_index.json", "tokenizer_3/spiece.model", "tokenizer/merges.txt", *sorted(
        [*weights, "text_encoder_3/model.safetensors.index.json"])]


# --- hubs that are no use

def refused() -> tuple[str, float]:
    """What the refusal says, and how long it took in seconds; the cache is as empty as before."""
    before = time.perf_counter()
    with pytest.raises(ModelNotFound) as caught:
        source.download(preset(REPO))
    message = str(caught.value)
    assert message.startswith(f"model: '{REPO}' cannot be downloaded (") and "check the connection" in message
    assert len(message) < 500 and "\n" not in message
    return message, time.perf_counter() - before


@pytest.fixture
def listening():
    """A socket that somebody may connect to, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()[1]


def test_a_hub_that_is_not_there_is_refused_at_once(at):
    at(1)
    message, _ = refused()
    assert "refused" in message.lower()


def test_nobody_waits_for_a_hub_that_is_silent(at, listening, monkeypatch):
    at(listening[1])
    refused()  # what the client's library does at first use is none of the hub's time
    message, seconds = refused()
    assert "timed out" in message and source.HUB_ANSWERS_WITHIN <= seconds < source.HUB_ANSWERS_WITHIN + 0.75
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.2")
    assert refused()[1] < source.HUB_ANSWERS_WITHIN
    for odd in ("soon", "", "-1"):
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", odd)
        assert 0.1 <= source._patience() <= source.HUB_ANSWERS_WITHIN


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\nno json", b"220 smtp ready\r\n", b"HTTP/1.1 500 Oh\r\n\r\n",
                                    b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_a_hub_that_talks_nonsense_is_refused_in_words(at, listening, answer):
    server, port = listening
    at(port)

    def talk() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    threading.Thread(target=talk, daemon=True).start()
    assert "cannot be downloaded" in refused()[0]
