"""Checkpoints of unfinished training runs, from which they resume with the same result, and safetensors files.

A checkpoint is one safetensors file: weights, the best weights so far, the optimiser's moments and the states of the
random generators as tensors; everything else as JSON in its header.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pkd_tune.files import atomic_path

logger = logging.getLogger(__name__)

WRITING_FRACTION = 0.04
"""Largest share of a training's time that may go into writing checkpoints."""

FIRST_BYTES_PER_SECOND = 200_000_000
"""Assumed speed of the first write; later ones are taken to last as long as the one before."""

FORMAT = 2
"""Version of what a checkpoint holds; others are ignored."""

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
        self._cost: float | None = None

    def load(self, expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns tensors on the CPU and facts; None where the file is missing or this training cannot continue it.

        A file of another device is continued: the states of random generators are in any case those of the CPU and of
        the GPU that it was written on, if it was one.

        Args:
            expected: The tensors that it must hold besides the generators' states, for their names and shapes.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError) as error:
            logger.warning("%s is damaged (%s): the training begins anew", self.path, error)
            return None
        shapes = {name: tensor.shape for name, tensor in tensors.items() if name not in (_GENERATOR, _CUDA_GENERATOR)}
        if facts.get("format") != FORMAT or shapes != {name: tensor.shape for name, tensor in expected.items()}:
            logger.warning("%s is of another version or model: the training begins anew", self.path)
            return None
        return tensors, facts

    def is_due(self, size: int) -> bool:
        """Returns whether enough time has passed since the last write for another to stay below `WRITING_FRACTION`.

        Args:
            size: Bytes that would be written.
        """
        cost = size / FIRST_BYTES_PER_SECOND if self._cost is None else self._cost
        return time.perf_counter() - self._written_at >= cost / WRITING_FRACTION

    def write(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replaces the file atomically.

        Args:
            tensors: By name.
            facts: Everything else; must be JSON.

        Raises:
            OSError: When it cannot be written; the earlier file stays.
        """
        started = time.perf_counter()
        write_tensors(self.path, tensors, {_FACTS: json.dumps({**facts, "format": FORMAT})})
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
    """Restores what `generator_states()` returned, on this device or another.

    A GPU whose generator has no state there is seeded with the CPU generator's next number: not with the training's
    seed, with which dropout would repeat the masks of the first epoch.
    """
    torch.set_rng_state(states[_GENERATOR])
    if device.type != "cuda":
        return
    if _CUDA_GENERATOR in states:
        torch.cuda.set_rng_state(states[_CUDA_GENERATOR], device)
    else:
        torch.cuda.manual_seed(int(torch.randint(2**63 - 1, ())))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimiser's moments as `optimizer.<number>.<moment>`, numbered in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restores what `optimizer_tensors()` returned, in place, because captured steps use the moments."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            optimizer.state[parameters[int(number)]][name].copy_(tensor)
