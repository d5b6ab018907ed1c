"""Load, cut, run and save BERT classifiers.

Shape suffixes: B examples, T tokens, S any number of tokens, H hidden size, A attention heads, D head size, X = B A,
L layers, C classes.

The models are Hugging Face's own classes, so that saved folders are standard. The forward pass is our own: it returns
the [CLS] state of every layer, and computes the top layer for [CLS] alone, because the logits depend on no other token
of that layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pkd_tune.config import UserError
from pkd_tune.data.batches import Batch
from pkd_tune.data.tokens import file_hash
from pkd_tune.encoders.dropout import dropout
from pkd_tune.files import TRAINING, atomic_folder, write_json

if TYPE_CHECKING:  # the import takes seconds
    from transformers import BertForSequenceClassification

_LAYER = "bert.encoder.layer."
_MAY_BE_NEW = ("classifier.", "bert.pooler.")


class Output(NamedTuple):
    """Outputs of a classifier for a batch."""

    logits_BC: Tensor
    """fp32, or bf16 under autocast; (B, 1) for regression."""
    cls_BLH: Tensor
    """[CLS] states after layers 1 .. L; the embedding output is not among them."""


def load_classifier(model_dir: Path, labels: tuple[str, ...], seed: int) -> BertForSequenceClassification:
    """Returns the model in a Hugging Face folder as an fp32 classifier on the CPU.

    Weights that the folder does not hold (always the classifier of a pretrained model, sometimes the pooler) are drawn
    from `seed`: the same folder and seed give the same weights whatever ran before.

    Args:
        model_dir: A folder in which `encoder_problems()` finds none.
        labels: Class names in the order of class ids, which become the model's `id2label`; empty for a regression
            model with one output.
        seed: For the missing weights.

    Raises:
        UserError: When weights of the encoder itself are missing.
    """
    from transformers import BertForSequenceClassification
    from transformers.utils import logging as transformers_logging

    if labels:
        head = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    else:
        head = {"problem_type": "regression"}
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    # A pretrained folder never has the classifier, about which from_pretrained() would warn.
    transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, loading = BertForSequenceClassification.from_pretrained(
                model_dir,
                num_labels=len(labels) or 1,
                **head,
                dtype=torch.float32,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith(_MAY_BE_NEW))
    if missing:
        raise UserError(f"{model_dir}: its weights lack {missing[0]} and {len(missing) - 1} more; save the model again")
    assert isinstance(model, BertForSequenceClassification)
    return model


def cut_to_layers(model: BertForSequenceClassification, layers: Sequence[int]) -> BertForSequenceClassification:
    """Returns a copy of the model with its embeddings, the given layers, its pooler and its classifier.

    Args:
        model: Not changed.
        layers: Numbers of the model's layers, counted from 1, in the order of the copy's layers.
    """
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": len(layers)})
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):  # building a model draws random weights
        student = BertForSequenceClassification(config)
    student.to(model.device)
    copy_layers(model, layers, student)
    return student


def copy_layers(
    model: BertForSequenceClassification, layers: Sequence[int], student: BertForSequenceClassification
) -> None:
    """Copies embeddings, the given layers, pooler and classifier to a student of that depth, in place."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(_LAYER)}
    for to, layer in enumerate(layers):
        source = model.bert.encoder.layer[layer - 1].state_dict()
        weights.update({f"{_LAYER}{to}.{name}": tensor for name, tensor in source.items()})
    student.load_state_dict(weights)


def save_classifier(
    model: BertForSequenceClassification,
    tokenizer_dir: Path,
    target: Path,
    training: Mapping[str, object] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Writes a standard Hugging Face folder with weights, configuration and tokenizer, atomically.

    Args:
        model: The model to save.
        tokenizer_dir: A folder with its tokenizer.
        target: The folder to write.
        training: Content of its training.json, to which the SHA-256 of every other file is added; None: there is no
            such file.
        replace: Whether an existing folder is replaced, with all that is in it.

    Raises:
        OSError: When the target cannot be written, or exists and is not empty; it is left unchanged.
    """
    from transformers import AutoTokenizer

    with atomic_folder(target, replace=replace) as temporary:
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True).save_pretrained(temporary)
        if training is not None:
            files = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
            write_json(temporary / TRAINING, {**training, "files": files})


def run(model: BertForSequenceClassification, batch: Batch) -> Output:
    """Runs the classifier, with dropout if the model is in training mode.

    Logits and [CLS] states equal those of the model's own forward pass up to rounding, which tests check.
    """
    bert = model.bert
    hidden_BTH = _embed(bert.embeddings, batch)
    bias_B1T = torch.zeros_like(batch.mask_BT, dtype=hidden_BTH.dtype).masked_fill_(~batch.mask_BT, -math.inf)[:, None]
    states = []
    *lower, top = bert.encoder.layer
    for layer in lower:
        context_BTH = _attend(layer.attention.self, hidden_BTH, bias_B1T)
        hidden_BTH = _finish_layer(layer, context_BTH, hidden_BTH)
        states.append(hidden_BTH[:, 0])
    context_BH = _attend_from_cls(top.attention.self, hidden_BTH, bias_B1T)
    states.append(_finish_layer(top, context_BH, hidden_BTH[:, 0]))
    pooled_BH = dropout(bert.pooler(states[-1][:, None]), model.dropout)
    return Output(model.classifier(pooled_BH), torch.stack(states, dim=1))


def _embed(embeddings: Any, batch: Batch) -> Tensor:
    """Returns the input of the first layer: (B, T, H)."""
    words_BTH = embeddings.word_embeddings(batch.input_ids_BT)
    types_BTH = embeddings.token_type_embeddings(batch.token_types_BT)
    positions_TH = embeddings.position_embeddings.weight[: words_BTH.shape[1]]
    return dropout(embeddings.LayerNorm(words_BTH + types_BTH + positions_TH), embeddings.dropout)


def _attend(attention: Any, hidden_BTH: Tensor, bias_B1T: Tensor) -> Tensor:
    """Returns the self-attention context of every token: (B, T, H)."""
    projections = (attention.query, attention.key, attention.value)
    weight_3HH = torch.cat([projection.weight for projection in projections])
    bias_3H = torch.cat([projection.bias for projection in projections])
    split_shape = (*hidden_BTH.shape[:2], 3, attention.num_attention_heads, attention.attention_head_size)
    projected_3BATD = F.linear(hidden_BTH, weight_3HH, bias_3H).view(split_shape).permute(2, 0, 3, 1, 4)
    query_BATD, key_BATD, value_BATD = projected_3BATD.unbind()
    dropping = attention.training and attention.dropout.p > 0
    if dropping and hidden_BTH.device.type == "cpu":  # where PyTorch's fused kernel has no dropout
        context_BATD = _attend_and_drop(query_BATD, key_BATD, value_BATD, bias_B1T, attention.dropout)
    else:
        context_BATD = F.scaled_dot_product_attention(
            query_BATD,
            key_BATD,
            value_BATD,
            attn_mask=bias_B1T[:, None].to(query_BATD.dtype),
            dropout_p=attention.dropout.p if dropping else 0.0,
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


def _attend_from_cls(attention: Any, hidden_BTH: Tensor, bias_B1T: Tensor) -> Tensor:
    """Returns the self-attention context of [CLS]: (B, H).

    With a single query, the key and value matrices are applied to the query and to the weighted sum instead of to every
    token: q . (K h + k) = (K' q) . h + q . k, and the sum of p (V h + v) over tokens is V (sum of p h) + v (sum of p).
    """
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query_BAD = attention.query(hidden_BTH[:, 0]).unflatten(-1, heads) * heads[1] ** -0.5
    key_ADH, value_ADH = (m.weight.unflatten(0, heads) for m in (attention.key, attention.value))
    key_AD, value_AD = (m.bias.unflatten(0, heads) for m in (attention.key, attention.value))
    query_BAH = torch.einsum("bad,adh->bah", query_BAD, key_ADH)
    offset_BA1 = (query_BAD * key_AD).sum(-1, keepdim=True)
    scores_BAT = torch.bmm(query_BAH, hidden_BTH.transpose(1, 2)) + offset_BA1 + bias_B1T
    share_BAT = dropout(scores_BAT.softmax(-1), attention.dropout)
    gathered_BAH = torch.bmm(share_BAT, hidden_BTH)
    bias_BAD = share_BAT.sum(-1, keepdim=True) * value_AD
    context_BH: Tensor = (torch.einsum("bah,adh->bad", gathered_BAH, value_ADH) + bias_BAD).flatten(-2)
    return context_BH


def _finish_layer(layer: Any, context_BSH: Tensor, hidden_BSH: Tensor) -> Tensor:
    """Returns the layer's output from the attention context and the layer's input; S may be any shape, or absent."""
    hidden_BSH = _add_and_normalize(layer.attention.output, context_BSH, hidden_BSH)
    return _add_and_normalize(layer.output, layer.intermediate(hidden_BSH), hidden_BSH)


def _add_and_normalize(output: Any, x: Tensor, residual_BSH: Tensor) -> Tensor:
    change_BSH = dropout(output.dense(x), output.dropout)
    # On a CPU, adding bf16 to fp32 takes twenty times as long as converting first.
    normalized_BSH: Tensor = output.LayerNorm(residual_BSH + change_BSH.to(residual_BSH.dtype))
    return normalized_BSH
