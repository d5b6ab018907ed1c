"""The state of an unfinished training on disk, from which it goes on as if it had never stopped.

One safetensors file: weights, the best weights so far, the optimiser's moments and the generators' states as tensors;
everything else as JSON in its header.
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
"""Most of a training's time that may go into writing its state."""

_FACTS = "facts"
_GENERATOR, _CUDA_GENERATOR = "generator.cpu", "generator.cuda"


class StateFile:
    """Where a training keeps its state, and how often it may be written."""

    def __init__(self, path: Path, written: Callable[[], None] = lambda: None) -> None:
        """Names the file.

        Args:
            path: The file.
            written: Called whenever it has been written; what that takes counts as writing.
        """
        self.path = path
        self._written = written
        self._written_at = time.perf_counter()
        self._cost = 0.0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns tensors on the CPU and facts; None where there is no file, or not a whole one."""
        try:
            with safe_open(self.path, framework="pt") as file:
                names = file.keys()
                return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()[_FACTS])
        except (FileNotFoundError, SafetensorError):
            return None

    def is_due(self) -> bool:
        """Tells whether enough time has gone by since the last writing for another to stay below `WRITING_SHARE`.

        The first is always due; what writing costs here is known only then.
        """
        return time.perf_counter() - self._written_at >= self._cost / WRITING_SHARE

    def write(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replaces the file, whole or not at all.

        Raises:
            OSError: When the disk is full; nothing is left of the attempt, and the earlier file stays.
        """
        started = time.perf_counter()
        write_tensors(self.path, tensors, {_FACTS: json.dumps(facts)})
        self._written()
        self._written_at = time.perf_counter()
        self._cost = self._written_at - started

    def delete(self) -> None:
        """Removes the file, where there is one."""
        self.path.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all; once this returns, a power cut does not take it away.

    Args:
        path: The file; its folder is made where it is missing.
        tensors: By name.
        facts: For the file's header.

    Raises:
        OSError: When the disk is full or the folder cannot be written to; nothing is left of the attempt.
    """
    try:
        with atomic_path(path, durable=True) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, facts)
    except SafetensorError as error:  # its library wraps what the system said
        raise OSError(f"{error}: {path}") from error  # the reason first: reports shorten what is long


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Returns the states of PyTorch's generators that a training on this device draws from."""
    states = {_GENERATOR: torch.get_rng_state()}
    if device.type == "cuda":
        states[_CUDA_GENERATOR] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Undoes whatever was drawn since `generator_states()`."""
    torch.set_rng_state(states[_GENERATOR])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[_CUDA_GENERATOR], device)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimiser's moments as `optimizer.<number>.<moment>`, numbered in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` returned, in place where there are moments: captured steps hold on to them."""
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
