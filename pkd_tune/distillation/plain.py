"""A given teacher in plain transformers, compared with its outputs here before anything is trained on them.

Shape suffixes: N examples, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pkd_tune.config import Task, UserError
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.metrics import predictions, score
from pkd_tune.data.tokens import Split, take
from pkd_tune.distillation.inference import predict
from pkd_tune.encoders.folder import class_order, read_object
from pkd_tune.encoders.modeling import load_classifier, takes_segment_ids

logger = logging.getLogger(__name__)

EXAMPLES = 256
"""Examples of each dev split that are compared."""

LOGIT_TOLERANCE = 1e-2
"""Largest difference of two logits, relative to the largest logit, that rounding may make."""

_BATCH = 32


def check_plain(
    task: Task,
    model_dir: Path,
    raw: Mapping[str, RawSplit],
    splits: Mapping[str, Split],
    max_length: int,
    device: torch.device,
) -> None:
    """Compares a given classifier's logits in plain transformers with those of `inference.predict()`.

    A difference that settings of its tokenizer explain is logged as a warning.

    Args:
        task: The task it classifies.
        model_dir: Its folder.
        raw: The texts of the task's dev splits.
        splits: The same splits, tokenised by its tokenizer.
        max_length: Of the tokenised examples, in tokens.
        device: Where it runs.

    Raises:
        UserError: When they differ for a reason that is not known.
    """
    model = load_classifier(model_dir, task.labels, seed=0).to(device)
    with_segment_ids = takes_segment_ids(model)
    parts = {name: np.arange(min(EXAMPLES, len(splits[name]))) for name in task.dev_splits}
    here = {name: predict(model, take(splits[name], name, ids), precision="fp32") for name, ids in parts.items()}
    plain = {
        name: _plain_logits(task, model_dir, raw[name], len(ids), max_length, device, segment_ids=with_segment_ids)
        for name, ids in parts.items()
    }
    largest = max(float(logits.abs().max()) for logits in here.values())
    if all(float((here[name] - plain[name]).abs().max()) <= LOGIT_TOLERANCE * largest for name in parts):
        return
    labels = {name: None if (found := splits[name].labels) is None else found[ids] for name, ids in parts.items()}
    scores = [
        score(task, {name: predictions(task, logits.numpy()) for name, logits in each.items()}, labels)["score"]
        for each in (here, plain)
    ]
    compared = sum(map(len, parts.values()))
    text = (
        f"{model_dir}: scores {scores[0]:.1f} here and {scores[1]:.1f} in plain transformers on {compared} dev examples"
    )
    path = model_dir / "tokenizer_config.json"
    settings = read_object(path) if path.is_file() else {}
    reasons = [name for name in ("padding_side", "truncation_side") if settings.get(name, "right") != "right"]
    if not reasons:
        raise UserError(f"{text}, though they should agree; save model and tokenizer again with save_pretrained")
    logger.warning(
        "%s, because %s in its tokenizer_config.json is 'left'; texts are padded and truncated at the end here, and "
        "students are saved to do so",
        text,
        " and ".join(reasons),
    )


def _plain_logits(
    task: Task,
    model_dir: Path,
    raw: RawSplit,
    examples: int,
    max_length: int,
    device: torch.device,
    *,
    segment_ids: bool,
) -> Tensor:
    """Returns the logits of the first examples, in the order of the task's labels: (N, C), on the CPU."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_dir, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    model.to(device).eval()
    found = []
    for start in range(0, examples, _BATCH):
        rows = slice(start, min(start + _BATCH, examples))
        second = None if raw.sentence2 is None else raw.sentence2[rows]
        inputs = tokenizer(
            raw.sentence1[rows], second, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        )
        if not segment_ids:
            inputs.pop("token_type_ids", None)  # which some models ignore, and others cannot look up
        with torch.inference_mode():
            found.append(model(**inputs.to(device)).logits.float().cpu())
    order = class_order(model_dir, task.labels)
    assert order is not None  # another classifier was refused
    return torch.cat(found)[:, list(order)]
