"""What the commands that run one model take."""

from pkd_tune.workflows.checks import Problems
from pkd_tune.workflows.inputs import find_device


def test_a_command_that_runs_one_model_refuses_several_gpus() -> None:
    problems = Problems()
    assert find_device(8, "fp32", problems) is None
    assert problems.found == ["--gpus 8: this command runs one model, on one GPU; give --gpus 1"]
    problems = Problems()
    assert find_device(0, "fp32", problems) is not None
    assert problems.found == []
