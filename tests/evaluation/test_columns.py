import pytest
import torch

from spf.errors import InvalidInput
from spf.evaluation import columns
from spf.evaluation.report import PAPER_COLUMNS, WORLD_COLUMNS
from spf.evaluation.testset import Triple, pairs_of
from spf.pocket import recogniser
from spf.pocket.recogniser import Recogniser


def built(make, tiny, **changes):
    return columns.columns(make(**changes).config, tiny, torch.device("cpu"))


def test_every_column_of_the_paper_and_of_the_world_has_numbers_without_any_download(make, tiny):
    found = built(make, tiny)
    keys = [metric.key for metric in found.metrics]
    assert {*PAPER_COLUMNS, *WORLD_COLUMNS} < set(keys) and len(keys) == len(set(keys)) and not found.unavailable
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 2, 3, 64, 64, generator=generator) * 2 - 1
    pairs = pairs_of([Triple("winter-hat", "a person", seed) for seed in (1, 2)], *pictures)
    for metric in found.metrics:
        rows = metric.extractor(pairs)
        assert len(rows.values) == 2 and metric.extractor.name, metric.key
        assert all(rows.problems) or rows.values[rows.usable].size, metric.key


def test_missing_published_weights_are_reported_and_not_replaced(make, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    groups = dict.fromkeys(columns.GROUPS, "published")
    found = built(make, tiny, backends=groups, weights=str(tmp_path / "weights"))
    assert set(found.unavailable) == set(columns.GROUPS)
    assert all("https://" in reason or "pip" in reason for reason in found.unavailable.values())
    assert not {"fid", "lpips", "id", "clip_i", "seg_cons", "hps", "mps"} & {metric.key for metric in found.metrics}
    assert {"untouched", "response"} <= {metric.key for metric in found.metrics}


def test_a_backend_of_no_metric_is_refused(make, tiny):
    with pytest.raises(InvalidInput, match="backends: 'ssim' is not known; choose from fid"):
        built(make, tiny, backends={"ssim": "published"})


def test_a_batch_is_looked_at_once_however_many_ask(ruler):
    reader = columns.remembered(Recogniser.from_folder(ruler))
    images, other = torch.zeros(2, 3, 128, 128), torch.ones(2, 3, 128, 128)
    assert reader.read(images) is reader.read(images) and reader.features(images) is reader.features(images)
    assert reader.read(images) is not reader.read(other)
    assert not torch.equal(reader.features(images), reader.features(other))


def test_a_face_is_the_square_around_its_skin_and_too_little_skin_is_none():
    picture = torch.arange(3 * 40 * 40.0).view(3, 40, 40)
    skin = torch.zeros(40, 40, dtype=torch.bool)
    assert columns.face_crop(picture, skin) is None
    skin[10:21, 14:19] = True
    crop = columns.face_crop(picture, skin)
    top, left = (crop[0, 0, 0] // 40).item(), (crop[0, 0, 0] % 40).item()
    assert crop.shape[1] == crop.shape[2] and top <= 10 and top + crop.shape[1] > 20
    assert left <= 14 and left + crop.shape[2] > 18 and crop.shape[1] < 22
    skin[:] = False
    skin[0, :3] = True  # 3 of 1600
    assert columns.face_crop(picture, skin) is None


def test_a_picture_without_a_face_has_no_embedding(ruler, monkeypatch):
    reader = Recogniser.from_folder(ruler)
    skin = reader.parts.index("skin")

    def parse(images):
        maps = torch.zeros(len(images), len(reader.parts), *images.shape[-2:])
        maps[:, skin, 20:60, 30:70] = 1.0
        maps[(images == 0).all(dim=(1, 2, 3))] = 0.0
        return maps

    monkeypatch.setattr(reader, "parse", parse)
    faces = columns.RecogniserFaces(reader)
    embeddings = faces(torch.stack([torch.zeros(3, 128, 128), torch.ones(3, 128, 128)]))
    assert embeddings.shape == (2, 6) and embeddings[0].isnan().all() and embeddings[1].isfinite().all()


def test_the_target_is_no_part_that_should_stay(ruler):
    reader = Recogniser.from_folder(ruler)
    kept = columns.BaseParts(reader).parse(torch.zeros(1, 3, 128, 128))
    assert kept.shape[1] == len(recogniser.PARTS) - 1 and "target" in recogniser.PARTS
