"""Load a BERT classifier, cut it to a depth, and run it for [CLS] alone.

Shape suffixes: B examples, T tokens, Q query tokens, H hidden size, A attention heads, D head size, L layers,
C classes.

The models are Hugging Face's own classes, so that what is saved is standard. Only the forward pass is ours: it keeps
the [CLS] state of every layer, and computes the top layer for [CLS] alone, since no other token of it reaches the
logits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging as transformers_logging

from pkd_tune.config import UserError
from pkd_tune.distillation.batches import Batch

_LAYER = "bert.encoder.layer."
_MAY_BE_NEW = ("classifier.", "bert.pooler.")


class Output(NamedTuple):
    """What a classifier says of a batch."""

    logits_BC: Tensor
    cls_BLH: Tensor
    """[CLS] states after layers 1 .. L; the embedding output is not among them."""


def load_classifier(model_dir: Path, labels: tuple[str, ...], seed: int) -> BertForSequenceClassification:
    """Returns the model in a Hugging Face folder as an fp32 classifier on the CPU.

    Weights that the folder does not hold (always the classifier of a pretrained model, sometimes the pooler) are drawn
    from `seed`: the same folder and seed give the same weights whatever ran before.

    Args:
        model_dir: A folder with config.json and safetensors weights; `model_folder` says whether it is one.
        labels: Class names in the order of class ids; they become the model's `id2label`. None of them:
            a regression model with one output.
        seed: Seeds the missing weights.

    Raises:
        UserError: When weights of the encoder itself are missing.
    """
    if labels:
        head = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    else:
        head = {"problem_type": "regression"}
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    # A pretrained folder never holds the classifier; the load report would call that a problem.
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
    """Returns a copy of the model that has its embeddings, the given layers, its pooler and its classifier.

    Args:
        model: Not changed.
        layers: Numbers of the model's layers counted from 1, in the order in which the copy has them.
    """
    config = BertConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": len(layers)})
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):  # building a model draws weights; the caller's generator must not feel it
        student = BertForSequenceClassification(config)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(_LAYER)}
    for to, layer in enumerate(layers):
        source = model.bert.encoder.layer[layer - 1].state_dict()
        weights.update({f"{_LAYER}{to}.{name}": tensor for name, tensor in source.items()})
    student.load_state_dict(weights)
    return student.to(model.device)


def run(model: BertForSequenceClassification, batch: Batch) -> Output:
    """Runs the classifier, with dropout where the model is in training mode.

    The logits and [CLS] states equal those of the model's own forward pass; tests hold them together.
    """
    bert = model.bert
    hidden_BTH = bert.embeddings(input_ids=batch.input_ids_BT, token_type_ids=batch.token_types_BT)
    attend_B11T = batch.mask_BT[:, None, None, :]
    states = []
    top = len(bert.encoder.layer) - 1
    for depth, layer in enumerate(bert.encoder.layer):
        queries_BQH = hidden_BTH[:, :1] if depth == top else hidden_BTH
        hidden_BTH = _run_layer(layer, queries_BQH, hidden_BTH, attend_B11T)
        states.append(hidden_BTH[:, 0])
    pooled_BH = model.dropout(bert.pooler(hidden_BTH))
    return Output(model.classifier(pooled_BH), torch.stack(states, dim=1))


def _run_layer(layer: Any, queries_BQH: Tensor, hidden_BTH: Tensor, attend_B11T: Tensor) -> Tensor:
    """Returns the layer's output for the query tokens, which attend to all tokens: (B, Q, H)."""
    attention = layer.attention.self

    def heads(x_BSH: Tensor) -> Tensor:
        split_shape = (*x_BSH.shape[:2], attention.num_attention_heads, attention.attention_head_size)
        return x_BSH.view(split_shape).transpose(1, 2)

    context_BAQD = F.scaled_dot_product_attention(
        heads(attention.query(queries_BQH)),
        heads(attention.key(hidden_BTH)),
        heads(attention.value(hidden_BTH)),
        attn_mask=attend_B11T,
        dropout_p=attention.dropout.p if layer.training else 0.0,
    )
    attended_BQH = layer.attention.output(context_BAQD.transpose(1, 2).flatten(-2), queries_BQH)
    output_BQH: Tensor = layer.output(layer.intermediate(attended_BQH), attended_BQH)
    return output_BQH
