"""Students of one family with teachers of another, each with its own tokenizer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_graphs import emulated_graphs
from families import write_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pkd_tune.config import DataConfig, DistillConfig, TrainingConfig
from pkd_tune.data.batches import collate
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features, load_raw
from pkd_tune.distillation.inference import predict
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.student import distill, open_student_data
from pkd_tune.distillation.teacher import Teacher, dev_metrics
from pkd_tune.distillation.train_step import TrainStep, make_optimizer
from pkd_tune.encoders.folder import classifier_key
from pkd_tune.encoders.modeling import load_classifier, run, save_classifier

TASK = TASKS["MRPC"]
CPU = torch.device("cpu")
PKD = DistillConfig(student_layers=2, alpha=0.5, beta=100.0, temperature=5.0, strategy="skip", normalize=True)
TRAINING = TrainingConfig(
    epochs=1, batch_size=32, learning_rate=3e-3, evaluations_per_epoch=1, precision="fp32", seed=0
)
Once = Callable[[str, Any], Path]


def untrained_teacher(folder: Path, data_dir: Path, kind: str, target: Path) -> Teacher:
    save_classifier(load_classifier(folder, TASK.labels, seed=0), folder, target)
    splits = load_features(TASK, data_dir, folder, 32)
    return Teacher(
        folder=target,
        key=classifier_key(target, TASK.labels),
        layers=4,
        metrics=dev_metrics(TASK, target, splits, CPU),
        majority={},
        finetuned_here=False,
    )


@pytest.mark.parametrize(
    ("teacher_kind", "student_kind", "width"),
    [
        ("deberta-v2", "bert", 32),
        ("roberta", "modernbert", 48),
        ("modernbert", "electra", 32),
        ("bert", "deberta-v2", 32),
        ("camembert", "distilbert", 48),
        ("distilbert", "xlm-roberta", 32),
    ],
)
def test_a_student_learns_from_a_teacher_of_another_family(
    teacher_kind: str, student_kind: str, width: int, tiny_data: Path, tmp_path: Path, once: Once
) -> None:
    wide = {} if width == 32 else {"hidden_size": width}
    teacher_dir = write_model(tmp_path / "teacher", teacher_kind, **wide)
    student_dir = once(f"family-{student_kind}", lambda folder: write_model(folder / "tiny", student_kind)) / "tiny"
    data = DataConfig(task=TASK, data_dir=tiny_data, teacher_dir=teacher_dir, student_dir=student_dir, max_length=32)
    teacher = untrained_teacher(teacher_dir, tiny_data, teacher_kind, tmp_path / "tuned")
    student_data = open_student_data(data, teacher, CPU)
    ids = np.array([5, 40, 2])
    of_teacher = load_features(TASK, tiny_data, teacher_dir, 32)["train"]
    whole = load_classifier(teacher.folder, TASK.labels, seed=0).eval()
    with torch.no_grad():
        expected = run(whole, collate(of_teacher, ids, CPU, whole.config.pad_token_id))
    outputs = student_data.teacher_train
    torch.testing.assert_close(outputs.logits(torch.from_numpy(ids)), expected.logits_BC, rtol=1e-4, atol=1e-4)
    states_BKH = outputs.cls(torch.from_numpy(ids), (1, 2, 3, 4)).float()
    torch.testing.assert_close(states_BKH, expected.cls_BLH, rtol=2e-3, atol=2e-3)

    seen: list[Evaluation] = []
    student, _ = distill(student_data, PKD, TRAINING, seen.append)
    assert student.config.model_type == student_kind
    losses = seen[-1].losses
    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses["kd"] > 0
    assert losses["pt"] > 0
    assert seen[-1].similarity.keys() == ({"agreement", "cosine_1"} if width == 32 else {"agreement"})

    save_classifier(student, student_dir, tmp_path / "student", max_length=32)
    raw = load_raw(TASK, tiny_data)["dev"]
    assert raw.sentence2 is not None
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    with torch.no_grad():
        inputs = tokenizer(raw.sentence1, raw.sentence2, padding=True, truncation=True, return_tensors="pt")
        expected_NC = plain(**inputs).logits
    torch.testing.assert_close(
        predict(student, student_data.dev["dev"], precision="fp32"), expected_NC, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["bert", "distilbert", "deberta-v2", "modernbert"])
def test_norms_and_biases_of_each_family_have_no_weight_decay(kind: str, once: Once) -> None:
    folder = once(f"family-{kind}", lambda folder: write_model(folder / "tiny", kind)) / "tiny"
    model = load_classifier(folder, TASK.labels, seed=0)
    decayed, plain = make_optimizer([*model.named_parameters()], 1e-3, capturable=False).param_groups
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.LayerNorm)
        for parameter in module.parameters()
    }
    assert norms
    assert norms <= {id(parameter) for parameter in plain["params"]}
    assert all(parameter.ndim > 1 for parameter in decayed["params"])


def test_transformers_own_forward_pass_is_never_captured(once: Once) -> None:
    for kind, captured in (("bert", True), ("modernbert", False)):
        folder = once(f"family-{kind}", lambda folder, kind=kind: write_model(folder / "tiny", kind)) / "tiny"
        step = TrainStep(load_classifier(folder, TASK.labels, seed=0), graphs=emulated_graphs())
        assert (step.graphs is not None) == captured
