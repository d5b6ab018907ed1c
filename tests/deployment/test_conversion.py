"""ONNX files of every family."""

from pathlib import Path

import numpy as np
import pytest
from families import TYPES, write_model

from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw
from pkd_tune.deployment.conversion import write_formats
from pkd_tune.deployment.formats import INT8, ONNX, PYTORCH, load
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier, save_classifier


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_the_onnx_file_of_each_family_gives_pytorchs_logits(kind: str, tiny_data: Path, tmp_path: Path) -> None:
    """For one example, and for padded batches of other sizes than it was exported with."""
    pytest.importorskip("onnxruntime")
    folder, target = write_model(tmp_path / "tiny", kind), tmp_path / "student"
    student = cut_to_layers(load_classifier(folder, ("no", "yes"), seed=0), (1, 2, 4))
    save_classifier(student, folder, target, max_length=64)
    write_formats(target, (PYTORCH, ONNX, INT8))
    raw = load_raw(TASKS["MRPC"], tiny_data)["train"]
    models = {name: load(target, name, 64) for name in (PYTORCH, ONNX, INT8)}
    for rows in (slice(0, 1), slice(0, 7), slice(10, 30)):
        logits = {name: model.logits(model.encode(raw, rows)) for name, model in models.items()}
        np.testing.assert_allclose(logits[ONNX], logits[PYTORCH], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits[INT8], logits[PYTORCH], atol=0.15)
