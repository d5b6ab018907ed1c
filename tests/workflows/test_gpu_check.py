"""Captured steps against eager ones before a search, and what a trial takes, with emulated CUDA graphs."""

import json
import shutil
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
from pkd_tune.distillation.student import ModelPool
from pkd_tune.distillation.train_step import TrainStep
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier
from pkd_tune.workflows.gpu_check import (
    in_own_process,
    measure_trial,
    structures,
    train_as_a_trial,
    unequal_steps,
    why_not_captured,
)
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
    train_as_a_trial(config, splits, CPU, ModelPool({(1, False): train_step}, graphs=train_step.graphs))
    shortest, longest = (-(-int(length) // 8) * 8 for length in (lengths.min(), lengths.max()))
    of_captures = [(size, length) for length in range(longest, shortest - 1, -8)]
    assert len(train_step.graph_inputs()) == len(of_captures)
    assert sorted(shapes) == sorted([(size - 1, longest)] * 2 + [(size, longest)] + of_captures)


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
