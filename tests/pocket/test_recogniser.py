"""The ruler is held against what it measures: freshly rendered pictures, whose truth is known, clean and disturbed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spf.backbones.checkpoints import load_backbone
from spf.config import ComponentConfig, RecogniserPretrainConfig, model_preset, parse
from spf.errors import ModelNotFound
from spf.pocket import calibration, pictures, presets, recogniser, recognition
from spf.pocket.autoencoder import to_images
from spf.pocket.pretrain import Pretraining
from spf.pocket.recogniser import READABLE, Recogniser
from spf.pocket.renderer import PARTS
from spf.pocket.world import ATTRIBUTES, TARGETS

CPU = torch.device("cpu")
SEED, COUNT, MASKED = "test", 200, 48
TINY = {"widths": [4, 8], "features": 6, "reduced": 2, "decoder": 4}


@pytest.fixture(scope="module")
def ruler():
    return Recogniser.from_folder()


@pytest.fixture(scope="module")
def portraits():
    return [pictures.portrait_at(SEED, index, calibration.TARGET_SHARE) for index in range(COUNT)]


@pytest.fixture(scope="module")
def images(portraits):
    return to_images(np.stack([pictures._Draw(128)(portrait) for portrait in portraits]), CPU)


@pytest.fixture(scope="module")
def masks(portraits):
    return recognition.unpack_masks(np.stack([pictures.part_bits(portrait) for portrait in portraits[:MASKED]])).bool()


@pytest.fixture(scope="module")
def disturbances():
    return calibration.disturbances(load_backbone(model_preset("pocket")))


# what it reads

@pytest.mark.parametrize("condition, count, least", [
    ("rendered", COUNT, 0.98), ("blur", COUNT, 0.97), ("noise", COUNT, 0.97), ("colour shift", COUNT, 0.97),
    ("autoencoder", 50, 0.9)])
def test_attributes_of_pictures_it_never_saw(ruler, portraits, images, disturbances, condition, count, least):
    read, labels = ruler.read(disturbances[condition](images[:count])), recognition.label_rows(portraits[:count])
    shares = {name: calibration.accuracy(calibration.confusion(read[name].indices, labels[:, column].tolist(), len(options)))
              for column, (name, options) in enumerate(READABLE.items())}
    assert min(shares.values()) >= least, shares


@pytest.mark.parametrize("condition", ["rendered", "blur", "noise", "colour shift"])
def test_parts_of_pictures_it_never_saw(ruler, images, masks, disturbances, condition):
    found = ruler.parse(disturbances[condition](images[:MASKED])) > 0.5
    ious = dict(zip(PARTS, calibration.part_iou(found, masks), strict=True))
    assert np.mean(list(ious.values())) >= 0.9, ious


def test_a_target_is_seen_and_its_absence_too(ruler, portraits):
    names = list(TARGETS)
    plain = replace(portraits[0], glasses="none")
    drawn = [plain, *(replace(plain, targets=(target,)) for target in names)]
    shown = to_images(np.stack([pictures._Draw(128)(portrait) for portrait in drawn]), CPU)
    assert list(ruler.read(shown)["target"]) == ["none", *names]
    present = ruler.target_probability(shown[1:], names)
    absent = ruler.target_probability(shown[:1].expand(len(names), -1, -1, -1), names)
    assert present.shape == (len(names),) and present.min() > 0.5 > absent.max()


# how it answers

def test_the_shape_of_the_answers(ruler, images):
    read = ruler.read(images[:3])
    assert list(read) == [*ATTRIBUTES, "target"] and ruler.attributes == tuple(ATTRIBUTES) and ruler.parts == PARTS
    for name, reading in read.items():
        assert len(reading) == 3 and set(reading) <= set(READABLE[name])
        assert [reading.options[index] for index in reading.indices] == list(reading) == list(reading[:2]) + [reading[-1]]
        torch.testing.assert_close(reading.probabilities.sum(dim=1), torch.ones(3))
    masks, features = ruler.parse(images[:3]), ruler.features(images[:3])
    assert masks.shape == (3, len(PARTS), 128, 128) and 0 <= masks.min() < masks.max() <= 1
    assert features.shape == (3, 128) and features.std(dim=0).max() > 0


def test_a_picture_reads_the_same_alone_in_any_batch_and_again(ruler, images, monkeypatch):
    monkeypatch.setattr(recogniser, "_BATCH", 3)
    together = ruler.read(images[:7])
    alone = ruler.read(images[4:5])
    for name, reading in together.items():
        assert reading[4] == alone[name][0]
        torch.testing.assert_close(reading.probabilities[4:5], alone[name].probabilities, rtol=1e-3, atol=1e-4)
        assert torch.equal(reading.probabilities, ruler.read(images[:7])[name].probabilities)
    torch.testing.assert_close(ruler.parse(images[:7])[4:5], ruler.parse(images[4:5]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(96, 96), (256, 256), (200, 160)])
def test_other_sizes_are_resized(ruler, images, size):
    resized = torch.nn.functional.interpolate(images[:20], size, mode="bilinear", antialias=True)
    read, own = ruler.read(resized), ruler.read(images[:20])
    for name in ("hair_color", "background_color", "glasses"):
        assert sum(a == b for a, b in zip(read[name], own[name], strict=True)) >= 19, name
    assert ruler.parse(resized).shape == (20, len(PARTS), *size)


@pytest.mark.parametrize("damage, words", [
    (lambda folder: shutil.rmtree(folder), "does not exist"),
    (lambda folder: (folder / recogniser.WEIGHTS).unlink(), "does not exist"),
    (lambda folder: (folder / recogniser.WEIGHTS).write_bytes(b"no tensors"), "cannot be used"),
    (lambda folder: save_file({"other": torch.zeros(1)}, folder / recogniser.WEIGHTS), "cannot be used"),
    (lambda folder: (folder / recogniser.CONFIG).write_text("{"), "cannot be used"),
    (lambda folder: (folder / recogniser.CONFIG).write_text("{}"), "cannot be used"),
    (lambda folder: _another_world(folder / recogniser.CONFIG), "another picture world")])
def test_missing_or_damaged_files_are_named_with_the_remedy(tmp_path, damage, words):
    folder = shutil.copytree(recogniser.FOLDER, tmp_path / "recogniser")
    damage(folder)
    with pytest.raises(ModelNotFound, match="pretrain recogniser") as caught:
        Recogniser.from_folder(folder)
    assert words in str(caught.value) and str(folder) in str(caught.value)


def _another_world(path):
    config = json.loads(path.read_text())
    config["attributes"]["hair_color"].append("green")
    path.write_text(json.dumps(config))


def test_the_committed_weights_are_small_and_half_precision():
    path = recogniser.FOLDER / recogniser.WEIGHTS
    assert path.stat().st_size < 3_000_000
    assert {value.dtype for value in load_file(path).values()} == {torch.float16, torch.int64}


# how it is trained

def test_hidden_attributes_have_no_label(portraits):
    hat = replace(portraits[0], targets=("winter-hat",))
    labels = dict(zip(READABLE, recognition.label_rows([hat])[0].tolist(), strict=True))
    assert labels["hair_style"] == labels["hair_color"] == recognition.UNKNOWN
    assert READABLE["target"][labels["target"]] == "winter-hat"
    assert READABLE["clothing"][labels["clothing"]] == hat.clothing
    assert recognition.label_rows([replace(hat, targets=())])[0, -1] == READABLE["target"].index("none")


def test_rare_targets_are_learned_from_as_often_as_none(monkeypatch):
    """Of 64 pictures one shows freckles; of the half of a batch that is balanced, about half does."""
    labels = torch.zeros(64, len(READABLE), dtype=torch.int64)
    labels[5, -1] = READABLE["target"].index("freckles")
    pixels = np.arange(64, dtype=np.uint8).repeat(128 * 128 * 3).reshape(64, 128, 128, 3)
    examples = recognition.Examples(pixels, pixels[:1], pixels[:2, ..., 0] * 0, labels)
    seen = []
    monkeypatch.setattr(recognition.Examples, "images", lambda self, rows, soft, device: seen.append(rows) or to_images(
        self.pixels[rows.numpy()], device))
    settings = ComponentConfig(architecture=TINY, samples=200, batch_size=200, learning_rate=1e-3)
    made = recognition.component(recogniser.RecogniserNetwork(**TINY), examples, settings, CPU)
    loss, parts = made.loss(0, torch.Generator().manual_seed(0))
    assert float(loss.detach()) == pytest.approx(float(recognition.ATTRIBUTES_WEIGHT * parts["attributes"] + parts["masks"]))
    assert (seen[0][:100] < 2).all() and 30 < (seen[0][100:] == 5).sum() < 70


def test_the_attribute_loss_knows_what_can_be_seen():
    logits = torch.zeros(2, sum(map(len, READABLE.values())))
    labels = torch.zeros(2, len(READABLE), dtype=torch.int64)
    uniform = np.mean([np.log(len(options)) for options in READABLE.values()])
    assert float(recognition.attribute_loss(logits, labels)) == pytest.approx(uniform)
    labels[:, 1:] = recognition.UNKNOWN
    assert float(recognition.attribute_loss(logits, labels)) == pytest.approx(np.log(9) / len(READABLE))


def test_the_mask_loss_of_right_and_wrong_masks(masks):
    truth = masks[:4].float()
    assert recognition.mask_loss(200 * truth - 100, truth) < 0.01
    assert recognition.mask_loss(100 - 200 * truth, truth) > 50


def test_blur_keeps_the_mean_and_none_keeps_the_picture(images):
    flat = torch.full((1, 3, 128, 128), 0.3)
    torch.testing.assert_close(recognition.blurred(flat, torch.tensor([1.5])), flat)
    unchanged, blurred = recognition.blurred(images[:2], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(unchanged, images[0])
    point = torch.zeros(1, 3, 128, 128)
    point[..., 64, 64] = 1
    spread = recognition.blurred(point, torch.tensor([1.0]))[0, 0]
    variance = (spread.sum(dim=0) * (torch.arange(128) - 64.0) ** 2).sum()
    assert float(variance) == pytest.approx(1, rel=0.02) and not torch.allclose(blurred, images[1], atol=0.05)


def test_disturbance_follows_its_generator(images):
    first, again, other = (recognition.disturbed(images[:4], torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.abs().max() <= 1


@pytest.mark.usefixtures("rendered_here")
def test_from_nothing_to_a_folder_that_loads(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_write_all", lambda draw, portraits, path, shape: np.save(
        path, np.stack([draw(portrait) for portrait in portraits])))
    base = Pretraining(config.model_copy(update={"resolution": 128}), tmp_path / "base", CPU, minutes=60)
    settings = parse(RecogniserPretrainConfig, {
        "family": "recogniser", "base": "pocket", "masks": 3, "softened": 2, "recogniser": {
            "architecture": TINY, "samples": 8, "batch_size": 4, "learning_rate": 1e-3, "warmup_samples": 0}})
    training = recognition.RecogniserTraining(settings, base, tmp_path / "work", CPU, minutes=60)
    assert training.run() and training.complete
    training.export(tmp_path / "recogniser")
    loaded = Recogniser.from_folder(tmp_path / "recogniser")
    assert set(loaded.read(torch.zeros(1, 3, 128, 128))) == set(READABLE)
    record = json.loads((tmp_path / "recogniser" / "training.json").read_text())
    assert record["parts"]["recogniser"]["samples"] == 8 and record["masks"] == 3
    kept = [path.name for path in (tmp_path / "work").glob("softened-*.npy")]
    assert len(kept) == 1 and np.load(tmp_path / "work" / kept[0]).shape == (2, 128, 128, 3)


def test_the_preset_of_the_recogniser():
    settings = presets.pretrain_config("recogniser")
    assert isinstance(settings, RecogniserPretrainConfig) and settings.base == "pocket"


# how well it says it reads

def test_a_calibration_counts_every_picture(monkeypatch, spf_home):
    def write(draw, portraits, path, shape):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([draw(portrait) for portrait in portraits]))

    monkeypatch.setattr(pictures, "_write_all", write)
    report = calibration.calibrate(CPU, count=12, masked=3)
    assert list(report["accuracy"]) == list(report["iou"]) == ["rendered", "blur", "noise", "colour shift", "autoencoder"]
    assert np.sum(report["confusion"]["background_pattern"]) == 12 >= np.sum(report["confusion"]["hair_style"])
    assert report["accuracy"]["rendered"]["background_color"] > 0.8 and report["iou"]["rendered"]["background"] > 0.9
    text = calibration.card(json.loads(json.dumps(report)))
    assert "| hair style |" in text and "| mean |" in text
    assert f"- target: {12 - np.trace(report['confusion']['target'])} of 12" in text


def test_confusion_and_overlap_in_numbers():
    table = calibration.confusion([0, 1, 1, 2], [0, 1, 2, recognition.UNKNOWN], 3)
    assert table.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]] and calibration.accuracy(table) == pytest.approx(2 / 3, abs=1e-4)
    assert calibration.accuracy(np.zeros((2, 2), np.int64)) is None
    found, truth = torch.zeros(2, 1, 2, 2, dtype=torch.bool), torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    found[0, 0, 0], truth[0, 0, :, 0] = True, True  # one pixel of three
    truth[1, 0, 0, 0] = True
    assert calibration.part_iou(found, truth) == [pytest.approx(1 / 4)]
    assert calibration._confusions({name: [[1] * len(o)] + [[0] * len(o)] * (len(o) - 1) for name, o in READABLE.items()})[2] == (
        "- skin tone: 3 of 4: pale as tan 1, pale as dark 1, pale as brown 1")
