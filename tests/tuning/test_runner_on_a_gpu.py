"""A trial on a GPU whose step cannot be captured."""

from dataclasses import replace
from pathlib import Path

import pytest
import trainables
from runner_runs import plans, search

from pkd_tune.tuning import cluster
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext

ON_A_GPU = Resources(gpus=1)


@pytest.mark.gpu
def test_a_loss_that_waits_for_the_gpu_ends_its_trial_and_not_the_search(
    context: TrialContext, tiny_space: Path, tmp_path: Path
) -> None:
    """CUDA cannot be used in that process any more: the next trial has a new one, where steps are captured again."""
    context = replace(context, resources=ON_A_GPU, scratch=tmp_path / "scratch")
    studies = Studies(tmp_path / "study.log", plans(tiny_space, (2, 3)), early_stopping=False)
    with cluster.local_cluster(ON_A_GPU, tmp_path / "log"):
        rows = search(context, studies, trainables.reading_a_loss_back)
    assert [row["state"] for row in rows] == ["failed", "complete", "complete"]
    assert "started in a new process: the trial before ended with" in (tmp_path / "run.log").read_text()
