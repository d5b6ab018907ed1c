"""One training step of a model: forward, backward, clipping, optimiser; on a GPU as one captured graph.

A step is captured once for every structure of the loss, batch size and padded length. What changes between replays is
written in place: inputs, learning rate, weights of the loss, and at the start of a training the model's weights and the
optimiser's moments. Whatever is captured can be done step by step too, on any device; tests hold the two together.

Shape suffixes: 4 and 5 the loss and its terms (total, ce, kd, pt), and the gradient norm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

import torch
from torch import Tensor

from pkd_tune.config import Precision, TrainingConfig
from pkd_tune.data.batches import Batch, in_parts
from pkd_tune.distillation.batch_source import LENGTH_MULTIPLE, BatchSource, Inputs, make_batch
from pkd_tune.distillation.losses import LossParts
from pkd_tune.distillation.memory import give_back_freed_memory
from pkd_tune.encoders.precision import mixed_precision

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

logger = logging.getLogger(__name__)

Loss: TypeAlias = Callable[[Batch], LossParts]
Work: TypeAlias = Callable[[], None]
Capture: TypeAlias = Callable[[Work], Work]
"""Takes work on tensors that stay where they are; returns what does it again with what they hold then."""

CPU_TOKENS = 1024
"""With padding; on a CPU a batch of more goes through the model in parts, which hold less and are no slower."""

ADAM_EPSILON = 1e-6
"""BERT's own value, a hundred times PyTorch's default."""

MOST_GRAPHS = 256
"""Of one model; beyond, the oldest is given up."""


def make_optimizer(
    trained: list[tuple[str, torch.nn.Parameter]], learning_rate: float | Tensor, *, capturable: bool
) -> torch.optim.AdamW:
    """Returns the optimiser of named parameters; the first group decays, biases and LayerNorms do not.

    Args:
        trained: Names and parameters.
        learning_rate: A tensor where steps are captured.
        capturable: Whether steps are captured.
    """
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in trained:
        (plain if name.endswith("bias") or "LayerNorm" in name else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, eps=ADAM_EPSILON, fused=True, capturable=capturable)


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    inputs: dict[str, Tensor]
    """Where it reads."""
    replay: Work
    work: Work
    """What was captured; keeps all tensors alive that the graph reads."""


class TrainStep:
    """A model with its optimiser and graphs, for one training after another."""

    def __init__(
        self,
        model: BertForSequenceClassification,
        projection: torch.nn.Module | None = None,
        *,
        capture: Capture | None = None,
        beside: Collection[TrainStep] = (),
    ) -> None:
        """Takes a model on its device.

        Args:
            model: Trained in place.
            projection: Trained along with it.
            capture: How a step is captured; None: not at all. `graph_capture()` says what suits a device.
            beside: Benches with the same `capture`, whose graphs thus share memory with this one's; more may come.
        """
        self.model = model
        self.projection = projection
        self.capture = capture
        self.beside = beside
        self.modules = {"model": model, **({} if projection is None else {"projection": projection})}
        self.parts = 1
        """In which a batch goes through the model: 2 after the device ran out of memory."""
        device = model.device
        self.sums_5 = torch.zeros(5, device=device)
        """Of total, ce, kd, pt and gradient norm, over all steps since whoever reads them set them to 0."""
        self._trained = [item for module in self.modules.values() for item in module.named_parameters()]
        self._rate: Tensor | float = 0.0 if capture is None else torch.zeros((), device=device)
        self.optimizer = make_optimizer(self._trained, self._rate, capturable=capture is not None)
        self._numbers: dict[str, Tensor] = {}
        self._graphs: dict[Hashable, _Graph | None] = {}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns all that is trained."""
        return [parameter for _, parameter in self._trained]

    @property
    def length_multiple(self) -> int:
        """What lengths must be a multiple of, so that there are few of them."""
        return 1 if self.capture is None else LENGTH_MULTIPLE

    def graph_inputs(self) -> list[dict[str, Tensor]]:
        """Returns where each captured step reads."""
        return [graph.inputs for graph in self._graphs.values() if graph is not None]

    def begin(self, config: TrainingConfig) -> None:
        """Makes ready for another training, in place; the weights are the caller's to set."""
        self.parts = 1
        self.sums_5.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        for moments in self.optimizer.state.values():
            for moment in moments.values():
                moment.zero_()
        self.optimizer.param_groups[0]["weight_decay"] = config.weight_decay

    def number(self, name: str, value: float) -> float | Tensor:
        """Returns what a loss must use for a number that differs between trainings."""
        if self.capture is None:
            return value
        tensor = self._numbers.setdefault(name, torch.zeros((), device=self.model.device))
        return tensor.fill_(value)

    def set_learning_rate(self, rate: float) -> None:
        """Sets the learning rate of the next step."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def step(
        self, loss: Loss, source: BatchSource, inputs: Inputs, config: TrainingConfig, structure: Hashable
    ) -> None:
        """Does one step, and adds its losses and gradient norm to `sums_5`.

        The first batch of a kind is done eagerly, the second is captured, later ones replay. A batch smaller than the
        others is always done eagerly, and so is one for whose graph memory runs out.

        Args:
            loss: Of a batch; its terms are means over the batch.
            supply: Says what the inputs are.
            inputs: Of the batch.
            config: Batch size, precision, weight decay and clipping; these must be those of `begin()`.
            structure: All else that decides which operations the loss consists of.

        Raises:
            MemoryError: When not even half a batch fits.
            RuntimeError: When a step cannot be captured, for any reason but memory. Nothing should be done on the GPU
                in this process any more: torch takes it to be capturing still.
        """
        if self.capture is None or inputs.examples != config.batch_size:
            self._do(loss, source, inputs, config)
            return
        kind = (structure, config.precision, config.weight_decay, config.max_grad_norm, self.parts)
        key = (kind, source.split.key, source.resident is None, inputs.examples, inputs.length)
        if key not in self._graphs:
            if len(self._graphs) >= MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = None  # seen once
            self._do(loss, source, inputs, config)
            return
        graph = self._graphs[key] or self._captured(loss, source, inputs, config)
        if graph is None:
            self._make_room()
            self._do(loss, source, inputs, config)
            return
        self._graphs[key] = graph
        for name, tensor in inputs.tensors.items():
            graph.inputs[name].copy_(tensor, non_blocking=True)
        graph.replay()

    def _captured(self, loss: Loss, source: BatchSource, inputs: Inputs, config: TrainingConfig) -> _Graph | None:
        """Captures a step; None where memory runs out."""
        assert self.capture is not None
        device = self.model.device
        static = {name: torch.empty_like(tensor, device=device) for name, tensor in inputs.tensors.items()}
        length, parts = inputs.length, self.parts

        def work() -> None:
            self._update(backward(loss, make_batch(source, static, length), parts, config.precision), config)

        for name, tensor in inputs.tensors.items():
            static[name].copy_(tensor, non_blocking=True)
        try:
            return _Graph(static, self.capture(work), work)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        return None

    def _do(self, loss: Loss, source: BatchSource, inputs: Inputs, config: TrainingConfig) -> None:
        """Does a step eagerly; where memory runs out, again in two halves whose gradients are added up."""
        device = self.model.device
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.tensors.items()}
        batch = make_batch(source, tensors, inputs.length)
        on_cpu = 1 if device.type != "cpu" else -(-inputs.examples * inputs.length // CPU_TOKENS)
        losses_4 = _backward_or_none(loss, batch, self.parts * on_cpu, config.precision)
        if losses_4 is None:
            self._make_room()
            losses_4 = _backward_or_none(loss, batch, self.parts * on_cpu, config.precision)
            if losses_4 is None:
                raise MemoryError(f"out of memory with batches of {config.batch_size} in halves; lower batch_size")
        self._update(losses_4, config)

    def _make_room(self) -> None:
        """Gives back all memory that can be had again, and lets batches go through the model in halves from now on."""
        logger.warning("out of memory: going on with batches in two halves, their gradients added up")
        self.parts = 2
        self.optimizer.zero_grad(set_to_none=True)
        for train_step in (self, *self.beside):  # what graphs share is given back with the last of them
            train_step._graphs.clear()
        give_back_freed_memory()

    def _update(self, losses_4: Tensor, config: TrainingConfig) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.sums_5 += torch.cat([losses_4, norm.detach()[None]])


def backward(loss: Loss, batch: Batch, parts: int, precision: Precision) -> Tensor:
    """Adds the batch's gradients to the parameters; returns its total, ce, kd and pt.

    In several parts, losses and gradients are weighted by size: the terms are means, so that the sum is that of the
    whole batch.
    """
    device = batch.labels_B.device
    sums_4 = torch.zeros(4, device=device)
    for part in in_parts(batch, parts) if parts > 1 else [batch]:
        with mixed_precision(device, precision):
            losses = loss(part)
        share = len(part.labels_B) / len(batch.labels_B)
        (losses.total * share).backward()  # type: ignore[no-untyped-call]
        sums_4 += share * torch.stack([*losses]).detach()
    return sums_4


def _backward_or_none(loss: Loss, batch: Batch, parts: int, precision: Precision) -> Tensor | None:
    """Returns what `backward()` does, or None when memory ran out: what the error holds of it is free only then."""
    try:
        return backward(loss, batch, parts, precision)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    return None


def graph_capture(device: torch.device) -> Capture | None:
    """Returns how steps are captured on a device: as CUDA graphs that share one pool of memory; None on a CPU.

    Sharing is safe, because no graph leaves in the pool what another step needs. When all of them are gone, the next
    one begins another pool: torch refuses one that no graph uses, until all memory of it was given back.
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
        # Only this thread must keep to what capturing allows: Ray has threads of its own.
        with torch.cuda.graph(
            graph, pool=pool, stream=torch.cuda.current_stream(device), capture_error_mode="thread_local"
        ):
            work()
        graphs.add(graph)
        return graph.replay

    return capture


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Queues what is inside on a stream other than the default one, which cannot be captured; no matter on a CPU."""
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
    """Returns the one stream for it: memory that is freed on a stream is used again on that stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tells whether it is torch's own error, CUDA's (for a graph itself, say) or that of the system on a CPU."""
    said = ("CUDA error: out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)
