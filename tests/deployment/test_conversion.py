"""Teacher, student and export agree for tasks unlike MRPC, without Ray; ONNX files of every family."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from families import TYPES, write_model
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file
from tiny import write_task
from transformers import AutoModelForSequenceClassification

from pkd_tune.config import DataConfig, DistillConfig, Task, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features, load_raw
from pkd_tune.deployment.conversion import export_student, write_formats
from pkd_tune.deployment.formats import INT8, ONNX, PYTORCH, load
from pkd_tune.deployment.measurement import measure
from pkd_tune.deployment.model_card import METRIC_TYPES, write_card
from pkd_tune.distillation.layer_map import start_layers
from pkd_tune.distillation.student import distill, open_student_data
from pkd_tune.distillation.teacher import prepare_teacher
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier, save_classifier

CPU = torch.device("cpu")
TEACHING = TrainingConfig(epochs=8, batch_size=16, learning_rate=4e-3, evaluations_per_epoch=1, seed=0)
PKD = DistillConfig(student_layers=2, alpha=0.5, beta=10.0, temperature=5.0, strategy="skip", normalize=True)


@pytest.mark.parametrize("task", [TASKS["STS-B"], TASKS["MNLI"]], ids=lambda task: task.name)
def test_teacher_student_and_export_agree(task: Task, tiny_data: Path, tmp_path: Path) -> None:
    write_task(task, tmp_path, train=160)
    tiny = tiny_data / "models/pretrained/tiny"
    data = DataConfig(task=task, data_dir=tmp_path, teacher_dir=tiny, student_dir=tiny, max_length=32)
    splits = load_features(task, tmp_path, tiny, 32)
    finetuned = tmp_path / "models/finetuned"
    teacher = prepare_teacher(task, splits, tiny, finetuned, [TEACHING], CPU, lambda evaluation: None)
    assert teacher.metrics["score"] > 80 > teacher.majority["score"]
    # A fine-tuned folder is taken as it is.
    assert prepare_teacher(task, splits, teacher.folder, finetuned, [TEACHING], CPU, print).metrics == teacher.metrics

    student_data = open_student_data(data, teacher, CPU)
    cached = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "teacher_cache").rglob("*.safetensors")}
    assert cached == {"train", *task.dev_splits}
    student, result = distill(student_data, PKD, TEACHING, lambda evaluation: None)
    assert result.best.losses["kd"] > 0

    save_file(student.state_dict(), tmp_path / "weights.safetensors")
    target = tmp_path / "best" / "2-layer"
    export_student(tmp_path / "weights.safetensors", (1, 2), tiny, task, 0, target, max_length=32)
    raw = load_raw(task, tmp_path)
    dev = {name: raw[name] for name in task.dev_splits}
    measured = measure(target, dev, task, 32)
    assert measured["examples"] == sum(map(len, dev.values()))
    # Training scores in bf16 where the processor has it, which swaps some ranks; a class changes only at a tie.
    assert measured["metrics"] == pytest.approx(result.best.metrics, abs=2.0 if task.regression else 3.0)

    plain = AutoModelForSequenceClassification.from_pretrained(target)
    assert plain.config.num_labels == task.outputs
    assert plain.config.problem_type == ("regression" if task.regression else "single_label_classification")
    if not task.regression:
        assert plain.config.id2label == dict(enumerate(task.labels))

    facts: dict[str, Any] = {
        "layers": 2,
        "method": "pkd",
        "confirmed": None,
        "trial": 0,
        "settings": {},
        "imitated_layers": [2],
        "latency_ms": 1.0,
        **measured,
    }
    whole = {"layers": 4, "name": "tiny", "latency_ms": 2.0, **measured}
    write_card(facts, whole, task, "a command", target, seed=0, demo=False)
    card = (target / "README.md").read_text()
    metadata = cast(ModelCardData, ModelCard(card).data)
    found = {(each.dataset_split, each.metric_type): each.metric_value for each in metadata.eval_results or []}
    assert found == {
        (task.split(split).hub, METRIC_TYPES[name]): round(measured["metrics"][name + task.split(split).suffix], 2)
        for split in dev
        for name in task.metrics
    }
    assert ("a number" if task.regression else "0 entailment, 1 neutral, 2 contradiction") in card


def test_a_student_of_every_second_layer_attends_as_these_did(tmp_path: Path) -> None:
    """ModernBERT's layers attend locally or globally, which their weights do not say."""
    folder, target = write_model(tmp_path / "tiny", "modernbert"), tmp_path / "student"
    layers = start_layers("teacher-skip", 2, 4)
    whole = load_classifier(folder, TASKS["MRPC"].labels, seed=0)
    student = cut_to_layers(whole, layers).eval()
    assert student.config.layer_types != cut_to_layers(whole, (1, 2)).config.layer_types
    save_file(student.state_dict(), tmp_path / "weights.safetensors")
    export_student(tmp_path / "weights.safetensors", layers, folder, TASKS["MRPC"], 0, target, max_length=64)
    plain = AutoModelForSequenceClassification.from_pretrained(target).eval()
    ids = torch.arange(40).reshape(1, 40) % student.config.vocab_size
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, student(input_ids=ids).logits)


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
