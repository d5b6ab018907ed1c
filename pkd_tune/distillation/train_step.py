"""One training step of a model: forward, backward, gradient clipping, optimiser; on a GPU as a captured CUDA graph.

A step is captured once for every structure of the loss, batch size and padded length. What changes between replays is
written in place: inputs, learning rate, weights of the loss, and at the start of a training the model's weights and the
optimiser's moments. Whatever is captured can be done eagerly too, on any device; tests compare the two.

The second batch of a structure captures a step for every padded length of the split, the longest first: the memory that
graphs share is then hardly more than the longest needs, and from there on nothing is captured.

Shape suffixes: 4 and 5 the loss and its terms (total, ce, kd, pt), and the gradient norm.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pkd_tune.config import TrainingConfig
from pkd_tune.data.batches import Batch, in_parts
from pkd_tune.distillation.allocator import release_memory
from pkd_tune.distillation.batch_source import (
    BatchSource,
    Inputs,
    epoch_inputs,
    input_buffers,
    make_batch,
    padded_length,
)
from pkd_tune.distillation.losses import Loss, LossParts, pkd_loss
from pkd_tune.encoders.modeling import is_fast, run
from pkd_tune.encoders.precision import mixed_precision
from pkd_tune.encoders.used_tokens import UsedTokenEmbedding, set_token_embedding, token_embedding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Work: TypeAlias = Callable[[], None]
Capture: TypeAlias = Callable[[Work], Work]
"""Takes work on tensors at fixed addresses; returns what repeats it on the values they hold by then."""

LENGTH_MULTIPLE = 8
"""Captured steps are padded to a multiple of this length, as far as the model has positions: fewer graphs, and shapes
that suit tensor cores."""

CPU_TOKENS = 1024
"""Tokens, padding included, above which a batch goes through the model in parts on a CPU: less memory, no slower."""

ADAM_EPSILON = 1e-6
"""BERT's own value, a hundred times PyTorch's default."""

MAX_GRAPHS = 512
"""Captured steps of a process; beyond, all are discarded, and those in use are captured again."""

_WEIGHTS = ("alpha", "beta", "temperature")  # numbers of a loss that change between replays of a captured step


class BatchTooLargeError(MemoryError):
    """Not even half a batch fits into the memory of the device."""


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
    # Some steps are not captured on purpose: the first, smaller batches, and those for whose graph memory ran out.
    warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, eps=ADAM_EPSILON, fused=True, capturable=capturable)
    # The moments exist before the first step, which then takes no memory after the first weight has changed.
    for _, parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A captured step."""

    inputs: dict[str, Tensor]
    """The tensors it reads a batch from."""
    replay: Work
    work: Work
    """What was captured; keeps all tensors alive that the graph reads."""


@dataclass(slots=True, eq=False)
class Graphs:
    """The captured steps of a stream, of all train steps: they live and die together.

    A CUDA graph that is destroyed frees the cuBLAS workspaces of the stream it was captured on (torch's
    `CUDAGraph::reset()`), which the stream's other graphs go on using.
    """

    capture: Capture
    of: dict[tuple[Hashable, ...], Graph] = field(default_factory=dict)
    """By train step, structure of the loss and length."""

    def clear(self) -> None:
        """Destroys all graphs. Train steps in use capture theirs again; others are free from here on."""
        self.of.clear()


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
        tokens: np.ndarray | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        """Takes a model on its device.

        Args:
            model: Trained in place.
            projection: Maps the student's [CLS] states to the teacher's width; trained along with the model.
            tokens: Ids of the tokens that occur in all training runs and evaluations: others are only decayed; None:
                any may occur.
            graphs: Where captured steps are kept: `stream_graphs()` of the device; None: every step is eager. A model
                that runs transformers' forward pass, which may wait for the GPU, is never captured.
        """
        self.model = model
        self.projection = projection
        self.graphs = graphs if is_fast(model) else None
        self.modules = {"model": model, **({} if projection is None else {"projection": projection})}
        self.parts = 1
        """Micro-batches that a batch is split into: 2 after the device ran out of memory."""
        device = model.device
        self.sums_5 = torch.zeros(5, device=device)
        """Sums of total, ce, kd, pt and gradient norm over all steps since the caller last set them to 0."""
        self._all_tokens = token_embedding(model)
        self._used_tokens: UsedTokenEmbedding | None = None
        if tokens is not None:
            self._used_tokens = UsedTokenEmbedding(self._all_tokens, np.union1d(tokens, model.config.pad_token_id))
        with self.used_tokens():
            self._parameters = [item for module in self.modules.values() for item in module.named_parameters()]
        self._rate: Tensor | float = 0.0 if graphs is None else torch.zeros((), device=device)
        self.optimizer = make_optimizer(self._parameters, self._rate, capturable=graphs is not None)
        self._weights: dict[str, Tensor] = (
            {} if graphs is None else {name: torch.zeros((), device=device) for name in _WEIGHTS}
        )
        self._seen: set[Hashable] = set()
        self._captured_with: dict[Hashable, tuple[Hashable, ...]] = {}
        self._split_from: int | None = None
        self._too_large_to_capture = False

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns all trained parameters."""
        return [parameter for _, parameter in self._parameters]

    @contextmanager
    def used_tokens(self) -> Iterator[None]:
        """Leaves out the rows of tokens that never occur, in the block, which is where the model can be trained.

        The model's parameters and its state within are those that are trained. Afterwards it is whole again, with rows
        of the other tokens as they were before.
        """
        if self._used_tokens is None:
            yield
            return
        self._used_tokens.read(self._all_tokens)
        set_token_embedding(self.model, self._used_tokens)
        try:
            yield
        finally:
            set_token_embedding(self.model, self._all_tokens)
            self._used_tokens.write(self._all_tokens)

    def decay_unused_tokens(self, factor: float) -> None:
        """Multiplies the rows of the tokens that never occur, as weight decay would have done in the training."""
        if self._used_tokens is not None:
            self._used_tokens.scale_others(self._all_tokens, factor)

    def kept_bytes(self) -> int:
        """Returns the bytes of weights and two moments, all fp32, that stay on the device between training runs."""
        of_parameters = sum(12 * parameter.numel() for parameter in self.parameters())
        if self._used_tokens is None:
            return of_parameters
        beside = (self._all_tokens.weight, *self._used_tokens.buffers())
        return of_parameters + sum(tensor.nbytes for tensor in beside)

    @property
    def length_multiple(self) -> int:
        """What padded lengths are a multiple of, if they can: more than 1 where steps are captured, each for one."""
        return 1 if self.graphs is None else LENGTH_MULTIPLE

    def graph_inputs(self) -> list[dict[str, Tensor]]:
        """Returns the input tensors of each captured step of this model."""
        return [] if self.graphs is None else [graph.inputs for key, graph in self.graphs.of.items() if key[0] is self]

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
        self.parts = 1 if self._split_from is None or config.batch_size < self._split_from else 2
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

        The first batch of a structure is done eagerly, the second captures a step for every length, later ones are
        replays. A batch smaller than the others is always done eagerly. Where memory runs out, in whatever part of a
        step before the weights change, all graphs are discarded and the step is repeated as two micro-batches; so are
        all later ones, in later training runs with batches as large too. Where it runs out again, no more is captured.

        Raises:
            BatchTooLargeError: When not even half a batch fits.
            RuntimeError: When a step cannot be captured, for any reason but memory. CUDA cannot be used in this process
                afterwards: torch considers it to be still capturing.
        """
        if self._in_memory(lambda: self._step(inputs)):
            return
        if self.parts == 1:
            logger.warning("out of memory: batches are now split into two micro-batches with accumulated gradients")
            self.parts, self._split_from = 2, self.config.batch_size
        elif self.graphs is not None:
            logger.warning("out of memory with split batches: steps are no longer captured")
            self._too_large_to_capture = True
        self.optimizer.zero_grad(set_to_none=True)
        if self.graphs is not None:
            self.graphs.clear()
        release_memory()
        if not self._in_memory(lambda: self._do(inputs)):
            self.optimizer.zero_grad(set_to_none=True)
            raise BatchTooLargeError(
                f"out of memory with batches of {self.config.batch_size} in halves; lower batch_size"
            )

    def _in_memory(self, work: Work) -> bool:
        """Does some work; returns False where memory ran out, when everything that the error held is free again."""
        try:
            work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _step(self, inputs: Inputs) -> None:
        config = self.config
        if self.graphs is None or self._too_large_to_capture or inputs.examples != config.batch_size:
            self._do(inputs)
            return
        kind = (self.loss.structure, config.precision, config.weight_decay, config.max_grad_norm, self.parts)
        seen = (kind, self.source, inputs.examples)
        if seen not in self._seen:
            self._do(inputs)
            self._seen.add(seen)
            return
        key = (self, *seen)
        if (*key, inputs.length) not in self.graphs.of:
            # Where batch size or weight decay are searched, graphs of earlier trials would pile up unused.
            numbers = (*kind[1:], inputs.examples)
            if self._captured_with.setdefault(self.loss.structure, numbers) != numbers:
                self.graphs.clear()
                self._captured_with[self.loss.structure] = numbers
            self._capture_all(self.graphs, key, inputs)
        graph = self.graphs.of[*key, inputs.length]
        for name, tensor in inputs.tensors.items():
            graph.inputs[name].copy_(tensor, non_blocking=True)
        graph.replay()

    def _capture_all(self, graphs: Graphs, key: tuple[Hashable, ...], inputs: Inputs) -> None:
        """Captures a step for every padded length that a batch of the split can have, the longest first."""
        lengths = self._padded_lengths()
        if len(graphs.of) + len(lengths) > MAX_GRAPHS:
            graphs.clear()
        for length in lengths:
            graphs.of[*key, length] = self._captured(graphs.capture, inputs, length)

    def _padded_lengths(self) -> list[int]:
        """Returns the padded lengths of the split's batches, longest first."""
        possible = range(int(self.source.lengths_N.min()), int(self.source.lengths_N.max()) + 1)
        padded = {padded_length(self.source, longest, self.length_multiple) for longest in possible}
        return sorted(padded, reverse=True)

    def _captured(self, capture: Capture, inputs: Inputs, length: int) -> Graph:
        """Captures the step of batches like the given inputs, but for their padded length."""
        config, loss, source, parts = self.config, self.loss, self.source, self.parts
        static = input_buffers(inputs, length, self.model.device)

        def work() -> None:
            self._update(self._backward(config, loss, make_batch(source, loss, static, length), parts), config)

        return Graph(static, capture(work), work)

    def _do(self, inputs: Inputs) -> None:
        """Does a step eagerly, on a CPU in micro-batches of at most `CPU_TOKENS` tokens or so."""
        device = self.model.device
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.tensors.items()}
        batch = make_batch(self.source, self.loss, tensors, inputs.length)
        on_cpu = 1 if device.type != "cpu" else -(-inputs.examples * inputs.length // CPU_TOKENS)
        self._update(self._backward(self.config, self.loss, batch, self.parts * on_cpu), self.config)

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
            labelled_B=batch.labelled_B,
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

    def _update(self, losses_4: Tensor, config: TrainingConfig) -> None:
        """Clips the gradients and updates the weights; takes no memory once a weight has changed."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), config.max_grad_norm)
        added_5 = torch.cat([losses_4, norm.detach()[None]])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.sums_5 += added_5


def stream_graphs(device: torch.device, *, captured: bool = True) -> Graphs | None:
    """Returns the captured steps of this process on a device, the same for all of its train steps.

    Args:
        device: None is returned for a CPU, where steps are eager.
        captured: Whether steps are to be captured where they can be.
    """
    return _graphs_of(device) if captured and device.type == "cuda" else None


@contextmanager
def graphs_of_a_training(device: torch.device, *, captured: bool = True) -> Iterator[Graphs | None]:
    """Yields `stream_graphs()` for a training whose train step is not kept, and clears them at its end."""
    graphs = stream_graphs(device, captured=captured)
    try:
        yield graphs
    finally:
        if graphs is not None:
            graphs.clear()


@cache
def _graphs_of(device: torch.device) -> Graphs:
    """Returns an empty set of graphs that share one memory pool.

    Sharing is safe, because no graph leaves in the pool what another step needs. When all graphs are gone, the next one
    begins another pool: torch refuses a pool that no graph uses until all its memory is freed.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(work: Work) -> Work:
        nonlocal pool
        if not graphs.of:
            pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Capture restrictions must apply to this thread alone: Ray has threads of its own.
        with torch.cuda.graph(
            graph, pool=pool, stream=torch.cuda.current_stream(device), capture_error_mode="thread_local"
        ):
            work()
        return graph.replay

    graphs = Graphs(capture)
    return graphs


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


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error is torch's own for memory, CUDA's (for a graph itself, say), cuBLAS's or a CPU's.

    So is an error that was raised while such a one was handled: the end of a capture that ran out of memory may fail
    for another reason.
    """
    messages = (
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "can't allocate memory",
    )
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        if isinstance(found, torch.OutOfMemoryError) or any(message in str(found) for message in messages):
            return True
        seen.append(found)
        found = found.__cause__ or found.__context__
    return False
