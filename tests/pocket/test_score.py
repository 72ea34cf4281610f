"""How a model is scored: closed forms for every number, and one run on networks that have learned nothing."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from spf import config
from spf.errors import InvalidInput
from spf.pocket import contrast, pictures, score
from spf.pocket.world import ATTRIBUTES, TARGETS

CPU = torch.device("cpu")


@pytest.fixture
def portraits():
    return [pictures.portrait_at(score.HELD_OUT, index, 0.0) for index in range(60)]


@pytest.fixture
def own_folder(tiny, tmp_path):
    """The tiny model in a folder that may be written to."""
    folder = shutil.copytree(tiny.pretrained_model_name_or_path, tmp_path / "model")
    path = config.CONFIGS / "models" / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"pretrained_model_name_or_path": str(folder)}))
    return folder


def values_of(portraits):
    """The reading of somebody who is always right."""
    return {attribute: [portrait.value(attribute) for portrait in portraits] for attribute in ATTRIBUTES}


def test_a_model_that_has_learned_nothing_is_scored(own_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "FULL", 4)
    report = score.score("tiny", CPU, count=4, sheet=tmp_path / "sheets" / "tiny.png")
    assert json.loads((own_folder / "score.json").read_text()) == json.loads(json.dumps(report, allow_nan=False))
    assert report["captions"] == 4 and report["steps"] == 3 and report["psnr_db"] < 20
    for shares in (report["named"], report["unnamed_entropy"], *report["instruments"].values()):
        assert list(shares) == list(ATTRIBUTES) and all(share is None or share >= 0 for share in shares.values())
    assert list(report["target_asked"]) == [*TARGETS, "all"]
    assert report["seconds_per_picture"] > 0 and report["seconds_to_load"] > 0
    assert Image.open(tmp_path / "sheets" / "tiny.png").size == (2 * 4 * 64 + 6, 64)
    text = score.as_text(report)
    assert f"{report['psnr_db']:.1f} dB" in text and "| hair style |" in text and "nan" not in text


def test_only_a_score_of_all_captions_is_kept(own_folder, command_line):
    (own_folder / "score.json").write_text("committed")
    status, out, err = command_line("pretrain", "score", "tiny", "--captions", "2", "--device", "cpu", "--json")
    assert status == 0 and json.loads(out)["captions"] == 2 and (own_folder / "score.json").read_text() == "committed"
    assert err.splitlines()[-1] == "score.json is left as it is: a score of 500 captions is kept, and this is of 2."


@pytest.mark.parametrize("count", ["1", "-3", str(10**12)])
def test_a_score_of_no_or_endless_captions_is_refused(own_folder, command_line, count):
    status, out, err = command_line("pretrain", "score", "tiny", "--captions", count)
    assert (status, out) == (2, "") and err.startswith("error: --captions: must lie between 2 and")


def test_entropy_is_that_of_what_no_caption_names(portraits):
    assert score.entropy(["a", "b"] * 8) == pytest.approx(math.log(2)) and score.entropy(["a"] * 9) == 0
    read = values_of(portraits) | {"expression": ["sad"] * 60}
    shares = score.unnamed_entropy(read, portraits, [set()] * 60)
    assert shares.pop("expression") == 0 and all(share == pytest.approx(1) for share in shares.values())
    named = [{"expression"} if index else set() for index in range(60)]  # one picture left: the renderer's is 0 too
    assert math.isnan(score.unnamed_entropy(read, portraits, named)["expression"])


def test_distances_are_to_the_same_rendered_half():
    class Columns:
        def features(self, images):
            return images

    generator = torch.Generator().manual_seed(0)
    rendered = torch.randn(4000, 2, generator=generator)
    found = score.distances(Columns(), torch.randn(2000, 2, generator=generator) + torch.tensor([3.0, 4.0]), rendered)
    assert found["generated"] == pytest.approx(25, rel=0.05) and found["rendered_halves"] < 0.02
    assert found["ratio"] == pytest.approx(found["generated"] / found["rendered_halves"])
    assert score.distances(Columns(), rendered[:2000], rendered)["ratio"] == pytest.approx(1)


def test_every_target_is_asked_for_in_its_own_words(monkeypatch):
    asked = []

    def drawn(backbone, model, prompts, seeds):
        asked.extend(prompts)
        return torch.tensor([list(TARGETS).index("turban") for _ in prompts])

    class Reader:
        def read(self, images):
            return {"target": [list(TARGETS)[index] for index in images.tolist()]}

    monkeypatch.setattr(score, "sample", drawn)
    texts = [f"person {index}" for index in range(100)]
    shares = score.targets_shown(None, None, Reader(), texts)
    assert shares == dict.fromkeys(TARGETS, 0.0) | {"turban": 1.0, "all": 0.1}
    assert [prompt.target.text for prompt in asked] == [target.phrase for target in TARGETS.values() for _ in range(2)]
    assert len({prompt.base.text for prompt in asked}) == 20, "no caption is used twice"


def test_a_sheet_shows_both_kinds_in_the_same_order(tmp_path):
    shades = torch.linspace(-1, 1, 12).view(12, 1, 1, 1).expand(12, 3, 5, 5)
    score.contact_sheet(shades, -shades, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (10, 50 + 2 + 50, 3)
    left, right = pixels[::5, :50:5, 0], pixels[::5, 52::5, 0]
    assert np.array_equal(left.flat[:12], ((shades[:, 0, 0, 0] + 1) * 127.5).round()) and (left[1, 2:] == 255).all()
    assert np.array_equal(right.flat[:12], left.flat[11::-1])


def test_clip_reads_an_attribute_as_the_best_fitting_text():
    class Oracle:
        """Pictures are numbers here, and each fits the text of the same number."""

        def embed_texts(self, texts):
            assert texts in [contrast.attribute_prompts(attribute) for attribute in ATTRIBUTES]
            return torch.eye(10)[:len(texts)]

        def embed_images(self, images):
            return torch.eye(10)[images[:, 0, 0, 0].long()]

    wanted = [2, 0, 1, 1, 2] * 30
    read = score.read_by_clip(Oracle(), torch.tensor(wanted).view(-1, 1, 1, 1))
    for attribute, options in ATTRIBUTES.items():
        assert read[attribute] == [options[index] for index in wanted]


def test_psnr_of_a_known_error():
    class Shifted:
        def encode_images(self, images):
            return images

        def decode(self, latents):
            return latents + 0.2  # 0.1 of the full range: 20 dB

    assert score.psnr(Shifted(), torch.zeros(60, 3, 4, 4)) == pytest.approx(20, abs=1e-3)


def test_too_few_captions_are_refused():
    with pytest.raises(InvalidInput, match="between 2 and") as caught:
        score.score("pocket", CPU, count=1)
    assert caught.value.field == "--captions"
