import numpy as np
import pytest

from spf.errors import InvalidInput
from spf.evaluation import run as evaluation_run
from spf.evaluation.run import Cell
from spf.evaluation.shards import shard_of


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
