"""Load, cut, run and save classifiers.

Shape suffixes: B examples, T tokens, S any number of tokens, H hidden size, E embedding size, A attention heads, D head
size, X = B A, L layers, C classes.

The models are Hugging Face's own classes, so that saved folders are standard. The forward pass of families shaped like
BERT is our own: it returns the [CLS] state of every layer, and computes the top layer for [CLS] alone, because the
logits depend on no other token of that layer. Other families run transformers' forward pass. [CLS] is the first token,
whatever a tokenizer calls it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pkd_tune.config import UserError
from pkd_tune.data.batches import Batch
from pkd_tune.data.tokens import file_hash, read_tokenizer
from pkd_tune.encoders import folder
from pkd_tune.encoders.dropout import dropout
from pkd_tune.encoders.families import FAMILIES, Family, Head, LayerPaths
from pkd_tune.files import TRAINING, atomic_folder, write_json

if TYPE_CHECKING:  # the import takes seconds
    from transformers import PreTrainedModel


class Output(NamedTuple):
    """Outputs of a classifier for a batch."""

    logits_BC: Tensor
    """fp32, or bf16 under autocast; (B, 1) for regression."""
    cls_BLH: Tensor
    """[CLS] states after layers 1 .. L; the embedding output is not among them."""


def family_of(model: PreTrainedModel) -> Family:
    """Returns the family of a loaded classifier."""
    return FAMILIES[model.config.model_type]


def is_fast(model: PreTrainedModel) -> bool:
    """Returns whether `run()` is our own forward pass, which can be captured, rather than that of transformers."""
    return family_of(model).paths is not None


def load_classifier(model_dir: Path, labels: tuple[str, ...], seed: int) -> PreTrainedModel:
    """Returns the model in a Hugging Face folder as an fp32 classifier on the CPU.

    Weights that the folder does not hold (always the classifier of a pretrained model, sometimes the pooler) are drawn
    from `seed`: the same folder and seed give the same weights whatever ran before. The outputs of a classifier whose
    classes have the same names in another order are put in the order of the labels.

    Args:
        model_dir: A folder in which `encoder_problems()` finds none.
        labels: Class names in the order of class ids, which become the model's `id2label`; empty for a regression
            model with one output.
        seed: For the missing weights.

    Raises:
        UserError: When weights of the encoder itself are missing, or any have another shape than config.json implies.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    family = folder.family_of(model_dir)
    # Stated always: another one in the folder would decide how plain transformers turns outputs into predictions.
    head: dict[str, Any] = {"problem_type": "single_label_classification" if labels else "regression"}
    if labels:
        head |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    # A pretrained folder never has the classifier, about which from_pretrained() would warn.
    transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                model_dir,
                num_labels=len(labels) or 1,
                **head,
                dtype=torch.float32,
                attn_implementation=family.attention,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below
            )
    finally:
        transformers_logging.set_verbosity(verbosity)
    if loading["mismatched_keys"]:
        name, found, implied = sorted(loading["mismatched_keys"])[0]
        raise UserError(
            f"{model_dir}: {name} in its weight file has shape {list(found)}, but config.json implies {list(implied)}; "
            "download or save the model again"
        )
    may_be_new = {name.split(".")[0] for name in family.head_tensors}
    missing = sorted(
        name
        for name in loading["missing_keys"]
        if name.removeprefix(f"{family.encoder}.").split(".")[0] not in may_be_new
    )
    if missing:
        raise UserError(
            f"{model_dir}: its weight file lacks {missing[0]} and {len(missing) - 1} more; save the model again"
        )
    order = folder.class_order(model_dir, labels) if folder.has_classifier(model_dir) else None
    if order is not None:
        _order_outputs(model, order)
    return model


def _order_outputs(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Puts the outputs of a classifier into another order, in place.

    Args:
        model: The classifier.
        order: The present number of each output, in the new order.
    """
    rows = [name for name, letters in family_of(model).head_tensors.items() if letters.startswith("C")]
    with torch.no_grad():
        for name in rows:
            parameter = model.get_parameter(name)
            parameter.copy_(parameter[list(order)])


def cut_to_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Returns a copy of the model with its embeddings, the given layers, its pooler and its classifier.

    Args:
        model: Not changed.
        layers: Numbers of the model's layers, counted from 1, in the order of the copy's layers.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    if kinds := layer_kinds(model, layers):  # which a layer keeps
        config.layer_types = list(kinds)
    with torch.random.fork_rng(devices=[]):  # building a model draws random weights
        student = type(model)(config)
    student.to(model.device)
    copy_layers(model, layers, student)
    return student


def layer_kinds(model: PreTrainedModel, layers: Sequence[int]) -> tuple[str, ...]:
    """Returns whether each of some layers attends locally or globally; empty for families whose layers are all alike.

    Args:
        model: ModernBERT's are of both kinds.
        layers: Numbers of its layers, counted from 1.
    """
    kinds = getattr(model.config, "layer_types", None)
    return tuple(kinds[layer - 1] for layer in layers) if kinds else ()


def copy_layers(model: PreTrainedModel, layers: Sequence[int], student: PreTrainedModel) -> None:
    """Copies embeddings, the given layers, pooler and classifier to a student of that depth, in place.

    The student's layers must be of the same `layer_kinds()`: weights do not say which.

    ModernBERT's first layer has no LayerNorm before its attention: a student's first layer goes without the one that
    the layer it starts from has.
    """
    family = family_of(model)
    prefix = f"{family.encoder}.{family.layers}."
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefix)}
    of_layers = attrgetter(prefix.removesuffix("."))(model)
    for to, layer in enumerate(layers):
        source = of_layers[layer - 1].state_dict()
        weights.update({f"{prefix}{to}.{name}": tensor for name, tensor in source.items()})
    wanted = student.state_dict().keys()
    student.load_state_dict({name: tensor for name, tensor in weights.items() if name in wanted})


def save_classifier(
    model: PreTrainedModel,
    tokenizer_dir: Path,
    target: Path,
    training: Mapping[str, object] | None = None,
    *,
    max_length: int | None = None,
    replace: bool = False,
) -> None:
    """Writes a standard Hugging Face folder with weights, configuration and tokenizer, atomically.

    Loaded by plain transformers, the tokenizer gives what the model was trained on: segment ids if and only if the
    model got any, padding and truncation at the end.

    Args:
        model: The model to save.
        tokenizer_dir: A folder with its tokenizer.
        target: The folder to write.
        training: Content of its training.json, to which the SHA-256 of every other file is added; None: there is no
            such file.
        max_length: Where the tokenizer truncates, in tokens; None: at its own limit.
        replace: Whether an existing folder is replaced, with all that is in it.

    Raises:
        OSError: When the target cannot be written, or exists and is not empty; it is left unchanged.
    """
    tokenizer = read_tokenizer(tokenizer_dir)
    names = [name for name in tokenizer.model_input_names if takes_segment_ids(model) or name != "token_type_ids"]
    tokenizer.model_input_names = names
    tokenizer.init_kwargs["model_input_names"] = names  # save_pretrained() writes what is among these
    if max_length is not None:
        tokenizer.model_max_length = max_length
    with atomic_folder(target, replace=replace) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if training is not None:
            files = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
            write_json(temporary / TRAINING, {**training, "files": files})


def takes_segment_ids(model: PreTrainedModel) -> bool:
    """Returns whether a model has embeddings of more than one segment id."""
    return family_of(model).segment_ids and model.config.type_vocab_size > 1


def position_limit(model: PreTrainedModel) -> int:
    """Returns the longest input that a model has positions for, in tokens."""
    return folder.positions(family_of(model), model.config.to_dict())


def run(model: PreTrainedModel, batch: Batch) -> Output:
    """Runs the classifier, with dropout if the model is in training mode.

    Logits and [CLS] states equal those of the model's own forward pass up to rounding, which tests check.
    """
    paths = family_of(model).paths
    return run_general(model, batch) if paths is None else _run_fast(model, paths, batch)


def run_general(model: PreTrainedModel, batch: Batch) -> Output:
    """Runs the classifier of any family with transformers' own forward pass, as `run()` does."""
    segment_ids = {"token_type_ids": batch.token_types_BT} if takes_segment_ids(model) else {}
    output = model(
        input_ids=batch.input_ids_BT, attention_mask=batch.mask_BT.long(), output_hidden_states=True, **segment_ids
    )
    return Output(output.logits, torch.stack([states_BTH[:, 0] for states_BTH in output.hidden_states[1:]], dim=1))


def _run_fast(model: PreTrainedModel, paths: LayerPaths, batch: Batch) -> Output:
    family = family_of(model)
    encoder, heads = getattr(model, family.encoder), model.config.num_attention_heads
    hidden_BTH = _embed(model, encoder, batch)
    bias_B1T = torch.zeros_like(batch.mask_BT, dtype=hidden_BTH.dtype).masked_fill_(~batch.mask_BT, -math.inf)[:, None]
    states = []
    *lower, top = (_Layer.of(layer, paths) for layer in attrgetter(family.layers)(encoder))
    for layer in lower:
        context_BTH = _attend(layer, heads, hidden_BTH, bias_B1T)
        hidden_BTH = _finish_layer(layer, context_BTH, hidden_BTH)
        states.append(hidden_BTH[:, 0])
    context_BH = _attend_from_cls(top, heads, hidden_BTH, bias_B1T)
    states.append(_finish_layer(top, context_BH, hidden_BTH[:, 0]))
    assert family.head is not None
    return Output(_HEADS[family.head](model, encoder, states[-1]), torch.stack(states, dim=1))


def _logits_from_pooler(model: Any, encoder: Any, cls_BH: Tensor) -> Tensor:
    logits_BC: Tensor = model.classifier(dropout(encoder.pooler(cls_BH[:, None]), model.dropout))
    return logits_BC


def _logits_from_dense(model: Any, encoder: Any, cls_BH: Tensor) -> Tensor:
    logits_BC: Tensor = model.classifier(cls_BH[:, None])
    return logits_BC


def _logits_from_pre_classifier(model: Any, encoder: Any, cls_BH: Tensor) -> Tensor:
    logits_BC: Tensor = model.classifier(dropout(model.pre_classifier(cls_BH).relu(), model.dropout))
    return logits_BC


_HEADS: dict[Head, Callable[[Any, Any, Tensor], Tensor]] = {
    "pooler": _logits_from_pooler,
    "dense": _logits_from_dense,
    "pre_classifier": _logits_from_pre_classifier,
}


class _Layer(NamedTuple):
    """Modules of a layer, by the names in `LayerPaths`."""

    query: Any
    key: Any
    value: Any
    attention_dropout: Any
    projection: Any
    projection_dropout: Any
    attention_norm: Any
    inner: Any
    activation: Any
    outer: Any
    outer_dropout: Any
    norm: Any

    @classmethod
    def of(cls, layer: Any, paths: LayerPaths) -> _Layer:
        """Returns the modules of a layer of a model."""
        found = ((name, getattr(paths, name)) for name in cls._fields)
        return cls(**{name: path and attrgetter(path)(layer) for name, path in found})


def _embed(model: PreTrainedModel, encoder: Any, batch: Batch) -> Tensor:
    """Returns the input of the first layer: (B, T, H)."""
    family, embeddings = family_of(model), encoder.embeddings
    embedded_BTE: Tensor = embeddings.word_embeddings(batch.input_ids_BT)
    if takes_segment_ids(model):
        embedded_BTE = embedded_BTE + embeddings.token_type_embeddings(batch.token_types_BT)
    elif family.segment_ids:
        embedded_BTE = embedded_BTE + embeddings.token_type_embeddings.weight[0]
    if family.positions_follow_padding_id:  # which padding alone has; a text may contain its token
        counted_BT = batch.input_ids_BT.ne(model.config.pad_token_id)
        positions_BT = counted_BT.cumsum(1) * counted_BT + model.config.pad_token_id
        embedded_BTE = embedded_BTE + embeddings.position_embeddings(positions_BT)
    else:
        embedded_BTE = embedded_BTE + embeddings.position_embeddings.weight[: embedded_BTE.shape[1]]
    embedded_BTE = dropout(embeddings.LayerNorm(embedded_BTE), embeddings.dropout)
    project = getattr(encoder, "embeddings_project", None)  # ELECTRA's, where E and H differ
    return embedded_BTE if project is None else project(embedded_BTE)


def _attend(layer: _Layer, heads: int, hidden_BTH: Tensor, bias_B1T: Tensor) -> Tensor:
    """Returns the self-attention context of every token: (B, T, H)."""
    projections = (layer.query, layer.key, layer.value)
    weight_3HH = torch.cat([projection.weight for projection in projections])
    bias_3H = torch.cat([projection.bias for projection in projections])
    split_shape = (*hidden_BTH.shape[:2], 3, heads, hidden_BTH.shape[2] // heads)
    projected_3BATD = F.linear(hidden_BTH, weight_3HH, bias_3H).view(split_shape).permute(2, 0, 3, 1, 4)
    query_BATD, key_BATD, value_BATD = projected_3BATD.unbind()
    drop = layer.attention_dropout
    dropping = drop.training and drop.p > 0
    if dropping and hidden_BTH.device.type == "cpu":  # where PyTorch's fused kernel has no dropout
        context_BATD = _attend_and_drop(query_BATD, key_BATD, value_BATD, bias_B1T, drop)
    else:
        context_BATD = F.scaled_dot_product_attention(
            query_BATD,
            key_BATD,
            value_BATD,
            attn_mask=bias_B1T[:, None].to(query_BATD.dtype),
            dropout_p=drop.p if dropping else 0.0,
        )
    return context_BATD.transpose(1, 2).flatten(-2)


def _attend_and_drop(
    query_BATD: Tensor, key_BATD: Tensor, value_BATD: Tensor, bias_B1T: Tensor, drop: torch.nn.Dropout
) -> Tensor:
    """Returns softmax(query key / sqrt(D) + bias) with dropout, times value: (B, A, T, D)."""
    shape = query_BATD.shape
    query_XTD, key_XTD, value_XTD = (x.reshape(-1, *shape[2:]) for x in (query_BATD, key_BATD, value_BATD))
    bias_X1T = bias_B1T.repeat_interleave(shape[1], dim=0)
    scores_XTT = torch.baddbmm(bias_X1T, query_XTD, key_XTD.transpose(1, 2), alpha=shape[-1] ** -0.5)
    return torch.bmm(dropout(scores_XTT.softmax(-1), drop), value_XTD).view(shape)


def _attend_from_cls(layer: _Layer, heads: int, hidden_BTH: Tensor, bias_B1T: Tensor) -> Tensor:
    """Returns the self-attention context of [CLS]: (B, H).

    With a single query, the key and value matrices are applied to the query and to the weighted sum instead of to every
    token: q . (K h + k) = (K' q) . h + q . k, and the sum of p (V h + v) over tokens is V (sum of p h) + v (sum of p).
    """
    split = (heads, hidden_BTH.shape[2] // heads)
    query_BAD = layer.query(hidden_BTH[:, 0]).unflatten(-1, split) * split[1] ** -0.5
    key_ADH, value_ADH = (m.weight.unflatten(0, split) for m in (layer.key, layer.value))
    key_AD, value_AD = (m.bias.unflatten(0, split) for m in (layer.key, layer.value))
    query_BAH = torch.einsum("bad,adh->bah", query_BAD, key_ADH)
    offset_BA1 = (query_BAD * key_AD).sum(-1, keepdim=True)
    scores_BAT = torch.bmm(query_BAH, hidden_BTH.transpose(1, 2)) + offset_BA1 + bias_B1T
    share_BAT = dropout(scores_BAT.softmax(-1), layer.attention_dropout)
    gathered_BAH = torch.bmm(share_BAT, hidden_BTH)
    bias_BAD = share_BAT.sum(-1, keepdim=True) * value_AD
    context_BH: Tensor = (torch.einsum("bah,adh->bad", gathered_BAH, value_ADH) + bias_BAD).flatten(-2)
    return context_BH


def _finish_layer(layer: _Layer, context_BSH: Tensor, hidden_BSH: Tensor) -> Tensor:
    """Returns the layer's output from the attention context and the layer's input; S may be any shape, or absent."""
    change_BSH = layer.projection(context_BSH)
    if layer.projection_dropout is not None:
        change_BSH = dropout(change_BSH, layer.projection_dropout)
    hidden_BSH = _add_and_normalize(layer.attention_norm, change_BSH, hidden_BSH)
    change_BSH = dropout(layer.outer(layer.activation(layer.inner(hidden_BSH))), layer.outer_dropout)
    return _add_and_normalize(layer.norm, change_BSH, hidden_BSH)


def _add_and_normalize(norm: Any, change_BSH: Tensor, residual_BSH: Tensor) -> Tensor:
    # On a CPU, adding bf16 to fp32 takes twenty times as long as converting first.
    normalized_BSH: Tensor = norm(residual_BSH + change_BSH.to(residual_BSH.dtype))
    return normalized_BSH
