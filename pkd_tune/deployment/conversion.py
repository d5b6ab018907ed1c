"""Writes the formats of a student: its Hugging Face folder, and ONNX in fp32 and int8, which need the extra `onnx`."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from pkd_tune.config import Task
from pkd_tune.data.tokens import read_tokenizer
from pkd_tune.deployment.formats import FORMATS, INT8, ONNX, load_pytorch
from pkd_tune.encoders.folder import position_limit
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier, save_classifier
from pkd_tune.files import atomic_path

OPSET = 20
"""The first ONNX operator set with GELU; supported by onnxruntime since 1.17."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Names of the ONNX inputs; the last only where the tokenizer has segment ids."""


def export_student(
    weights: Path, layers: Sequence[int], start_dir: Path, task: Task, seed: int, target: Path, max_length: int
) -> None:
    """Writes the Hugging Face folder of a student from the weights of its trial, atomically; replaces an existing one.

    Args:
        weights: Safetensors file of the trial.
        layers: Of the model it started from, counted from 1: whether a layer attends locally or globally is not in the
            weights.
        start_dir: Folder of that model, with the tokenizer.
        task: Has the class names.
        seed: Seeds the initial weights, all of which `weights` then overwrites.
        target: The folder to write.
        max_length: Of the examples it was trained on, in tokens: where its tokenizer truncates.
    """
    student = cut_to_layers(load_classifier(start_dir, task.labels, seed), layers)
    student.load_state_dict(load_file(weights))
    save_classifier(student, start_dir, target, max_length=max_length, replace=True)


def write_formats(folder: Path, formats: Sequence[str]) -> None:
    """Adds formats to a student's Hugging Face folder, which is the PyTorch format.

    Args:
        folder: The student's folder.
        formats: Names of formats, of `formats.FORMATS`.
    """
    onnx_file, int8_file = folder / FORMATS[ONNX].file, folder / FORMATS[INT8].file
    if ONNX in formats or INT8 in formats:
        write_onnx(folder, onnx_file)
    if INT8 in formats:
        write_int8(onnx_file, int8_file)
    if ONNX not in formats:
        onnx_file.unlink(missing_ok=True)


def write_onnx(folder: Path, target: Path) -> None:
    """Writes a classifier as a single ONNX file, atomically.

    The inputs are those of `INPUTS` that its tokenizer makes, int64 of shape (batch, length) with both dimensions
    dynamic; the output is `logits`, fp32 of shape (batch, classes).

    Args:
        folder: Hugging Face folder of the classifier.
        target: The file to write.
    """
    # onnxruntime fuses eager attention; it also has no branch that depends on the values of the mask.
    model = load_pytorch(folder, attn_implementation="eager")
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=position_limit(folder))}
    made = read_tokenizer(folder).model_input_names
    inputs = [name for name in INPUTS if name in made]
    with atomic_path(target) as temporary, _quiet():
        torch.onnx.export(
            model,
            kwargs={name: torch.ones(2, 8, dtype=torch.int64) for name in inputs},
            f=temporary,
            input_names=inputs,
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(inputs, shape),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def write_int8(onnx_file: Path, target: Path) -> None:
    """Writes an ONNX model with int8 weights, embeddings included, and dynamically quantized activations, atomically.

    Quantization is per output channel. Weights use 7 of the 8 bits, because processors without VNNI add two products
    in 16 bits, which would saturate.

    Args:
        onnx_file: File of `write_onnx`.
        target: The file to write.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(onnx_file)
    # Shape annotations are optional, and wrong after the quantizer transposes weights; older releases fail on them.
    model.graph.ClearField("value_info")
    with atomic_path(target) as temporary, _quiet():
        quantize_dynamic(model, temporary, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses log messages and warnings of the converters; their output is verified by its score."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
