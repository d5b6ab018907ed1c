"""The formats of an exported student, and how each is loaded and run with public libraries alone.

Shape suffixes: B examples, C classes; C is 1 for a regression.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pkd_tune.data.examples import RawSplit
from pkd_tune.encoders.folder import WEIGHTS
from pkd_tune.encoders.modeling import takes_segment_ids

PYTORCH, ONNX, INT8 = "pytorch", "onnx", "int8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format: its file, and by how much its score may differ from the expected score.

    The larger of the two tolerances applies: on a small dev split one example is worth more than a point.
    """

    title: str
    """Title in tables."""
    file: str
    """File of the weights, relative to the model folder; named as by the converters of the Hugging Face hub."""
    points: float
    """Tolerated difference of the score, in points (× 100)."""
    examples: int
    """Tolerated difference of the score, in examples of the smallest dev split."""

    def tolerance(self, sizes: Mapping[str, int]) -> float:
        """Returns the tolerated difference in points, given the number of examples of each dev split."""
        return max(self.points, 100 * self.examples / min(sizes.values()))


# The fp32 formats sum in different orders, so at most near ties are decided differently. int8 rounds every weight.
FORMATS = {
    PYTORCH: Format(title="PyTorch, fp32", file=WEIGHTS, points=0.3, examples=1),
    ONNX: Format(title="ONNX, fp32", file="onnx/model.onnx", points=0.3, examples=1),
    INT8: Format(title="ONNX, int8", file="onnx/model_quantized.onnx", points=1.0, examples=5),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in some format, ready to run on the CPU."""

    encode: Callable[[RawSplit, slice], Mapping[str, Any]]
    """Returns rows of a split as a padded batch."""
    logits: Callable[[Mapping[str, Any]], npt.NDArray[np.float32]]
    """Returns a batch's logits, shape (B, C)."""


def load(folder: Path, format_name: str, max_length: int) -> Loaded:
    """Loads a model with plain `transformers` or `onnxruntime`, with as many threads as torch uses.

    Texts are padded and truncated at the end, as in training; the tokenizer of a given teacher may say otherwise.

    Args:
        folder: Folder of the tokenizer, the configuration and the file of the format.
        format_name: Name of the format, of `FORMATS`.
        max_length: Maximum length in tokens; longer examples are truncated.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, padding_side="right", truncation_side="right"
    )

    def encode(split: RawSplit, rows: slice) -> Mapping[str, Any]:
        second = None if split.sentence2 is None else split.sentence2[rows]
        tensors = "pt" if format_name == PYTORCH else "np"
        batch: Mapping[str, Any] = tokenizer(
            split.sentence1[rows], second, truncation=True, max_length=max_length, padding=True, return_tensors=tensors
        )
        return batch

    return Loaded(
        encode, _pytorch_logits(folder) if format_name == PYTORCH else _onnx_logits(folder / FORMATS[format_name].file)
    )


def load_pytorch(folder: Path, **options: str) -> Any:
    """Loads a classifier with plain `transformers`, in fp32 on the CPU.

    Args:
        folder: Hugging Face folder of the classifier.
        options: Further options of `from_pretrained`.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, **options
    )
    return model.eval()


def _pytorch_logits(folder: Path) -> Callable[[Mapping[str, Any]], npt.NDArray[np.float32]]:
    model = load_pytorch(folder)
    unread = set() if takes_segment_ids(model) else {"token_type_ids"}  # some models cannot look them up

    def logits(batch: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        inputs = {name: tensor for name, tensor in batch.items() if name not in unread}
        with torch.inference_mode():
            logits_BC: npt.NDArray[np.float32] = model(**inputs).logits.numpy()
        return logits_BC

    return logits


def _onnx_logits(file: Path) -> Callable[[Mapping[str, Any]], npt.NDArray[np.float32]]:
    import onnxruntime  # installed by the extra `onnx`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def logits(batch: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        logits_BC: npt.NDArray[np.float32] = session.run(["logits"], dict(batch))[0]
        return logits_BC

    return logits


def refusals(measured: Sequence[Mapping[str, Any]], recorded: float, sizes: Mapping[str, int]) -> dict[str, str]:
    """Returns the formats whose score differs by more than their tolerance, each with the reason.

    Args:
        measured: `format` and `metrics` of each format, PyTorch first.
        recorded: The student's score in summary.json, which PyTorch must reproduce; the others must reproduce PyTorch.
        sizes: Number of examples of each dev split.
    """
    refused = {}
    for each in measured:
        shipped, found = FORMATS[each["format"]], each["metrics"]["score"]
        expected = recorded if each["format"] == PYTORCH else measured[0]["metrics"]["score"]
        tolerance = shipped.tolerance(sizes)
        if abs(found - expected) > tolerance:
            refused[each["format"]] = (
                f"{shipped.title} scores {found:.2f} instead of {expected:.2f}; at most {tolerance:.2f} points off are "
                "allowed"
            )
    return refused
