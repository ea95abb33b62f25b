"""What a resumed worker group passes on where its trial was cut between two checkpoints."""

from __future__ import annotations

import pytest

from ray_jobs.engine.trial import _ReportTail
from results.store import ReportWriter
from settings.flat import replace
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.toy import Toy

SETTINGS = {"train.steps": 20, "train.report_every": 2, "train.checkpoint_every": 3}


class Cut(LocalRun):
    """Dies when its report at step 10 is in the file; its newest checkpoint is of step 6."""

    def tell(self, report):
        if report["step"] == 10:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_reports_that_are_made_again_are_passed_on_once_more_and_no_others(tmp_path, make_context):
    context = make_context(tmp_path, workers=2)
    tree = replace(Toy.Settings(), {**SETTINGS, "train.tensorboard": False})

    def train(kind, segment):
        with ReportWriter(context.paths.reports_of(0)) as reports:
            directory = context.paths.trial(0).root
            run = kind(directory, reports, resume=segment > 0, segment=segment)
            fit(Toy(), tree, run, None)

    def heard(tail):
        return [(report["step"], report["segment"]) for report in tail._new_reports()]

    with pytest.raises(KeyboardInterrupt):
        train(Cut, 0)
    first = _ReportTail(context, {"trial": 0, "segment": 0, "resume": False})
    assert heard(first) == [(step, 0) for step in (2, 4, 6, 8, 10)]
    tail = _ReportTail(context, {"trial": 0, "segment": 1, "resume": True})
    assert heard(tail) == [(2, 0), (4, 0), (6, 0)], "the later ones belong to what is trained anew"
    train(LocalRun, 1)
    assert heard(tail) == [(2, 0), (4, 0), (6, 0), *((step, 1) for step in range(8, 22, 2))]
