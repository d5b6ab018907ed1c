"""Writes a student's forms: its Hugging Face folder, and ONNX and int8, which need the extra `onnx`."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from pkd_tune.data.task import Task
from pkd_tune.deployment.formats import FORMATS, INT8, ONNX, load_pytorch
from pkd_tune.encoders.folder import length_limit
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier, save_classifier

OPSET = 20
"""The first with a GELU operator; onnxruntime reads it since 1.17."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export_student(weights: Path, layers: int, pretrained_dir: Path, task: Task, seed: int, target: Path) -> None:
    """Writes a student's folder from the weights its trial saved; replaces an older one.

    Args:
        weights: The safetensors file of the trial.
        layers: The student's depth.
        pretrained_dir: The encoder it was cut from, and its tokenizer.
        task: Gives the class names.
        seed: Only fills weights that `weights` then overwrites.
        target: The folder.
    """
    student = cut_to_layers(load_classifier(pretrained_dir, task.labels, seed), range(1, layers + 1))
    student.load_state_dict(load_file(weights))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_classifier(student, pretrained_dir, target, replace=True)


def write_formats(folder: Path, formats: Sequence[str]) -> None:
    """Adds the forms named to a student's Hugging Face folder, which is PyTorch's form."""
    onnx_file, int8_file = folder / FORMATS[ONNX].file, folder / FORMATS[INT8].file
    if ONNX in formats or INT8 in formats:
        write_onnx(folder, onnx_file)
    if INT8 in formats:
        write_int8(onnx_file, int8_file)
    if ONNX not in formats:
        onnx_file.unlink(missing_ok=True)


def write_onnx(folder: Path, target: Path) -> None:
    """Writes a classifier as one ONNX file: `INPUTS` of shape (batch, length), int64, to `logits` of (batch, classes).

    Args:
        folder: The classifier's Hugging Face folder.
        target: The file.
    """
    # Eager attention is what onnxruntime knows how to fuse, and has no branch on the mask's content.
    model = load_pytorch(folder, attn_implementation="eager")
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=length_limit(folder))}
    target.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        torch.onnx.export(
            model,
            kwargs={name: torch.ones(2, 8, dtype=torch.int64) for name in INPUTS},
            f=target,
            input_names=INPUTS,
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(INPUTS, shape),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def write_int8(onnx_file: Path, target: Path) -> None:
    """Writes an ONNX model with its weights, embeddings included, as int8; activations are quantised as they come.

    Every output channel of a matrix has its own scale, and weights use 7 of the 8 bits: processors without VNNI add
    two products in 16 bits, which would overflow.

    Args:
        onnx_file: What `write_onnx` wrote.
        target: The file.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(onnx_file)
    # Noted shapes are optional, and wrong once the quantiser has transposed weights: older releases trip over them.
    model.graph.ClearField("value_info")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        quantize_dynamic(model, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converters' remarks on their own insides from the user; what they wrote is checked by its score."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
