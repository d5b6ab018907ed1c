"""Callbacks of Ray that send results to experiment-tracking services."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback

KEPT = 4
"""Processes of trials that have ended which are kept, so that they can end what they write."""


def service_callbacks(names: Sequence[str], run_dir: Path) -> list[tune.Callback]:
    """Returns the callbacks of services.

    Args:
        names: `wandb` or `mlflow`, whose libraries are installed.
        run_dir: The run's folder, after which experiments are named.
    """
    callbacks: list[tune.Callback] = []
    if "wandb" in names:
        callbacks.append(WandbLogger(run_dir))
    if "mlflow" in names:
        callbacks.append(MLflowLoggerCallback(experiment_name=f"pkd_tune {run_dir.parent.name} {run_dir.name}"))
    return callbacks


class WandbLogger(WandbLoggerCallback):
    """Ray's callback for Weights & Biases, in whose offline mode it would lose the last scores of trials.

    Ray copies a trial's folder as the trial ends, when wandb has not yet written all: its files lie in the run's folder
    instead. And it kills the process that writes them as soon as wandb.finish returns, which does not wait for the end
    of the file.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(project="pkd_tune", group=run_dir.name, dir=str(run_dir))
        self._ended: list[Any] = []

    def _cleanup_logging_actor(self, trial: Any) -> None:
        del self._trial_queues[trial], self._trial_logging_futures[trial]
        self._ended.append(self._trial_logging_actors.pop(trial))
        while len(self._ended) > KEPT:
            ray.kill(self._ended.pop(0))
