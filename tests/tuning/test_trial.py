"""A trial in this process, without Ray, which only hears of it."""

import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune

from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import used_tokens
from pkd_tune.distillation.train_step import BatchTooLargeError, TrainStep
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier
from pkd_tune.tuning import trial_process as process
from pkd_tune.tuning.trial import TrialContext, run_trial

ALLOCATED = 1_000_000_000
"""Bytes on a GPU that is made up."""


def in_its_thread(config: dict[str, Any], context: TrialContext) -> None:
    """As in Ray: what a trial sets of its thread, such as its cores, ends with it."""
    with suppress(SystemExit):
        run_trial(config, context=context)


@pytest.mark.parametrize(("how", "rate"), [("stopped", 1e-3), ("diverged", 1e30)])
def test_what_a_trial_keeps_is_expected_however_it_ends(
    how: str, rate: float, context: TrialContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reported: list[dict[str, Any]] = []

    def report(result: dict[str, Any]) -> None:
        reported.append(result)
        raise SystemExit(0)  # as Ray does when the trial shall stop

    settings: dict[str, Any] = {"alpha": 0.5, "beta": 10.0, "temperature": 10.0, "learning_rate": rate}
    settings |= {"strategy": "skip", "normalize": True}
    config = {"depth": 1, "method": "pkd", "stage": "search", "trial": 0, "seed": None, "settings": settings}
    monkeypatch.setattr(tune, "report", report)
    process.set_expected_gpu_bytes(0)
    thread = threading.Thread(target=in_its_thread, args=(config, replace(context, scratch=tmp_path / "scratch")))
    thread.start()
    thread.join()
    (result,) = reported
    assert ("failure" in result) == (how == "diverged")
    student = cut_to_layers(load_classifier(context.search.data.student_dir, TASKS["MRPC"].labels, seed=0), (1,))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: ALLOCATED)
    _, held = process.memory()
    data = context.search.data
    splits = load_features(data.task, data.data_dir, data.student_dir, data.max_length)
    tokens = used_tokens([splits["train"], splits["dev"]])
    assert ALLOCATED - held == TrainStep(student, tokens=tokens).kept_bytes()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, BatchTooLargeError])
@pytest.mark.parametrize("own", [10, 70])
def test_a_gpu_that_is_full_of_other_things_ends_the_search_and_fails_no_trial(
    own: int, error: type[Exception], context: TrialContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where another program takes its memory, before the model is there or in a step. One too large itself fails."""
    reported: list[dict[str, Any]] = []

    def no_room(*args: Any, **named: Any) -> None:
        raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")

    settings: dict[str, Any] = {"alpha": 0.5, "beta": 10.0, "temperature": 10.0, "learning_rate": 1e-3}
    settings |= {"strategy": "skip", "normalize": True}
    config = {"depth": 2, "method": "pkd", "stage": "search", "trial": 1, "seed": None, "settings": settings}
    monkeypatch.setattr(tune, "report", reported.append)
    monkeypatch.setattr(torch.nn.Module, "to", no_room)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: own)
    monkeypatch.setattr(process, "_retired", None)  # which the trial sets, and other tests must not find
    thread = threading.Thread(target=in_its_thread, args=(config, replace(context, scratch=tmp_path / "scratch")))
    thread.start()
    thread.join()
    (result,) = reported
    assert ("failure" in result, "machine" in result) == (own == 70, own == 10)
    assert "the GPU is full of other programs" in result.get("machine", "the GPU is full of other programs")
