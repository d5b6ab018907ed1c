"""What the commands that run one model take."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pkd_tune.config import DataConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.encoders.families import FAMILIES
from pkd_tune.workflows.checks import Problems
from pkd_tune.workflows.distill import distill
from pkd_tune.workflows.dry_run import plan
from pkd_tune.workflows.export import export
from pkd_tune.workflows.finetune import finetune
from pkd_tune.workflows.inputs import find_device, forward_pass_text
from pkd_tune.workflows.predict import predict
from pkd_tune.workflows.search import search


def test_a_command_that_runs_one_model_refuses_several_gpus() -> None:
    problems = Problems()
    assert find_device(8, "fp32", problems) is None
    assert problems.found == ["--gpus 8: this command runs one model, on one GPU; give --gpus 1"]
    problems = Problems()
    assert find_device(0, "fp32", problems) is not None
    assert problems.found == []


@pytest.mark.parametrize("command", [search, plan, finetune, distill, predict, export])
def test_threads_of_a_command_are_no_more_than_the_cores_it_may_use(
    command: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it looks at what is requested, which is nothing here."""
    usual = torch.get_num_threads()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    try:
        torch.set_num_threads(2)
        with pytest.raises(AttributeError):
            command(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(usual)


def test_the_plan_says_what_a_general_forward_pass_costs(tmp_path: Path) -> None:
    folders = {}
    for kind in ("deberta-v2", "bert"):
        folders[kind] = tmp_path / kind
        folders[kind].mkdir()
        (folders[kind] / "config.json").write_text(json.dumps({"model_type": kind}))
    data = DataConfig(
        task=TASKS["RTE"], data_dir=tmp_path, teacher_dir=folders["deberta-v2"], student_dir=folders["bert"]
    )
    factor = FAMILIES["deberta-v2"].slowdown
    assert forward_pass_text(data) == (
        f"Forward pass: teacher (DeBERTa-v2/v3) transformers, about {factor:g} x slower per example than BERT's fast "
        "one, students (BERT) fast."
    )


def test_each_family_without_a_fast_forward_pass_has_its_factor_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for family in FAMILIES.values():
        assert (family.slowdown is None) == (family.paths is not None)
        if family.slowdown is not None:
            (row,) = [line for line in text.splitlines() if line.startswith(f"| {family.title} | general |")]
            assert row.endswith(f"| {family.slowdown:.1f} |")
