import os

import numpy as np
import pytest
import torch
from filelock import Timeout

from spf.errors import InvalidInput
from spf.evaluation import run as evaluation_run
from spf.evaluation.run import Cell
from spf.evaluation.shards import lease_of, one_at_a_time, shard_of, share_processor
from spf.generation.guide import Guide


@pytest.fixture
def drawn(monkeypatch):
    """The number of pictures of every call that draws some."""
    calls = []
    sample = evaluation_run.sample

    def counted(backbone, prompts, seeds, how):
        calls.append(len(prompts))
        return sample(backbone, prompts, seeds, how)

    monkeypatch.setattr(evaluation_run, "sample", counted)
    return calls


def test_originals_are_drawn_once_for_all_rows_and_a_second_run_draws_nothing(make, trainer, drawn):
    evaluation = make(reconstruction=["spf"])
    assert evaluation.run()
    assert sum(drawn) == 3 * (1 + 2 + 1)  # originals, two rows, one row with the base text
    del drawn[:]
    assert make(reconstruction=["spf"]).run() and not drawn and len(trainer.calls) == 2


def test_another_setting_of_one_row_leaves_the_others_as_they_are(make, trainer, drawn):
    make().run()
    del drawn[:]
    rows = {"standard": {"title": "Standard", "train": {"stage": "1"}},
            "spf": {"title": "Ours", "start": "standard", "train": {"stage": "2", "method.lambda_text": 0.3}}}
    assert make(methods=rows).run()
    assert sum(drawn) == 3 and [values["stage"] for values in trainer.calls] == ["1", "2", "2"]


def test_more_triples_draw_only_what_is_new_in_whole_batches(make, drawn):
    make(triples=2).run()
    del drawn[:]
    make(triples=4).run()
    assert sum(drawn) == 2 * 3


def test_a_run_that_was_interrupted_goes_on(make, trainer, drawn, monkeypatch):
    evaluation = make()
    sample, left = evaluation_run.sample, iter(range(3))

    def breaks(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return sample(*arguments)

    monkeypatch.setattr(evaluation_run, "sample", breaks)
    with pytest.raises(KeyboardInterrupt):
        evaluation.run()
    assert evaluation.rows(Cell("standard", "winter-hat")) is None
    monkeypatch.setattr(evaluation_run, "sample", sample)
    assert make().run() and sum(drawn) == 3 * 3


def test_the_reference_itself_keeps_everything(make):
    evaluation = make(methods={"none": {"title": "Untouched"}}, tables={}, reconstruction=["none"])
    evaluation.run()
    rows = evaluation.rows(Cell("none", "winter-hat", False))
    assert rows["lpips"].values.max() < 1e-9 and (rows["untouched"].values == 1).all()
    assert (evaluation.rows(Cell("none", "winter-hat"))["pixels_outside"].values > 0).any()


def test_shards_share_the_targets_and_together_are_the_whole(make, trainer):
    settings = {"targets": ["winter-hat", "turban", "neon"], "methods": {"standard": {"title": "S", "train": {"stage": "1"}}},
                "tables": {}, "triples": 1}
    assert make(**settings).run((1, 2)) is False
    assert ["turban" in values["data"] for values in trainer.calls] == [True]
    assert make(**settings).run((0, 2)) is True and len(trainer.calls) == 3
    with pytest.raises(InvalidInput, match="--shard: at most 3 shards, one for each target"):
        make(**settings).run((0, 4))


def test_a_changed_setting_of_the_study_is_trained_and_the_default_is_not_trained_again(make, trainer):
    study = {"row": "spf", "targets": ["winter-hat"], "values": {"method.lambda_fine": [0.1, 0.4]}}
    evaluation = make(sensitivity=study)
    evaluation.run()
    assert [values.get("method.lambda_fine") for values in trainer.calls] == [None, None, 0.4]
    same = [evaluation.rows(cell)["lpips"].values for cell in (
        Cell("spf", "winter-hat"), Cell("spf", "winter-hat", True, (("method.lambda_fine", 0.1),)))]
    np.testing.assert_array_equal(*same)


def test_shards_are_given_by_hand_or_by_a_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert shard_of(None) == (0, 1) and shard_of("2/3") == (1, 3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert shard_of(None) == (1, 4) and shard_of("1/2") == (0, 2)
    for wrong in ("0/2", "3/2", "2", "a/b", "1/2/3", ""):
        with pytest.raises(InvalidInput, match="--shard"):
            shard_of(wrong)


def test_shards_take_turns_on_a_gpu_and_train_side_by_side_on_a_processor():
    gpu, processor = torch.device("cuda", 1), torch.device("cpu")
    assert lease_of(gpu, (0, 2)) == lease_of(gpu, (1, 2)) != lease_of(torch.device("cuda"), (0, 2))
    assert lease_of(processor, (0, 2)) != lease_of(processor, (1, 2)) and lease_of(processor, (0, 1)) == "cpu 1/1"


@pytest.mark.parametrize("count, told, threads", [(1, None, 8), (2, None, 4), (16, None, 1), (2, "3", 8)])
def test_shards_share_the_threads_of_the_processor(monkeypatch, count, told, threads):
    used = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setenv("OMP_NUM_THREADS", told or "")
    if told is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    share_processor(count)
    assert used[-1] == threads and os.environ.get("OMP_NUM_THREADS") == (told or (str(threads) if count > 1 else None))


def test_what_all_shards_share_is_written_by_one_at_a_time(tmp_path):
    with one_at_a_time(tmp_path / "data" / "hats"):
        with pytest.raises(Timeout):
            one_at_a_time(tmp_path / "data" / "hats").acquire(timeout=0)
        with one_at_a_time(tmp_path / "data" / "caps"):
            pass
    with one_at_a_time(tmp_path / "data" / "hats").acquire(timeout=0):
        pass


def test_the_networks_see_the_same_originals_for_every_row(make, trainer, monkeypatch):
    seen, score = [], evaluation_run.Evaluation._score
    monkeypatch.setattr(evaluation_run.Evaluation, "_score",
                        lambda self, pairs, full: seen.append((pairs.targets[0], pairs.original)) or score(self, pairs, full))
    make(targets=["winter-hat", "turban"]).run()
    assert [target for target, _ in seen] == ["winter-hat"] * 4 + ["turban"] * 4
    assert len({id(original) for _, original in seen}) == 4, "two pieces of each of two targets, for two rows"
    assert not torch.equal(seen[0][1], seen[4][1])


def test_no_weights_depend_on_previews_and_later_settings_leave_earlier_keys(make, monkeypatch):
    def key(**changes):
        return make(methods={"standard": {"title": "S", "train": {"stage": "1", **changes}}}, tables={}).trainer.key(
            "standard", "winter-hat")

    assert key() == key(sample_every=7) == key(aspect_ratio_buckets=False) == key(reference_precision="no")
    assert key() != key(aspect_ratio_buckets=True)
    assert key() == key(**{"stage2.learning_rate": 0.5}) != key(**{"stage1.learning_rate": 0.5}), "stage 1 alone is trained"


def test_a_held_row_takes_over_weights_and_lies_between_the_original_and_what_they_draw_alone(make, trainer):
    methods = {"standard": {"title": "Standard", "train": {"stage": "1"}}} | {
        name: {"title": name, "start": "standard", "hold": {"gain": gain}} for name, gain in (("held", 2.0), ("nothing", 0.0))}
    evaluation = make(methods=methods, tables={"1": {"title": "Comparison", "rows": list(methods)}})
    assert evaluation.run() and len(trainer.calls) == 1
    (piece, *_) = evaluation.pieces("winter-hat")
    free, held, nothing = (evaluation.portraits(Cell(row, "winter-hat"), piece).astype(int) for row in methods)
    original = evaluation.original(piece).astype(int)
    assert np.abs(nothing - original).max() <= 1, "drawn one by one and in a batch, and rounded"
    assert 0 < np.abs(held - original).mean() < np.abs(free - original).mean()


def test_a_held_row_is_drawn_under_its_guide(make, monkeypatch):
    class Shift(Guide):
        def latents(self, backbone, step, t, x_t, full):
            return x_t + 0.5

    monkeypatch.setattr(evaluation_run, "make_guide", lambda request, preset: Shift())
    methods = {"standard": {"title": "S", "train": {"stage": "1"}}, "held": {"title": "H", "start": "standard", "hold": {}},
               "both": {"title": "B", "start": "standard", "hold": {}, "guide": {"name": "magnet"}}}
    evaluation = make(methods=methods, tables={"1": {"title": "Comparison", "rows": list(methods)}})
    (piece, *_) = evaluation.pieces("winter-hat")
    held, both = (evaluation.portraits(Cell(row, "winter-hat"), piece).astype(int) for row in ("held", "both"))
    assert np.abs(both - held).max() > 1
