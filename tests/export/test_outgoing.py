"""What is exported is reloaded by plain diffusers, in a process that knows nothing of this project, and draws the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError, safe_open

import spf
from spf import config
from spf.backbones import checkpoints, parallel_attention, source
from spf.errors import CustomizationError, InvalidInput
from spf.export.incoming import import_customization
from spf.export.outgoing import Export, export, pipeline
from spf.library import Customization
from spf.method.phrases import join_prompt

PLAIN = """
import importlib.util, json, sys
for name in ("_first_import", "_torchvision"):  # torchvision beside a CPU build of torch; the package itself stays out
    spec = importlib.util.spec_from_file_location(f"spf.{name}", f"{sys.argv[1]}/{name}.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
module.install()
import torch, diffusers
from safetensors.torch import save_file
pictures = {}
for job in json.loads(sys.argv[2]):
    kind = getattr(diffusers, job["kind"])
    absent = ("text_encoder_3", "tokenizer_3") if "3" in job["kind"] else ("safety_checker",)
    options = dict(local_files_only=True, **{name: None for name in absent})
    if job["way"] == "folder":
        pipe = kind.from_pretrained(job["path"], **options)
    elif job["way"] == "file":
        pipe = kind.from_single_file(job["path"], config=job["config"], **options)
    else:
        pipe = kind.from_pretrained(job["config"], **options)
        pipe.load_lora_weights(job["path"])
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    pictures[job["name"]] = pipe("a person with a winter hat", num_inference_steps=2, latents=latents, height=32, width=32,
                                 guidance_scale=3.0, output_type="pt").images.contiguous()
assert "spf" not in sys.modules
save_file(pictures, sys.argv[3])
"""
KIND = {"unet": "StableDiffusionPipeline", "mmdit": "StableDiffusion3Pipeline"}


def plain_pictures(jobs, tmp_path):
    """Pictures by name, drawn by a fresh process."""
    from safetensors.torch import load_file

    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(Path(spf.__file__).parent), json.dumps(jobs), str(tmp_path / "pictures.safetensors")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(tmp_path / "pictures.safetensors")


def own_picture(preset, tensors=None):
    """The same portrait with the same weights, here."""
    backbone = checkpoints.load_backbone(preset)
    if tensors:
        checkpoints.apply(backbone, tensors)
    pipe = pipeline(backbone, preset)
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    return pipe("a person with a winter hat", num_inference_steps=2, latents=latents, height=32, width=32, guidance_scale=3.0,
                output_type="pt").images


def model_index(folder, kind):
    """What makes a folder of components a pipeline's."""
    parts = {}
    for path in filter(Path.is_dir, folder.iterdir()):
        settings = json.loads(next(path.glob("*config.json")).read_text())
        parts[path.name] = (["diffusers", settings["_class_name"]] if "_class_name" in settings else
                            ["transformers", settings.get("architectures", ["CLIPTokenizer"])[0]])
    names = ("text_encoder_3", "tokenizer_3", "image_encoder") if "3" in kind else ("safety_checker",)
    empty = {name: [None, None] for name in (*names, "feature_extractor")}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind, "_diffusers_version": "0.42.1", **parts, **empty}))


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_every_export_draws_the_same_in_a_fresh_process(family, preset, taught, folders, tmp_path):
    kind, base = KIND[family], folders[family]
    if not (base / "model_index.json").is_file():
        model_index(base, kind)
    folder = export(Export("hat", "diffusers", tmp_path / "folder"))
    assert folder["bytes"] > 1000
    single = export(Export("hat", "single-file", tmp_path / "single.safetensors"))
    jobs = [{"name": "folder", "way": "folder", "kind": kind, "path": str(tmp_path / "folder")},
            {"name": "single", "way": "file", "kind": kind, "path": str(tmp_path / "single.safetensors"),
             "config": str(tmp_path / "folder")},
            {"name": "base", "way": "folder", "kind": kind, "path": str(base)}]
    errors = {}
    for lora_format in ("kohya", "diffusers")[family == "mmdit":]:
        out = tmp_path / f"{lora_format}.safetensors"
        report = export(Export("hat", "lora", out, rank=4, lora_format=lora_format, dtype="fp32"))
        errors[lora_format] = report["reconstruction_error"]
        jobs.append({"name": lora_format, "way": "lora", "kind": kind, "config": str(base), "path": str(out)})
    pictures = plain_pictures(jobs, tmp_path)
    expected = own_picture(preset, taught.tensors())
    for name in ("folder", "single"):
        torch.testing.assert_close(pictures[name], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(pictures["base"], own_picture(preset), atol=1e-4, rtol=1e-3)
    assert (expected - pictures["base"]).abs().mean() > 0.01 and single["left_out"] == []
    for name, error in errors.items():
        assert 0 < error < 0.5
        picture = own_picture(preset, merged(preset, tmp_path / f"{name}.safetensors", taught.tensors(), error))
        torch.testing.assert_close(pictures[name], picture, atol=1e-3, rtol=1e-2)
        assert (pictures[name] - pictures["base"]).abs().mean() > 0.01
        assert (pictures[name] - expected).abs().mean() < (pictures["base"] - expected).abs().mean()


def test_an_exported_folder_is_used_as_the_model_it_was_taught_on(preset, taught, tmp_path):
    """Its CLIP comes along, and how its maps are read and how many steps it takes; without them this app would need a network."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text("{}")
    own = config.CONFIGS / "models" / "published.yaml"
    own.write_text(yaml.safe_dump(yaml.safe_load(own.read_text()) | {
        "clip": str(tmp_path / "clip"), "num_inference_steps": 7, "guidance_scale": 2.5, "method": {"phrase_reduce": "mean"}}))
    base = config.model_preset("published")
    export(Export("hat", "diffusers", tmp_path / "folder"))
    made = source.described(str(tmp_path / "folder"))
    assert made.clip == str(tmp_path / "folder" / "clip") and made.name == "folder"
    for name in ("num_inference_steps", "guidance_scale", "base_text", "method"):
        assert getattr(made, name) == getattr(base, name)
    own.unlink()
    elsewhere = source.described(str(tmp_path / "folder"))
    assert elsewhere.clip == made.clip and elsewhere.num_inference_steps == 20, "on a computer that does not know the model"


def merged(preset, path, tensors, error):
    """Base plus LoRA, computed here from the file; it is as far from the customized weights as the file says."""
    base = checkpoints.load_backbone(preset).denoiser.state_dict()
    names = {f"{part}{module.replace('.', '_') if part == 'lora_unet_' else module}": f"{module}.weight"
             for part in ("lora_unet_", "unet.", "transformer.") for module in (name.removesuffix(".weight") for name in base)}
    result = {name: value.clone() for name, value in base.items()}
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        for key in keys:
            for down, up in ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")):
                if key.endswith(down):
                    a, b = file.get_tensor(key), file.get_tensor(key.replace(down, up))
                    target = names[key.removesuffix(down)]
                    result[target] += (b.flatten(1) @ a.flatten(1)).view_as(result[target])
        assert float(file.metadata()["spf_reconstruction_error"]) == pytest.approx(error, abs=1e-5)
    lost = sum(float((result[name] - value).square().sum()) for name, value in tensors.items())
    total = sum(float((base[name] - value).square().sum()) for name, value in tensors.items())
    assert (lost / total) ** 0.5 == pytest.approx(error, rel=0.01)
    return {name: result[name] for name in tensors}


def test_a_delta_is_the_change_and_says_what_it_belongs_to(preset, taught, tmp_path):
    report = export(Export("hat", "delta", tmp_path / "hat.safetensors"))
    base = checkpoints.load_backbone(preset).denoiser.state_dict()
    with safe_open(tmp_path / "hat.safetensors", "pt") as file:
        metadata = file.metadata()
        for name, value in taught.tensors().items():
            torch.testing.assert_close(base[name] + file.get_tensor(name).float(), value, atol=2e-4, rtol=1e-3)
    assert report["belongs_to"] == taught.card.model_sha256 == metadata["spf_base_sha256"]
    assert metadata["modelspec.sai_model_spec"] == "1.0.0" and metadata["modelspec.trigger_phrase"] == "a winter hat"


def test_a_lora_of_higher_rank_loses_less_and_says_what_it_is(preset, taught, tmp_path):
    errors = [export(Export("hat", "lora", tmp_path / f"{rank}.safetensors", rank=rank))["reconstruction_error"]
              for rank in (1, 2, 8)]
    assert errors[0] > errors[1] > errors[2]
    with safe_open(tmp_path / "8.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "8" and metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora" and metadata["ss_num_train_images"] == "4"


@pytest.mark.parametrize("options, field", [
    ({"format": "ckpt"}, "--format"), ({"format": "lora", "rank": 0}, "--rank"),
    ({"format": "lora", "lora_format": "x"}, "--lora-format"), ({"format": "delta", "dtype": "fp8"}, "--dtype"),
    ({"format": "lora", "out": "model.ckpt"}, "--out")])
def test_what_cannot_be_asked_for_is_refused(tmp_path, options, field):
    out = tmp_path / options.pop("out", "x.safetensors")
    with pytest.raises(InvalidInput, match=field):
        Export("hat", out=out, **options)


def test_nothing_is_overwritten_unless_asked(preset, taught, tmp_path):
    path = tmp_path / "hat.safetensors"
    path.write_text("mine")
    with pytest.raises(InvalidInput, match="exists.*--force"):
        Export("hat", "delta", path)
    export(Export("hat", "delta", path, force=True))
    assert path.stat().st_size > 1000 and [entry.name for entry in tmp_path.glob("*partial*")] == []
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("mine")
    with pytest.raises(InvalidInput, match="never replaced"):
        Export("hat", "diffusers", tmp_path / "photos", force=True)
    with pytest.raises(InvalidInput, match="is a folder"):
        Export("hat", "delta", (tmp_path / "x.safetensors").mkdir() or tmp_path / "x.safetensors", force=True)


def test_a_failed_write_leaves_what_was_there(preset, taught, tmp_path, monkeypatch):
    path = tmp_path / "hat.safetensors"
    path.write_text("mine")

    def full(_tensors, target, metadata):
        target.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InvalidInput, match="No space left"):
        export(Export("hat", "delta", path, force=True))
    assert path.read_text() == "mine" and [entry.name for entry in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("family", ["mmdit"])
def test_kohya_keys_are_for_u_nets(family, preset, taught, tmp_path):
    with pytest.raises(InvalidInput, match="use diffusers"):
        export(Export("hat", "lora", tmp_path / "x.safetensors"))


@pytest.fixture
def adapted(preset, taught):
    """A customization 'adapted': what 'hat' changed, and an adapter beside the cross-attention."""
    backbone = checkpoints.load_backbone(preset)
    branches = parallel_attention.install(backbone.denoiser)
    generator = torch.Generator().manual_seed(2)
    added = {name: value.detach() + 0.3 * torch.randn(value.shape, generator=generator) for name, value in branches.items()}
    return checkpoints.save_customization(taught.card.model_copy(update={"name": "adapted"}), taught.tensors() | added)


def predicted(preset, name):
    backbone = checkpoints.load_backbone(preset)
    checkpoints.apply(backbone, checkpoints.customization(name, preset).tensors())
    text = backbone.encode_prompts([join_prompt("a person", ["a winter hat"])])
    with torch.no_grad():
        return backbone.predict(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300]), text)


def test_an_adapter_goes_into_a_delta_and_comes_back_as_it_was(preset, taught, adapted, tmp_path, spf_home):
    report = export(Export("adapted", "delta", tmp_path / "adapted.safetensors"))
    before = predicted(preset, "adapted")
    assert report["adapter_tensors"] == len(adapted.tensors()) - len(taught.tensors()) > 0
    (spf_home / "customizations" / "adapted").rename(tmp_path / "gone")
    back = import_customization(tmp_path / "adapted.safetensors")
    assert back.card == adapted.card and back.tensors().keys() == Customization(adapted.card, tmp_path / "gone").tensors().keys()
    torch.testing.assert_close(predicted(preset, "adapted"), before, atol=5e-3, rtol=1e-2)
    assert (before - predicted(preset, "hat")).abs().mean() > 0.01, "the adapter does something"


@pytest.mark.parametrize("form", ["diffusers", "single-file", "lora"])
def test_an_adapter_cannot_be_merged_and_the_refusal_names_what_can_be_done(preset, adapted, tmp_path, form):
    out = tmp_path / ("out" if form == "diffusers" else "out.safetensors")
    with pytest.raises(CustomizationError, match="'adapted' holds an adapter.*--format delta"):
        export(Export("adapted", form, out))
    assert not out.exists()


def test_a_branch_where_the_model_has_no_such_layer_is_not_taken_in(preset, taught, adapted, tmp_path):
    name = next(name for name in adapted.tensors() if ".parallel." in name)
    for wrong, value in ((name.replace("attn2", "attn1"), adapted.tensors()[name]), (name, torch.ones(3, 3))):
        card = taught.card.model_copy(update={"name": "odd"})
        odd = checkpoints.save_customization(card, {wrong: value})
        with pytest.raises(CustomizationError, match="does not fit"):
            import_customization(odd.folder, "other")


def test_what_only_this_app_knows_stays_here(preset, taught, tmp_path):
    checkpoints.save_customization(taught.card.model_copy(update={"name": "adapter"}), {"parallel.weight": torch.ones(2)})
    with pytest.raises(CustomizationError, match="no other program knows"):
        export(Export("adapter", "lora", tmp_path / "x.safetensors"))
    with pytest.raises(CustomizationError, match="'gone' does not exist"):
        export(Export("gone", "lora", tmp_path / "x.safetensors"))
    assert list(tmp_path.glob("*.safetensors")) == []
