"""A whole run on the tiny model: pictures in, a customization out that generation uses; or a final state that says why not."""

import time

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from spf import config, library
from spf.backbones import checkpoints
from spf.config import GenerationRequest, parse
from spf.data.writer import write_folder
from spf.errors import Cancelled, CustomizationError, DataError, DiskFull, InvalidInput, ModelNotFound, TrainingError
from spf.generation.service import GenerationService
from spf.pocket.dataset import render_folder
from spf.training import checkpoint, loop, preview
from spf.training import run as run_module
from spf.training.run import Run
from spf.training.run_folder import RunFolder

both_families = pytest.mark.parametrize("family", ["unet", "mmdit"])


CPU = torch.device("cpu")


@pytest.fixture
def make_run(tiny, picture_folder, spf_home, monkeypatch, tmp_path):
    """make_run(key=value): a run that is ready to be executed."""
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(preview, "PREVIEW_STEPS", 2)  # previews would be most of the work

    def make(**overrides) -> Run:
        values = {"data": str(picture_folder), "name": "hat", **overrides}
        settings = config.train_config("tiny", {name.replace("__", "."): value for name, value in values.items()})
        return Run(settings, RunFolder.create(spf_home / "runs", settings), CPU)

    return make


def generated(customization: str | None):
    request = parse(GenerationRequest, {
        "model": "tiny", "customization": customization, "base_text": "a person", "target_texts": ["a winter hat"],
        "num_inference_steps": 2, "map_steps": 1})
    return GenerationService(CPU).generate(request)


def left_over(spf_home) -> list[str]:
    return sorted(path.name for path in (spf_home / "customizations").glob("*"))


@both_families
def test_a_run_writes_a_customization_that_generation_uses(make_run, tiny):
    run = make_run(sample_every=1, seed=1, method__lambda_text=0.7)
    written = run.execute()
    status = run.folder.status()
    assert (status.state, status.stage, status.step, status.total_steps) == ("completed", "stage2", 4, 4)
    assert status.eta is None and status.message == "hat"

    card = checkpoints.customization("hat", tiny).card
    assert card.method == run.config.method and card.method.lambda_text == 0.7
    assert card == written.card and card.phrases == ("a winter hat",) and card.stage == "both"
    assert {name: card.summary[name] for name in ("pictures", "stage1_steps", "stage2_steps", "run")} == {
        "pictures": 4, "stage1_steps": 2, "stage2_steps": 2, "run": run.folder.id}

    lines = run.folder.metrics()
    assert [(line["stage"], line["step"]) for line in lines] == [("stage1", 0), ("stage1", 1), ("stage2", 2), ("stage2", 3)]
    assert {"loss", "diff_loss", "text_loss", "fine_loss", "enhanced_loss", "sfcm_mean", "lr"} <= lines[-1].keys()
    assert [sample["step"] for sample in run.folder.samples()] == [1, 2, 3, 4]

    result = generated("hat")
    assert result.customized.tobytes() != generated(None).customized.tobytes()
    assert result.original.tobytes() == generated(None).original.tobytes()


def test_previews_of_several_seeds_lie_side_by_side(make_run):
    shown = {}
    for seeds in (1, 2):
        run = make_run(name=f"hat{seeds}", stage="1", stage1__max_train_steps=1, sample_seeds=seeds)
        run.execute()
        (sample,) = run.folder.samples()
        shown[seeds] = {name: Image.open(sample[name]) for name in ("original", "customized", "sfcm")}
    for name, single in shown[1].items():
        both, (side, height) = shown[2][name], single.size
        assert both.size == (2 * side, height)
        if name != "sfcm":  # a map is smoothed where the two meet
            first, second = both.crop((0, 0, side, height)), both.crop((side, 0, 2 * side, height))
            assert first.tobytes() == single.tobytes() != second.tobytes()


def test_two_runs_of_one_seed_write_the_same_bits(make_run):
    first, second = (make_run(name=name, seed=3).execute().tensors() for name in ("a", "b"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@both_families
def test_stage_2_alone_goes_on_from_a_customization(make_run, tiny):
    before = make_run(name="first", stage="1").execute().tensors()
    run = make_run(name="second", stage="2", initial_customization="first")
    after = run.execute().tensors()
    assert {line["stage"] for line in run.folder.metrics()} == {"stage2"}
    model = checkpoints.load_backbone(tiny)
    cross, own = {name for name, _ in model.trainable_parameters("cross")}, model.denoiser.state_dict()
    untouched = before.keys() - cross
    # weight decay alone may round away in fp16: such a tensor is the model's own again, and is left out
    assert untouched and all(torch.equal(after.get(name, own[name]), before[name]) for name in untouched)
    assert any(not torch.equal(after[name], before[name]) for name in cross)


def test_a_phrase_taught_on_top_of_others_joins_them(make_run, spf_home):
    own = make_run(name="first", stage="1").execute().card
    (spf_home / "customizations" / "first" / "customization.json").write_text(
        own.model_copy(update={"phrases": ("a scarf", *own.phrases)}).model_dump_json())
    card = make_run(name="second", stage="1", initial_customization="first:0.5").execute().card
    assert card.phrases == (*own.phrases, "a scarf"), "what was just taught comes first"
    assert card.summary["started_from"] == "first:0.5" and "started_from" not in own.summary


@both_families
@pytest.mark.parametrize("first, shares", [("cross", True), ("lora", True), ("full", False)])
def test_both_paths_share_what_the_run_does_not_train(make_run, monkeypatch, first, shares):
    seen = []
    train = run_module.train_stage
    monkeypatch.setattr(run_module, "train_stage", lambda stage, *rest: seen.append(stage) or train(stage, *rest))
    make_run(stage1__trainable=first).execute()
    reference, response = ({value.data_ptr() for value in path.denoiser.parameters()}
                           for path in (seen[-1].reference, seen[-1].response))
    assert bool(reference & response) == shares and reference - response


def test_a_run_may_start_from_a_mix(make_run, tiny, monkeypatch):
    for name, seed in (("one", 1), ("two", 2)):
        make_run(name=name, stage="1", seed=seed).execute()
    begun = []
    train = run_module.train_stage
    monkeypatch.setattr(run_module, "train_stage", lambda stage, *rest: begun.append(
        {name: value.clone() for name, value in stage.response.denoiser.state_dict().items()}) or train(stage, *rest))
    run = make_run(name="both", stage="2", initial_customization="one:0.7+two:0.50")
    assert run.config.initial_customization == "one:0.7+two:0.5"
    run.execute()
    reference = checkpoints.load_backbone(tiny)
    mix = checkpoints.mixed(reference, [(checkpoints.customization(name, tiny), w) for name, w in (("one", 0.7), ("two", 0.5))])
    assert mix and all(torch.equal(begun[0][name], value) for name, value in mix.items())
    with pytest.raises(InvalidInput, match="initial_customization.*no weight"):
        make_run(initial_customization="one:much")


def test_stage_1_alone_logs_no_alignment(make_run):
    run = make_run(stage="1")
    assert run.execute().card.summary["stage2_steps"] == 0
    assert all("text_loss" not in line for line in run.folder.metrics())


@pytest.mark.parametrize("raised, expected, state", [
    (TrainingError("diff_loss is not a finite number"), TrainingError, "failed"),
    (RuntimeError("something broke"), RuntimeError, "failed"),
    (torch.OutOfMemoryError("CUDA out of memory"), TrainingError, "failed"),
    (MemoryError(), TrainingError, "failed"),
    (KeyboardInterrupt(), KeyboardInterrupt, "interrupted"),
    (Cancelled("stopped"), Cancelled, "cancelled")])
def test_whatever_happens_ends_in_a_final_state_and_keeps_the_old_customization(
        make_run, spf_home, monkeypatch, raised, expected, state):
    old = make_run(stage="1").execute().tensors()
    calls = []

    def broken(*_args):
        calls.append(1)
        if len(calls) == 2:  # in stage 2
            raise raised

    monkeypatch.setattr(run_module, "train_stage", broken)
    run = make_run()
    with pytest.raises(expected):
        run.execute()
    status = run.folder.status()
    assert status.state == state and status.eta is None
    assert str(raised) in status.message
    assert (expected is TrainingError and raised.__class__ is not TrainingError) == ("low-memory" in status.message)
    kept = checkpoints.customizations()["hat"].tensors()
    assert all(torch.equal(kept[name], old[name]) for name in old)
    assert left_over(spf_home) == ["hat"]


def test_cancelling_through_the_folder(make_run, spf_home):
    run = make_run(stage1__max_train_steps=1000)
    run.folder.request_cancel()
    with pytest.raises(Cancelled):
        run.execute()
    assert run.folder.status().state == "cancelled" and left_over(spf_home) == []


@pytest.mark.parametrize("where, name", [
    (checkpoints, "load_backbone"), (run_module, "prepare"), (run_module.Preview, "__call__"), (loop._Training, "_validate"),
    (loop._Training, "_update"), (checkpoint, "save")])
def test_cancelling_does_not_wait_for_what_is_under_way(make_run, spf_home, monkeypatch, where, name):
    """While it loads, encodes, draws, validates, in the middle of a step, and while it saves."""
    run, begun = make_run(stage="1", sample_every=1, checkpoint_every=1), []

    def takes_for_ever(*_args, **_options):
        run.folder.request_cancel()
        begun.append(time.monotonic())
        time.sleep(300)

    monkeypatch.setattr(where, name, takes_for_ever)
    with pytest.raises(Cancelled):
        run.execute()
    assert len(begun) == 1 and time.monotonic() - begun[0] < 60
    assert run.folder.status().state == "cancelled" and left_over(spf_home) == []


def test_a_customization_is_on_the_disk_and_read_back_before_the_checkpoints_go(make_run, monkeypatch):
    run, order = make_run(stage="1", stage1__max_train_steps=1), []

    def note(what, function):
        return lambda *args: (order.append((what, *args[:1])), function(*args))[1]

    monkeypatch.setattr(run_module, "sync", note("sync", run_module.sync))
    monkeypatch.setattr(library.Customization, "tensors", note("read", library.Customization.tensors))
    monkeypatch.setattr(checkpoint, "remove_all", note("remove", checkpoint.remove_all))
    folder = run.execute().folder
    assert {path for what, path in order if what == "sync"} >= {
        folder / "weights.safetensors", folder / "customization.json", folder, folder.parent}
    assert list(dict.fromkeys(what for what, _ in order)) == ["sync", "read", "remove"]


def test_a_customization_that_cannot_be_read_back_costs_no_checkpoint(make_run, monkeypatch):
    def damaged(self):
        raise CustomizationError("customization: it cannot be read")

    monkeypatch.setattr(library.Customization, "tensors", damaged)
    run = make_run(stage="1", stage1__max_train_steps=1)
    with pytest.raises(CustomizationError):
        run.execute()
    assert run.folder.status().state == "failed" and checkpoint.steps(run.folder.path) == [1]


def test_weights_that_are_no_numbers_are_not_saved(make_run, spf_home, monkeypatch):
    def broken(stage, *_args):
        with torch.no_grad():
            next(stage.response.denoiser.parameters()).fill_(float("nan"))

    monkeypatch.setattr(run_module, "train_stage", broken)
    run = make_run()
    with pytest.raises(CustomizationError, match="not numbers"):
        run.execute()
    assert run.folder.status().state == "failed" and left_over(spf_home) == []


@pytest.mark.parametrize("overrides, error", [
    ({"data": "/nowhere"}, DataError), ({"model": "sdxl"}, ModelNotFound),
    ({"initial_customization": "cap"}, CustomizationError)])
def test_what_is_missing_fails_with_its_name(make_run, spf_home, overrides, error):
    run = make_run()
    run.config = run.config.model_copy(update=overrides)
    with pytest.raises(error):
        run.execute()
    status = run.folder.status()
    assert status.state == "failed" and next(iter(overrides.values())) in status.message
    assert left_over(spf_home) == []


def test_a_target_that_does_not_fit_fails_before_anything_is_encoded(make_run, tmp_path, monkeypatch):
    write_folder(tmp_path / "long", [(Image.new("RGB", (64, 64)), "a person", "zzqj " * 60)])
    monkeypatch.setattr(run_module, "prepare", lambda *args: pytest.fail("encoded"))
    run = make_run(data=str(tmp_path / "long"))
    with pytest.raises(InvalidInput, match="target_text.*shorten"):
        run.execute()
    assert run.folder.status().state == "failed"


def test_the_low_memory_settings_learn_the_same_to_their_precision(make_run, any_precision):
    quick = make_run(name="a", seed=2)
    expected = quick.execute().tensors()
    AcceleratorState._reset_state(True)
    frugal = make_run(name="b", seed=2, mixed_precision="bf16", gradient_checkpointing=True, stage1__train_batch_size=1,
                      stage1__gradient_accumulation_steps=2, stage2__train_batch_size=1, stage2__gradient_accumulation_steps=2)
    card = frugal.execute().card
    assert (card.summary["stage1_batch_per_device"], card.summary["stage1_global_batch"]) == (2, 2)
    assert checkpoints.customizations()["b"].tensors().keys() == expected.keys()
    for ours, theirs in zip(frugal.folder.metrics(), quick.folder.metrics(), strict=True):
        assert ours["diff_loss"] == pytest.approx(theirs["diff_loss"], rel=0.05)


def test_offload_changes_where_things_are_and_nothing_else(make_run, monkeypatch):
    moved, move = [], torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda part, *place, **more: moved.append(type(part).__name__)
                        or move(part, *place, **more))
    plain = make_run(name="a", seed=2, sample_every=1).execute().tensors()
    assert not set(moved) & {"EncoderTiny", "VisionTransformer"}, "only whole models are moved when they are loaded"
    offloaded = make_run(name="b", seed=2, sample_every=1, offload=True).execute().tensors()
    assert {"CLIPTextModel", "EncoderTiny", "VisionTransformer", "UNet2DConditionModel"} <= set(moved)
    assert plain.keys() == offloaded.keys() and all(torch.equal(plain[name], offloaded[name]) for name in plain)


def test_pictures_are_held_out_and_recorded(make_run, tmp_path):
    data = render_folder("turban", 8, tmp_path / "turbans", size=64)
    run = make_run(data=str(data), stage="2", stage2__max_train_steps=3, validate_every=2)
    card = run.execute().card
    assert (card.summary["pictures"], card.summary["validation_pictures"]) == (8, 1)
    lines = run.folder.metrics()
    assert ["validation_preservation" in line for line in lines] == [False, True, True]
    assert {"diff_share", "text_share", "fine_share", "sfcm_empty", "sfcm_mean", "grad_norm", "memory_gb"} <= lines[0].keys()


@pytest.mark.parametrize("where, name", [
    (RunFolder, "log"), (RunFolder, "save_sample"), (checkpoint, "save_file"), (checkpoint, "replace_folder"),
    (checkpoints, "save_customization")])
def test_a_full_disk_is_told_with_what_to_do_and_the_run_goes_on_later(make_run, monkeypatch, where, name):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    run = make_run(stage="1", sample_every=1)
    with monkeypatch.context() as disk:
        disk.setattr(where, name, full)
        with pytest.raises(DiskFull, match=f"disk of .* is full; free some space, then go on with .*resume {run.folder.id}"):
            run.execute()
    assert run.folder.status().state == "failed" and not checkpoints.customizations().get("hat")
    assert Run(run.config, run.folder, CPU).execute().card.name == "hat"
    assert run.folder.status().state == "completed" and len(run.folder.metrics()) == 2
