"""Captured steps against eager ones before a search, and what a trial takes, with emulated CUDA graphs."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from emulated_graphs import EmulatedStream, emulated_graphs
from requests_of import search_request

from pkd_tune.config import SearchConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import Split
from pkd_tune.distillation import teacher
from pkd_tune.distillation.student import ModelPool
from pkd_tune.distillation.train_step import TrainStep
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier
from pkd_tune.workflows.distill import distill, resolve_distill
from pkd_tune.workflows.finetune import finetune, resolve_finetune
from pkd_tune.workflows.gpu_check import (
    in_own_process,
    may_capture,
    measure_trial,
    structures,
    train_as_a_trial,
    unequal_finetuning,
    unequal_steps,
    why_not_captured,
)
from pkd_tune.workflows.options import DistillOptions, FinetuneOptions, make_options
from pkd_tune.workflows.timing import TIMED_STEPS, time_student

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny_data: Path, tiny_space: Path, tmp_path: Path) -> SearchConfig:
    """Of a model without dropout, which waits on a CPU for the seed of its generator."""
    flags = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny", "--depths", "1"]
    config = search_request(
        *flags, "--space", str(tiny_space), "--methods", "pkd-skip", "kd", "--control-trials", "1"
    ).config
    student = Path(shutil.copytree(config.data.student_dir, tmp_path / "student"))
    described = json.loads((student / "config.json").read_text())
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (student / "config.json").write_text(json.dumps({**described, **without}))
    return replace(config, data=replace(config.data, student_dir=student))


@pytest.fixture
def splits(config: SearchConfig) -> dict[str, Split]:
    data = config.data
    return load_features(TASKS["MRPC"], data.data_dir, data.student_dir, data.max_length)


def test_captured_steps_that_equal_eager_ones_are_used(config: SearchConfig, splits: dict[str, Split]) -> None:
    stream = EmulatedStream()
    assert unequal_steps(config, splits, CPU, stream.capture) is None
    assert stream.captures >= 3  # of two structures of PKD, and KD
    assert stream.replays == 9


def test_a_replay_that_does_something_else_is_told(config: SearchConfig, splits: dict[str, Split]) -> None:
    def capture(work: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    reason = unequal_steps(config, splits, CPU, capture)
    assert reason is not None
    assert reason.startswith("loss total of step 2 of a student of 1 layer is 0 captured and ")


def test_the_fine_tuning_of_the_teacher_is_compared_too(config: SearchConfig) -> None:
    config = replace(config, teacher_trainings=(replace(config.teacher_trainings[0], seed=7),))  # not yet done
    stream = EmulatedStream()
    assert unequal_finetuning(config, 4, CPU, stream.capture) is None
    assert stream.captures >= 1
    assert stream.replays == 3
    reason = unequal_finetuning(config, 4, CPU, lambda work: lambda: None)
    assert reason is not None
    assert reason.startswith("loss total of step 2 of the fine-tuning of 4 layers is 0 captured and ")


def test_a_model_that_is_fine_tuned_already_is_not_compared(config: SearchConfig, tmp_path: Path) -> None:
    data = replace(config.data, data_dir=Path(shutil.copytree(config.data.data_dir, tmp_path / "data")))
    of_one_epoch = replace(config, data=data, teacher_trainings=(replace(config.teacher_trainings[0], epochs=1),))
    splits = load_features(data.task, data.data_dir, data.teacher_dir, data.max_length)
    teacher.finetune(
        data.task,
        splits,
        data.teacher_dir,
        2,
        teacher.finetuned_cache(data),
        of_one_epoch.teacher_trainings,
        CPU,
        lambda evaluation: None,
        max_length=data.max_length,
    )
    stream = EmulatedStream()
    assert unequal_finetuning(of_one_epoch, 2, CPU, stream.capture) is None
    assert stream.captures == 0


def test_every_structure_of_the_loss_is_compared() -> None:
    found = structures(["pkd", "kd", "finetuned", "kd"], 3)
    assert [(each.strategy, each.normalize) for each in found[:4]] == [
        ("skip", True),
        ("skip", False),
        ("last", True),
        ("last", False),
    ]
    assert [(each.alpha, each.beta) for each in found[4:]] == [(0.5, 0.0), (0.0, 0.0)]
    assert [each.strategy for each in structures(["pkd-last"], 3)] == ["last", "last"]


def test_a_trial_is_measured_with_steps_of_every_length_and_an_eager_one_beside_them(
    config: SearchConfig, splits: dict[str, Split]
) -> None:
    """In a task that has less than a batch of its longest examples."""
    size, lengths = config.student_training.batch_size, splits["train"].lengths
    assert (lengths == lengths.max()).sum() < size
    student = cut_to_layers(load_classifier(config.data.student_dir, TASKS["MRPC"].labels, seed=0), (1,))
    train_step = TrainStep(student, graphs=emulated_graphs())
    shapes: list[tuple[int, ...]] = []
    student.bert.embeddings.word_embeddings.register_forward_pre_hook(
        lambda module, inputs: shapes.append(tuple(inputs[0].shape)) if module.training else None
    )
    train_as_a_trial(config, splits, CPU, ModelPool({(1, False, ()): train_step}, graphs=train_step.graphs))
    shortest, longest = (-(-int(length) // 8) * 8 for length in (lengths.min(), lengths.max()))
    of_captures = [(size, length) for length in range(longest, shortest - 1, -8)]
    structures_of_graphs = 2  # at depth 1 those of PKD with normalize, and both other ones
    assert len(train_step.graph_inputs()) == structures_of_graphs * len(of_captures)
    assert sorted(shapes) == sorted(
        [(size - 1, longest)] * 2 * 3 + structures_of_graphs * [(size, longest), *of_captures]
    )


def test_nothing_is_captured_in_the_epoch_that_is_timed(config: SearchConfig, splits: dict[str, Split]) -> None:
    stream, graphs = EmulatedStream(), emulated_graphs()
    captured_at: list[int] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        captured_at.append(stream.replays)
        return stream.capture(work)

    graphs.capture = capture
    small = replace(config, student_training=replace(config.student_training, batch_size=4))
    time_student(small, splits, 1, CPU, graphs)
    assert captured_at
    assert set(captured_at) == {0}
    assert stream.replays == 2 * TIMED_STEPS["cpu"] - 1


def test_what_is_tried_in_a_process_of_its_own_may_fail(config: SearchConfig) -> None:
    """Here for want of a GPU."""
    assert in_own_process(len, "four") == 4
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    reason = why_not_captured(config)
    assert reason is not None
    assert "\n" not in reason
    assert reason.split(":")[0] in ("RuntimeError", "AssertionError")


def test_a_check_that_hangs_is_ended() -> None:
    with pytest.raises(TimeoutError, match="nothing was found out in 1 seconds"):
        in_own_process(time.sleep, 1000, limit=1.0)


@pytest.mark.slow
def test_commands_say_before_they_train_why_steps_are_eager(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here for want of the GPU that they are told to train on."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    usual = {"task": "MRPC", "gpus": 0, "max_length": 32, "data_dir": shutil.copytree(tiny_data, tmp_path / "data")}
    of_student = {"teacher": "tiny", "method": "kd", "layers": 2}
    finetuning = resolve_finetune(make_options(FinetuneOptions, {**usual, "model": "tiny"}), "")
    distilling = resolve_distill(make_options(DistillOptions, {**usual, **of_student}), "")
    commands: tuple[Callable[[], object], ...] = (
        lambda: finetune(replace(finetuning, device="cuda")),
        lambda: distill(replace(distilling, device="cuda")),
    )
    for train in commands:
        caplog.clear()
        with pytest.raises((RuntimeError, AssertionError)):
            train()
        (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert line.startswith("training steps are not captured as CUDA graphs, which is slower: ")


def test_nothing_is_checked_where_no_steps_would_be_captured(config: SearchConfig) -> None:
    assert not may_capture(config, asked=False, device="cuda")
    assert not may_capture(config, asked=True, device="cpu")


@pytest.mark.gpu
def test_captured_steps_are_used_on_this_gpu(config: SearchConfig) -> None:
    assert why_not_captured(config) is None


@pytest.mark.gpu
def test_measuring_leaves_a_gpu_to_the_trials(config: SearchConfig) -> None:
    torch.zeros((), device="cuda")
    before, _ = torch.cuda.mem_get_info()
    assert 0 < measure_trial(config, captured=True).gpu < 3 * 10**9
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 50_000_000
