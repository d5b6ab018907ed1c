"""Checkpoints of unfinished trainings, from which they resume with the same result, and safetensors files.

A checkpoint is one safetensors file: weights, the best weights so far, the optimiser's moments and the states of the
random generators as tensors; everything else as JSON in its header.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pkd_tune.files import atomic_path

WRITING_SHARE = 0.04
"""Largest share of a training's time that may go into writing checkpoints."""

_FACTS = "facts"
_GENERATOR, _CUDA_GENERATOR = "generator.cpu", "generator.cuda"


class Checkpoint:
    """The checkpoint file of a training, and how often it may be written."""

    def __init__(self, path: Path, written: Callable[[], None] = lambda: None) -> None:
        """Names the file, which need not exist.

        Args:
            path: The file.
            written: Called after every write; its duration counts as writing.
        """
        self.path = path
        self._written = written
        self._written_at = time.perf_counter()
        self._cost = 0.0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns tensors on the CPU and facts; None where the file is missing or damaged."""
        try:
            with safe_open(self.path, framework="pt") as file:
                names = file.keys()
                return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()[_FACTS])
        except (FileNotFoundError, SafetensorError):
            return None

    def is_due(self) -> bool:
        """Tells whether enough time has passed since the last write for another to stay below `WRITING_SHARE`.

        The first is always due: it measures how long a write takes.
        """
        return time.perf_counter() - self._written_at >= self._cost / WRITING_SHARE

    def write(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replaces the file atomically.

        Args:
            tensors: By name.
            facts: Everything else; must be JSON.

        Raises:
            OSError: When it cannot be written; the earlier file stays.
        """
        started = time.perf_counter()
        write_tensors(self.path, tensors, {_FACTS: json.dumps(facts)})
        self._written()
        self._written_at = time.perf_counter()
        self._cost = self._written_at - started

    def delete(self) -> None:
        """Removes the file if it exists."""
        self.path.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str] | None = None) -> None:
    """Writes a safetensors file atomically and durably: it is synchronised to disk before this returns.

    Args:
        path: The file; its folder is made where it is missing.
        tensors: By name.
        facts: Metadata for the file's header.

    Raises:
        OSError: When the file cannot be written; an earlier one stays.
    """
    with atomic_path(path, durable=True) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, facts)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Returns the states of PyTorch's random generators that a training on this device uses."""
    states = {_GENERATOR: torch.get_rng_state()}
    if device.type == "cuda":
        states[_CUDA_GENERATOR] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Restores what `generator_states()` returned."""
    torch.set_rng_state(states[_GENERATOR])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[_CUDA_GENERATOR], device)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimiser's moments as `optimizer.<number>.<moment>`, numbered in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restores what `optimizer_tensors()` returned; existing moments in place, because captured steps use them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            parameter = parameters[int(number)]
            moments = optimizer.state[parameter]
            if name in moments:
                moments[name].copy_(tensor)
            else:
                moments[name] = tensor.to(parameter.device, copy=True)
