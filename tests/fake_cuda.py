"""Trains a student on fake CUDA tensors, and prints as JSON what waited for the device, and where.

    python tests/fake_cuda.py LIBRARY few|resident|memory

Batches are gathered from data on the GPU (`resident`), or come from pinned memory of the host (`memory`):
`few` trains once of each, the others with every structure of the loss.

Fake tensors have shapes and devices, and no values; an operation on tensors of two devices is an error. LIBRARY is
compiled from `GUARD`: autograd asks for a guard of the device, which a torch without CUDA does not have. Captured work
is run once at the capture, and again instead of a replay. What only a driver can do is replaced here; the training
itself is the real one.
"""

import collections
import contextlib
import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>
namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, FakeGuardImpl<DeviceType::CUDA>); }
"""
FREE = 80 * 10**9

seen: collections.Counter[str] = collections.Counter()
phases = ["outside"]
pinned: dict[int, Tensor] = {}
real = {name: getattr(Tensor, name) for name in ("item", "tolist", "numpy", "cpu", "to", "copy_", "__bool__")}


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    phases.append(name)
    try:
        yield
    finally:
        phases.pop()


def note(what: str) -> None:
    seen[f"{phases[-1]}: {what}"] += 1


def on_gpu(tensor: Any) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.device.type == "cuda"


def values(tensor: Tensor) -> np.ndarray:
    kind = np.float32 if tensor.dtype.is_floating_point else np.int64
    return np.full(tuple(tensor.shape), 0.5).astype(kind)


def waiting(name: str, answer: Callable[[Tensor], Any]) -> Callable[..., Any]:
    def method(tensor: Tensor, *arguments: Any, **named: Any) -> Any:
        if not isinstance(tensor, FakeTensor):
            return real[name](tensor, *arguments, **named)
        if on_gpu(tensor):
            note(name)
        return answer(tensor)

    return method


def to(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
    first = arguments[0] if arguments and isinstance(arguments[0], str | torch.device) else named.get("device")
    if first is not None and torch.device(first).type == "cuda" and tensor.device.type == "cpu":
        asynchronous = named.get("non_blocking", False) and id(tensor) in pinned
        note(f"{'asynchronous' if asynchronous else 'blocking'} copy to the GPU")
    if first is not None and torch.device(first).type == "cpu" and on_gpu(tensor):
        note("copy from the GPU")
    moved: Tensor = real["to"](tensor, *arguments, **named)
    return moved


def copy_(tensor: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    if on_gpu(tensor) and source.device.type == "cpu":
        note(f"{'asynchronous' if non_blocking and id(source) in pinned else 'blocking'} copy to the GPU")
    copied: Tensor = real["copy_"](tensor, source, non_blocking)
    return copied


def cpu(tensor: Tensor) -> Tensor:
    if on_gpu(tensor):
        note("copy from the GPU")
    copied: Tensor = real["cpu"](tensor)
    return copied


def pin_memory(tensor: Tensor) -> Tensor:
    pinned[id(tensor)] = tensor  # kept, so that the id stays its own
    return tensor


def backward(loss: Tensor) -> None:
    """Gives every parameter below a loss a gradient; the autograd engine itself needs a driver."""
    found, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in found:
            continue
        found.add(node)
        if hasattr(node, "variable"):
            gradient = torch.empty_like(node.variable)
            node.variable.grad = gradient if node.variable.grad is None else node.variable.grad + gradient
        todo += [following for following, _ in node.next_functions]


def fused_adamw(parameters: Any, gradients: Any, m: Any, v: Any, maxima: Any, steps: Any, *, lr: Any, **_: Any) -> None:
    devices = {tensor.device for group in (parameters, gradients, m, v, steps) for tensor in group} | {lr.device}
    assert len(devices) == 1, devices


def module_to(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Moves a module by replacing its parameters: fake tensors do not change their device in place."""
    for part in module.modules():
        for name, parameter in [*part._parameters.items()]:
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for name, buffer in [*part._buffers.items()]:
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
    return module


def capture(work: Callable[[], None]) -> Callable[[], None]:
    with phase("capture"):
        work()

    def replay() -> None:
        with phase("replay"):
            work()

    return replay


def in_phase(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        with phase(name):
            return function(*arguments, **named)

    return wrapped


def main(library: str, size: str) -> None:
    ctypes.CDLL(library)
    torch.set_num_threads(1)
    for name, answer in {
        "item": lambda tensor: values(tensor).item(),
        "tolist": lambda tensor: values(tensor).tolist(),
        "numpy": values,
        "__bool__": lambda tensor: True,
    }.items():
        setattr(Tensor, name, waiting(name, answer))
    Tensor.to, Tensor.copy_, Tensor.cpu = to, copy_, cpu  # type: ignore[method-assign, assignment]
    Tensor.pin_memory, Tensor.backward = pin_memory, backward  # type: ignore[method-assign, assignment]
    torch.nn.Module.to = module_to  # type: ignore[method-assign, assignment]
    torch._fused_adamw_ = fused_adamw  # type: ignore[assignment]
    # A torch with CUDA would ask the driver for a context, for what is captured, and for the GPU's attention kernels.
    torch._subclasses.fake_tensor.init_gpu_context = lambda device: None  # type: ignore[assignment]
    torch.cuda.is_current_stream_capturing = lambda: False
    for kernels in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{kernels}_sdp")(False)
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda *arguments, **named: True

    from made_up_trainings import PKD, TRAINING, made_up_student_data

    from pkd_tune.config import Precision
    from pkd_tune.distillation import loop, student
    from pkd_tune.distillation.student import ModelPool
    from pkd_tune.distillation.train_step import Graphs, TrainStep

    modules: Any = sys.modules
    loop_module, train_step = modules[loop.__name__], modules[TrainStep.__module__]
    loop_module.side_stream = lambda device: contextlib.nullcontext()
    TrainStep._do = in_phase("eager step", TrainStep._do)  # type: ignore[method-assign]
    TrainStep._step = in_phase("replay inputs", TrainStep._step)  # type: ignore[method-assign]
    train_step.input_buffers = in_phase("buffers", train_step.input_buffers)
    loop_module.evaluate = in_phase("evaluation", loop_module.evaluate)
    student_module = modules[student.__name__]
    student_module.open_source = in_phase("start", student_module.open_source)
    inputs = train_step.epoch_inputs

    def noted_inputs(*arguments: Any, **named: Any) -> Iterator[Any]:
        made = inputs(*arguments, **named)
        while True:
            with phase("inputs"):
                try:
                    following = next(made)
                except StopIteration:
                    return
            yield following

    train_step.epoch_inputs = noted_inputs
    trainings: list[tuple[Precision, dict[str, Any]]] = [
        *(("bf16", change) for change in ({}, {"beta": 0.0}, {"alpha": 0.0, "beta": 0.0})),
        ("fp32", {}),
    ]
    free = [0]
    torch.cuda.mem_get_info = lambda device=None: (free[0], FREE)
    told: dict[str, list[dict[str, Any]]] = {}
    variants = {size: [True, False]} if size != "few" else {"resident": [True], "memory": [False]}
    for place, projection in [(place, projection) for place, each in variants.items() for projection in each]:
        free[0] = FREE if place == "resident" else 0
        evaluations: list[object] = []
        seen.clear()
        with FakeTensorMode(allow_non_fake_inputs=True):
            data = made_up_student_data(torch.device("cuda:0"), dropout=0.1, teacher_width=24 if projection else 16)
            model_pool = ModelPool(graphs=Graphs(capture))
            for precision, change in trainings[:1] if size == "few" else trainings:
                training = replace(TRAINING, precision=precision, epochs=2)
                student.distill(data, replace(PKD, **change), training, evaluations.append, model_pool=model_pool)
        told[place] = [*told.get(place, []), {"evaluations": len(evaluations), "seen": {**seen}}]
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
