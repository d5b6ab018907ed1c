"""One training step of a model: forward, backward, gradient clipping, optimiser; on a GPU as a captured CUDA graph.

A step is captured once for every structure of the loss, batch size and padded length. What changes between replays is
written in place: inputs, learning rate, weights of the loss, and at the start of a training the model's weights and the
optimiser's moments. Whatever is captured can be done eagerly too, on any device; tests compare the two.

Shape suffixes: 4 and 5 the loss and its terms (total, ce, kd, pt), and the gradient norm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from pkd_tune.config import TrainingConfig
from pkd_tune.data.batches import Batch, in_parts
from pkd_tune.distillation.batch_source import BatchSource, Inputs, epoch_inputs, make_batch
from pkd_tune.distillation.losses import Loss, LossParts, pkd_loss
from pkd_tune.distillation.memory import release_memory
from pkd_tune.encoders.modeling import is_fast, run
from pkd_tune.encoders.precision import mixed_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Work: TypeAlias = Callable[[], None]
Capture: TypeAlias = Callable[[Work], Work]
"""Takes work on tensors at fixed addresses; returns what repeats it on the values they hold by then."""

LENGTH_MULTIPLE = 8
"""Captured steps are padded to a multiple of this length: fewer graphs, and shapes that suit tensor cores."""

CPU_TOKENS = 1024
"""Tokens, padding included, above which a batch goes through the model in parts on a CPU: less memory, no slower."""

ADAM_EPSILON = 1e-6
"""BERT's own value, a hundred times PyTorch's default."""

MOST_GRAPHS = 256
"""Of one model; beyond, the oldest is discarded."""


_WEIGHTS = ("alpha", "beta", "temperature")  # numbers of a loss that change between replays of a captured step


def make_optimizer(
    parameters: Sequence[tuple[str, torch.nn.Parameter]], learning_rate: float | Tensor, *, capturable: bool
) -> torch.optim.AdamW:
    """Returns AdamW with two parameter groups: weight decay applies to the first, not to biases and LayerNorms.

    Args:
        parameters: With their names.
        learning_rate: A tensor where steps are captured.
        capturable: Whether steps are captured.
    """
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in parameters:
        (plain if name.endswith("bias") or "norm" in name.lower() else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, eps=ADAM_EPSILON, fused=True, capturable=capturable)


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    inputs: dict[str, Tensor]
    """The tensors it reads a batch from."""
    replay: Work
    work: Work
    """What was captured; keeps all tensors alive that the graph reads."""


class TrainStep:
    """A model with its optimiser and captured steps, used for one training after another.

    train_step.begin(config, loss, source)
    for inputs in train_step.epoch_inputs(batches):
        train_step.set_learning_rate(rate)
        train_step(inputs)
    """

    config: TrainingConfig
    loss: Loss
    source: BatchSource

    def __init__(
        self,
        model: PreTrainedModel,
        projection: torch.nn.Module | None = None,
        *,
        capture: Capture | None = None,
        beside: Collection[TrainStep] = (),
    ) -> None:
        """Takes a model on its device.

        Args:
            model: Trained in place.
            projection: Maps the student's [CLS] states to the teacher's width; trained along with the model.
            capture: How a step is captured; None: not at all. `graph_capture()` returns the one for a device. A model
                that runs transformers' forward pass, which may wait for the GPU, is never captured.
            beside: Train steps with the same `capture`, whose graphs share a memory pool with this one's; may grow.
        """
        capture = capture if is_fast(model) else None
        self.model = model
        self.projection = projection
        self.capture = capture
        self.beside = beside
        self.modules = {"model": model, **({} if projection is None else {"projection": projection})}
        self.parts = 1
        """Micro-batches that a batch is split into: 2 after the device ran out of memory."""
        device = model.device
        self.sums_5 = torch.zeros(5, device=device)
        """Sums of total, ce, kd, pt and gradient norm over all steps since the caller last set them to 0."""
        self._parameters = [item for module in self.modules.values() for item in module.named_parameters()]
        self._rate: Tensor | float = 0.0 if capture is None else torch.zeros((), device=device)
        self.optimizer = make_optimizer(self._parameters, self._rate, capturable=capture is not None)
        self._weights: dict[str, Tensor] = (
            {} if capture is None else {name: torch.zeros((), device=device) for name in _WEIGHTS}
        )
        self._graphs: dict[Hashable, _Graph | None] = {}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns all trained parameters."""
        return [parameter for _, parameter in self._parameters]

    @property
    def length_multiple(self) -> int:
        """What padded lengths are a multiple of: more than 1 where steps are captured, each for one length."""
        return 1 if self.capture is None else LENGTH_MULTIPLE

    def graph_inputs(self) -> list[dict[str, Tensor]]:
        """Returns the input tensors of each captured step."""
        return [graph.inputs for graph in self._graphs.values() if graph is not None]

    def begin(self, config: TrainingConfig, loss: Loss, source: BatchSource) -> None:
        """Starts another training; the model's weights are the caller's to set.

        Args:
            config: Batch size, precision, weight decay and clipping are used here.
            loss: Its terms are means over the batch.
            source: Of the training split; with teacher outputs where the loss needs them.

        Raises:
            ValueError: When the loss needs teacher outputs and the source has none.
        """
        if source.outputs is None and (loss.needs_logits or loss.needs_layers):
            raise ValueError(f"a loss with alpha {loss.alpha} and beta {loss.beta} needs teacher outputs")
        self.config, self.loss, self.source = config, loss, source
        self.parts = 1
        self.sums_5.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        for moments in self.optimizer.state.values():
            for moment in moments.values():
                moment.zero_()
        self.optimizer.param_groups[0]["weight_decay"] = config.weight_decay
        for name, tensor in self._weights.items():
            tensor.fill_(getattr(loss, name))

    def set_learning_rate(self, rate: float) -> None:
        """Sets the learning rate of the next step."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def epoch_inputs(self, batches: Sequence[np.ndarray]) -> Iterator[Inputs]:
        """Yields the inputs of each batch of an epoch, given as arrays of example ids."""
        return epoch_inputs(self.source, self.loss, batches, multiple=self.length_multiple)

    def __call__(self, inputs: Inputs) -> None:
        """Does one step, and adds its losses and gradient norm to `sums_5`.

        The first batch of a kind is done eagerly, the second is captured, later ones are replayed. A batch smaller than
        the others is always done eagerly, and so is one for whose graph memory runs out.

        Raises:
            MemoryError: When not even half a batch fits.
            RuntimeError: When a step cannot be captured, for any reason but memory. CUDA cannot be used in this process
                afterwards: torch considers it to be still capturing.
        """
        config = self.config
        if self.capture is None or inputs.examples != config.batch_size:
            self._do(inputs)
            return
        kind = (self.loss.structure, config.precision, config.weight_decay, config.max_grad_norm, self.parts)
        key = (kind, self.source, inputs.examples, inputs.length)
        if key not in self._graphs:
            if len(self._graphs) >= MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = None  # seen once
            self._do(inputs)
            return
        graph = self._graphs[key] or self._captured(inputs)
        if graph is None:
            self._make_room()
            self._do(inputs)
            return
        self._graphs[key] = graph
        for name, tensor in inputs.tensors.items():
            graph.inputs[name].copy_(tensor, non_blocking=True)
        graph.replay()

    def _captured(self, inputs: Inputs) -> _Graph | None:
        """Captures a step; None where memory runs out."""
        assert self.capture is not None
        device = self.model.device
        static = {name: torch.empty_like(tensor, device=device) for name, tensor in inputs.tensors.items()}
        config, loss, source, length, parts = self.config, self.loss, self.source, inputs.length, self.parts

        def work() -> None:
            self._update(self._backward(config, loss, make_batch(source, loss, static, length), parts), config)

        for name, tensor in inputs.tensors.items():
            static[name].copy_(tensor, non_blocking=True)
        try:
            return _Graph(static, self.capture(work), work)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        return None

    def _do(self, inputs: Inputs) -> None:
        """Does a step eagerly; where memory runs out, again as two micro-batches whose gradients are accumulated."""
        device = self.model.device
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.tensors.items()}
        batch = make_batch(self.source, self.loss, tensors, inputs.length)
        on_cpu = 1 if device.type != "cpu" else -(-inputs.examples * inputs.length // CPU_TOKENS)
        losses_4 = self._backward_or_none(batch, self.parts * on_cpu)
        if losses_4 is None:
            self._make_room()
            losses_4 = self._backward_or_none(batch, self.parts * on_cpu)
            if losses_4 is None:
                raise MemoryError(f"out of memory with batches of {self.config.batch_size} in halves; lower batch_size")
        self._update(losses_4, self.config)

    def _make_room(self) -> None:
        """Frees all memory that can be freed, and has batches split into two micro-batches from now on."""
        logger.warning("out of memory: batches are now split in two, with accumulated gradients")
        self.parts = 2
        self.optimizer.zero_grad(set_to_none=True)
        for train_step in (self, *self.beside):  # the pool that graphs share is freed with the last of them
            train_step._graphs.clear()
        release_memory()

    def _losses(self, loss: Loss, batch: Batch) -> LossParts:
        """Runs the model on a batch and returns the loss."""
        output = run(self.model, batch)
        student_cls_BKH: Tensor | None = None
        if loss.needs_layers:
            student_cls_BKH = output.cls_BLH[:, :-1]
            if self.projection is not None:
                student_cls_BKH = self.projection(student_cls_BKH)
        # A captured step must not hold a weight as a constant: it is replayed for losses with other weights.
        weights = self._weights or {name: getattr(loss, name) for name in _WEIGHTS}
        return pkd_loss(
            output.logits_BC,
            batch.teacher_logits_BC,
            batch.labels_B,
            student_cls_BKH,
            batch.teacher_cls_BKH,
            **weights,
            normalize=loss.normalize,
        )

    def _backward(self, config: TrainingConfig, loss: Loss, batch: Batch, parts: int) -> Tensor:
        """Adds the batch's gradients to the parameters; returns its total, ce, kd and pt.

        Losses and gradients of micro-batches are weighted by size: the terms are means, so that the weighted sum is the
        mean over the whole batch.
        """
        device = batch.labels_B.device
        sums_4 = torch.zeros(4, device=device)
        for part in in_parts(batch, parts) if parts > 1 else [batch]:
            with mixed_precision(device, config.precision):
                losses = self._losses(loss, part)
            share = len(part.labels_B) / len(batch.labels_B)
            (losses.total * share).backward()
            sums_4 += share * torch.stack([*losses]).detach()
        return sums_4

    def _backward_or_none(self, batch: Batch, parts: int) -> Tensor | None:
        """Returns what `_backward()` does, or None when memory ran out; what the error holds is free after that."""
        try:
            return self._backward(self.config, self.loss, batch, parts)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        return None

    def _update(self, losses_4: Tensor, config: TrainingConfig) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.sums_5 += torch.cat([losses_4, norm.detach()[None]])


def graph_capture(device: torch.device) -> Capture | None:
    """Returns how steps are captured on a device: as CUDA graphs that share one memory pool; None on a CPU.

    Sharing is safe, because no graph leaves in the pool what another step needs. When all graphs are gone, the next one
    begins another pool: torch refuses a pool that no graph uses until all its memory is freed.
    """
    if device.type != "cuda":
        return None
    pool = torch.cuda.graph_pool_handle()
    graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def capture(work: Work) -> Work:
        nonlocal pool
        if not graphs:
            pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Capture restrictions must apply to this thread alone: Ray has threads of its own.
        with torch.cuda.graph(
            graph, pool=pool, stream=torch.cuda.current_stream(device), capture_error_mode="thread_local"
        ):
            work()
        graphs.add(graph)
        return graph.replay

    return capture


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Runs the block on a stream other than the default one, which cannot be captured; does nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    outside, inside = torch.cuda.current_stream(device), _stream(device)
    inside.wait_stream(outside)
    try:
        with torch.cuda.stream(inside):
            yield
    finally:
        outside.wait_stream(inside)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the one side stream of a device: the allocator reuses memory only on the stream it was freed on."""
    return torch.cuda.Stream(device)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tells whether an error is torch's own for memory, CUDA's (for a graph itself, say) or the CPU allocator's."""
    messages = ("CUDA error: out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)
