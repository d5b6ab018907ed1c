"""What is timed are steps: not what is done once, however large the task."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import TYPES, write_model
from requests_of import search_request
from tiny import write_bert

from pkd_tune.config import DistillConfig, SearchConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.student import ModelPool
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier
from pkd_tune.workflows import timing

CPU = torch.device("cpu")


@pytest.fixture
def task(tiny_data: Path, tiny_space: Path) -> tuple[SearchConfig, Mapping[str, Split]]:
    flags = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny"]
    config = search_request(*flags, "--space", str(tiny_space)).config
    features = load_features(TASKS["MRPC"], tiny_data, config.data.student_dir, config.data.max_length)
    return config, selection_splits(TASKS["MRPC"], features, "dev")


@pytest.fixture
def loading_takes_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the clock an hour forward whenever a model is loaded, or a train step is made ready."""
    from pkd_tune.distillation import student

    hours = 0

    def slow(work: Any) -> Any:
        def wrapped(*args: Any, **named: Any) -> Any:
            nonlocal hours
            hours += 1
            return work(*args, **named)

        return wrapped

    monkeypatch.setattr(timing, "load_classifier", slow(load_classifier))
    monkeypatch.setattr(student, "_train_step", slow(student._train_step))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + 3600 * hours))


@pytest.mark.usefixtures("loading_takes_an_hour")
def test_what_is_done_once_is_not_scaled_to_the_epoch(task: tuple[SearchConfig, Mapping[str, Split]]) -> None:
    config, splits = task
    small = replace(config, student_training=replace(config.student_training, batch_size=2))  # part of the split
    cost = timing.time_student(small, splits, 2, CPU)
    assert 0 < cost.epoch < 600
    assert 0 < cost.evaluation < 600
    assert 0 < timing.time_teacher(config, splits, CPU) < 600


def test_a_student_that_is_narrower_than_its_teacher_is_timed_with_its_projection(
    task: tuple[SearchConfig, Mapping[str, Split]], tmp_path: Path
) -> None:
    config, splits = task
    write_bert(tmp_path / "narrow", width=16)
    narrow = replace(config, data=replace(config.data, student_dir=tmp_path / "narrow"))
    loss = DistillConfig(student_layers=2, alpha=0.5, beta=100, temperature=10, strategy="skip", normalize=True)
    model_pool = ModelPool()
    part = timing.first_examples(splits["train"], 32)
    timing.train_student(narrow, splits, part, loss, torch.device("cpu"), model_pool)
    assert [*model_pool.train_steps] == [(2, True, ())]


@pytest.mark.parametrize("kind", TYPES)
def test_every_family_can_be_without_dropout(kind: str, tmp_path: Path) -> None:
    write_model(tmp_path / kind, kind)
    model = load_classifier(tmp_path / kind, TASKS["MRPC"].labels, seed=0)
    timing.remove_dropout(model)
    student = cut_to_layers(model, (1,)).train()
    tokens = torch.arange(2, 10)[None]
    first, second = (student(input_ids=tokens).logits for _ in range(2))
    assert torch.equal(first, second)
    model = load_classifier(tmp_path / kind, TASKS["MRPC"].labels, seed=0)
    usual = cut_to_layers(model, (1,)).train()
    assert not torch.equal(*(usual(input_ids=tokens).logits for _ in range(2)))
