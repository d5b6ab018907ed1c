"""CUDA graphs emulated on a CPU, for tests of captured training steps.

A capture records the operations of a step with the tensors they use, and executes nothing as far as anything outside
can tell. A replay executes these operations on that memory, without the step's Python. As with CUDA graphs,

- a step that waits for the device, such as by `item()`, cannot be captured;
- memory that was allocated during a capture holds garbage before and after a replay;
- a graph that is destroyed frees the workspaces of its stream, and the other graphs there can no longer be replayed.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pkd_tune.distillation.train_step import Graphs

SYNCHRONISING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select", "_unique2"}
NAN = 0xFF  # in every byte: NaN as a float, -1 as an integer


class EmulatedStream:
    """Captures work as graphs of one stream; counts captures and replays."""

    def __init__(self) -> None:
        self.live: WeakSet[EmulatedGraph] = WeakSet()
        self.captures = 0
        self.replays = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        graph = EmulatedGraph(self, work)
        self.live.add(graph)
        return graph.replay


def emulated_graphs() -> Graphs:
    return Graphs(EmulatedStream().capture)


class EmulatedGraph:
    def __init__(self, stream: EmulatedStream, work: Callable[[], None]) -> None:
        self.stream = stream
        self.stale = False
        recorder = Recorder()
        generator = torch.get_rng_state()
        try:
            with recorder:
                work()
        finally:
            for storage, before in recorder.outside.values():
                _bytes_of(storage).copy_(before)
            torch.set_rng_state(generator)
        self.operations = recorder.operations
        self.pool = [_bytes_of(storage) for storage in recorder.inside.values()]

    def __del__(self) -> None:
        for other in self.stream.live:
            other.stale = True

    def replay(self) -> None:
        if self.stale:
            raise RuntimeError("CUDA error: an illegal memory access was encountered: the stream's workspace was freed")
        self.stream.replays += 1
        self._fill_with_garbage()
        with torch.no_grad():
            for function, arguments, named, allocated in self.operations:
                results = function(*arguments, **named)
                if allocated:
                    for kept, result in zip(allocated, _tensors(results), strict=True):
                        if kept is not None:
                            kept.copy_(result)
        self._fill_with_garbage()

    def _fill_with_garbage(self) -> None:
        for memory in self.pool:
            memory.fill_(NAN)


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self.inside: dict[int, torch.UntypedStorage] = {}
        """The storages that the work allocates, kept alive: the graph's private memory."""
        self.outside: dict[int, tuple[torch.UntypedStorage, Tensor]] = {}
        """The other storages that it writes to, and what they held before."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function._schema.name.removeprefix("aten::") in SYNCHRONISING:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({function})")
        for i, argument in enumerate(function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in _tensors(kwargs.get(argument.name, args[i] if i < len(args) else None)):
                    storage = tensor.untyped_storage()
                    if storage._cdata not in self.inside and storage._cdata not in self.outside:
                        self.outside[storage._cdata] = storage, _bytes_of(storage).clone()
        results = function(*args, **kwargs)
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        allocated: list[Tensor | None] = []
        for tensor in _tensors(results):
            storage = tensor.untyped_storage()
            allocated.append(None if storage._cdata in given else tensor.detach())
            if storage._cdata not in given:
                self.inside[storage._cdata] = storage
        self.operations.append((function, args, kwargs, allocated if any(x is not None for x in allocated) else []))
        return results


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)
