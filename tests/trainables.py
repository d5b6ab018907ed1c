"""Trainables for tests of the runner: instant ones, and real ones that something happens to.

They run in Ray's workers, which cannot import this folder, so that they travel by value.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from ray import cloudpickle, tune

from pkd_tune.tuning.ray_bridge import trial_id_of
from pkd_tune.tuning.trial import TrialContext, run_trial

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _report(step: int, of: int, score: float) -> None:
    losses = {"total": 1.0, "ce": 1.0, "kd": 0.0, "pt": 0.0}
    details = {
        "metrics": {"f1": score, "accuracy": score, "score": score},
        "epoch": step / 2,
        "loss": losses,
        "gradient_norm": 1.0,
        "learning_rate": 1e-5,
        "watched": {"agreement": 90.0},
        "degenerate": False,
    }
    tune.report({"evaluation": step, "evaluations": of, "score": score, "details": json.dumps(details)})


def instant(config: dict[str, Any], *, context: TrialContext) -> None:
    """Scores best near alpha 0.5, deeper students better; says nothing else."""
    for step in range(1, 4):
        _report(step, 3, 60 + 10 * config["depth"] - 20 * abs(config["settings"]["alpha"] - 0.5) + step)
    tune.report({"finished": "null"})


def together(config: dict[str, Any], *, context: TrialContext) -> None:
    """Notes which GPU it sees, and waits until sixteen trials are there at once."""
    here = context.artifacts.folder / f"{trial_id_of(config).name}.here"
    here.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    until = time.monotonic() + 1200
    while len(list(context.artifacts.folder.glob("*.here"))) < 16 and time.monotonic() < until:
        time.sleep(0.1)
    instant(config, context=context)


def killed_then_hasty(config: dict[str, Any], *, context: TrialContext) -> None:
    """The real thing, but the process is killed after the first epoch of the first trial; the third has no time."""
    marker = context.artifacts.folder.parent / f"{trial_id_of(config).name}.killed"
    if config["trial"] == 0 and not marker.exists():
        import threading

        def kill_later() -> None:
            while f"{trial_id_of(config).name}.training" not in context.artifacts.names():
                time.sleep(0.001)
            marker.touch()
            if context.artifacts.uri is None:
                context.artifacts.path(".tmp1Ab2Cd").touch()  # as if it had been writing weights
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill_later, daemon=True).start()
    run_trial(config, context=replace(context, timeout=0.05) if config["trial"] == 2 else context)


def killed_when_done(config: dict[str, Any], *, context: TrialContext) -> None:
    """Takes an instant; after the first trials, the process is killed as Ray makes it ready for its next."""
    from ray.tune.trainable import FunctionTrainable

    marker = context.artifacts.folder.parent / f"{trial_id_of(config).name}.killed"

    def die(self: Any, new_config: dict[str, Any]) -> None:
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def replace_method(trainable: Any) -> None:
        trainable.reset_config = die
        for derived in trainable.__subclasses__():  # into which Ray has copied the method
            replace_method(derived)

    if config["trial"] < 2:
        replace_method(FunctionTrainable)
    instant(config, context=context)


_left_behind: list[bytearray] = []


def growing(config: dict[str, Any], *, context: TrialContext) -> None:
    """The real thing, but the fourth trial finds memory that was not freed."""
    if config["trial"] == 3:
        _left_behind.append(bytearray(b"x") * 900_000_000)
    run_trial(config, context=context)


def filling_the_disk(config: dict[str, Any], *, context: TrialContext) -> None:
    """The real thing, but the second trial finds the disk full."""
    if config["trial"] == 1:
        with (context.artifacts.folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
    run_trial(config, context=context)


def short_of_memory(config: dict[str, Any], *, context: TrialContext) -> None:
    """The real thing on a device that holds 8 examples of a batch of 16 in trial 0, and fewer in trial 1.

    It notes how many threads a model had.
    """
    import torch

    from pkd_tune.distillation import train_step
    from pkd_tune.encoders import modeling

    def run(model: Any, batch: Any) -> Any:
        if model.training and len(batch.labels_B) > (8 if config["trial"] == 0 else 7):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return modeling.run(model, batch)

    with mock.patch.object(train_step, "run", run):
        run_trial(config, context=context)
    (context.artifacts.folder.parent / "threads").write_text(str(torch.get_num_threads()))


def reading_a_loss_back(config: dict[str, Any], *, context: TrialContext) -> None:
    """The real thing, but the host reads the loss of trial 0, for which it waits for the GPU."""
    from pkd_tune.distillation import losses, train_step

    def pkd_loss(*args: Any, **named: Any) -> losses.LossParts:
        parts = losses.pkd_loss(*args, **named)
        assert float(parts.total) > 0
        return parts

    if config["trial"] == 0:
        with mock.patch.object(train_step, "pkd_loss", pkd_loss):
            run_trial(config, context=context)
    else:
        run_trial(config, context=context)


def waiting(config: dict[str, Any], *, context: TrialContext) -> None:
    """Waits for the file `go` beside the artifacts, which a search clears of what it does not know."""
    while not (context.artifacts.folder.parent / "go").exists():
        time.sleep(0.1)
    instant(config, context=context)


def patient(config: dict[str, Any], *, context: TrialContext) -> None:
    """Ten steps that are kept in a file; each takes as long as it takes to see the file `go`, or a moment."""
    done = context.artifacts.folder / f"{trial_id_of(config).name}.steps"
    first = int(done.read_text()) + 1 if done.exists() else 1
    for step in range(first, 11):
        _note_node(context.artifacts.folder, config)
        time.sleep(0.3)
        _report(step, 10, 50.0 + step)
        done.write_text(str(step))
    tune.report({"finished": "null"})


def _note_node(folder: Path, config: dict[str, Any]) -> None:
    import ray

    node = ray.get_runtime_context().get_node_id()
    with (folder / f"{trial_id_of(config).name}.nodes").open("a") as file:
        file.write(f"{node}\n")
