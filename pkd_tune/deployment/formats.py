"""The forms a student is shipped in, and how each is loaded and run without anything of ours.

Shapes: B examples, C classes; C is 1 for a regression.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pkd_tune.data.tsv import RawSplit
from pkd_tune.encoders.folder import WEIGHTS

PYTORCH, ONNX, INT8 = "pytorch", "onnx", "int8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One form: its file, and by how much its score may differ from the exported student's.

    The larger of the two allowances holds, for on a small dev split one example is worth more than a point.
    """

    title: str
    """What people call it."""
    file: str
    """Its weights, relative to the model's folder; the names are those the Hugging Face hub's own converters use."""
    points: float
    """Allowed difference of the score, in points."""
    examples: int
    """Allowed difference in examples of the smallest dev split."""

    def tolerance(self, sizes: Mapping[str, int]) -> float:
        """Returns the allowed difference in points, given how many examples each dev split has."""
        return max(self.points, 100 * self.examples / min(sizes.values()))


# fp32 forms compute the same sums in another order, so at most a tie falls the other way. int8 rounds every weight.
FORMATS = {
    PYTORCH: Format(title="PyTorch, fp32", file=WEIGHTS, points=0.3, examples=1),
    ONNX: Format(title="ONNX, fp32", file="onnx/model.onnx", points=0.3, examples=1),
    INT8: Format(title="ONNX, int8", file="onnx/model_quantized.onnx", points=1.0, examples=5),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model of some form, ready to run on the CPU."""

    encode: Callable[[RawSplit, slice], Mapping[str, Any]]
    """Turns rows of a split into a padded batch."""
    logits: Callable[[Mapping[str, Any]], npt.NDArray[np.float32]]
    """Returns a batch's logits, shape (B, C)."""


def load(folder: Path, format_name: str, max_length: int) -> Loaded:
    """Loads a model as any user of `transformers` or `onnxruntime` would, on as many threads as torch has.

    Args:
        folder: Holds tokenizer, configuration and the form's file.
        form: Name of the form.
        max_length: Longest example in word pieces.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

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
    """Returns the classifier in a folder in fp32 on the CPU, as plain `transformers` loads it with these options."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, **options
    )
    return model.eval()


def _pytorch_logits(folder: Path) -> Callable[[Mapping[str, Any]], npt.NDArray[np.float32]]:
    model = load_pytorch(folder)

    def logits(batch: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits_BC: npt.NDArray[np.float32] = model(**batch).logits.numpy()
        return logits_BC

    return logits


def _onnx_logits(file: Path) -> Callable[[Mapping[str, Any]], npt.NDArray[np.float32]]:
    import onnxruntime  # of the extra `onnx`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def logits(batch: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        logits_BC: npt.NDArray[np.float32] = session.run(["logits"], dict(batch))[0]
        return logits_BC

    return logits


def refusals(measured: Sequence[Mapping[str, Any]], recorded: float, sizes: Mapping[str, int]) -> dict[str, str]:
    """Returns the forms that score further off than they may, each with what is wrong.

    Args:
        measured: `format_name` and `metrics` of each, PyTorch's first.
        recorded: The score the run recorded of the student; PyTorch's form is held to it, and the others to PyTorch's.
        sizes: Examples of each dev split.
    """
    refused = {}
    for each in measured:
        format_name, found = FORMATS[each["form"]], each["metrics"]["score"]
        expected = recorded if each["form"] == PYTORCH else measured[0]["metrics"]["score"]
        if abs(found - expected) > format_name.tolerance(sizes):
            allowed = f"at most {format_name.tolerance(sizes):.2f} points off are allowed"
            refused[each["form"]] = f"{format_name.title} scores {found:.2f} instead of {expected:.2f}; {allowed}"
    return refused
