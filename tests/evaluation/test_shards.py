"""Two shards of one evaluation as two processes at the same time, in one folder."""

import json

import torch

from spf import config
from spf.evaluation import publish
from spf.evaluation.run import Evaluation
from spf.pocket import recogniser
from tests.evaluation.conftest import Trainer, quick_region, settings
from tests.processes import SERVER, process

STRIP = {"row": "standard", "steps": [["winter-hat"], ["winter-hat", "turban"]], "seeds": 1}
CHANGES = {"targets": ["winter-hat", "turban"], "triples": 1, "continuous": STRIP}


def shard(index: int, barrier, told):
    torch.set_num_threads(1)
    evaluation = Evaluation(settings(**CHANGES), torch.device("cpu"), Trainer(config.model_preset("tiny")))
    evaluation.run((index, 2))
    barrier.wait(60)
    told.put((evaluation.run((index, 2)), str(publish.write(evaluation))))


def test_two_shards_beside_each_other_write_one_whole_result(tiny, ruler, spf_home):
    """Both are held up until all is there, so both are the last one and write; both need the joint customization of the strip."""
    barrier, told = SERVER.Barrier(2), SERVER.Queue()
    patches = [("spf.config", "CONFIGS", config.CONFIGS), ("spf.pocket.recogniser", "FOLDER", recogniser.FOLDER),
               ("spf.pocket.renderer", "target_region", quick_region)]
    both = [process(shard, index, barrier, told, patches=patches) for index in range(2)]
    for one in both:
        one.start()
    answers = [told.get(timeout=120) for _ in both]
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0] and answers[0] == answers[1] and answers[0][0]
    folder = spf_home / "evaluation" / "check"
    found = json.loads((folder / "table.json").read_text())
    assert found["targets"] == CHANGES["targets"] and (folder / "figures" / "continuous.png").exists()
    assert not list(folder.rglob("*.partial"))
    trained = [path.name for path in (folder / "customizations").iterdir() if not path.name.startswith(".")]
    assert len(trained) == 5, "two rows of two targets, and the joint one"
