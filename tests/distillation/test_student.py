import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import write_model
from tiny import write_bert

from pkd_tune.config import DataConfig, DistillConfig, Init, TrainingConfig, UserError
from pkd_tune.data.batches import collate
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.inference import evaluate
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.losses import pkd_loss
from pkd_tune.distillation.student import ModelPool, StudentData, distill, open_student_data
from pkd_tune.distillation.teacher import Teacher, prepare_teacher
from pkd_tune.encoders import modeling
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier

TASK = TASKS["MRPC"]
TEACHING = TrainingConfig(epochs=6, batch_size=16, learning_rate=3e-3, seed=0)
TRAINING = TrainingConfig(epochs=2, batch_size=16, learning_rate=2e-3, seed=0)
PKD = DistillConfig(student_layers=3, alpha=0.5, beta=10.0, temperature=5.0, strategy="skip", normalize=True)
CPU = torch.device("cpu")


def nothing(evaluation: Evaluation) -> None:
    pass


@pytest.fixture(scope="module")
def student_data(data: DataConfig, teacher: Teacher) -> StudentData:
    return open_student_data(data, teacher, CPU)


def run(
    student_data: StudentData,
    config: DistillConfig,
    training: TrainingConfig = TRAINING,
    model_pool: ModelPool | None = None,
) -> list[Evaluation]:
    evaluations: list[Evaluation] = []
    distill(student_data, config, training, evaluations.append, model_pool=model_pool)
    return evaluations


def test_a_cache_that_is_not_the_teachers_is_refused(
    data: DataConfig, teacher: Teacher, student_data: StudentData
) -> None:
    wrong = replace(teacher, metrics={**teacher.metrics, "score": 50.0})
    with pytest.raises(UserError, match="delete this folder"):
        open_student_data(data, wrong, CPU)


def test_a_student_learns_and_depends_on_its_settings_alone(student_data: StudentData) -> None:
    """Not on earlier training runs in the process: generators are seeded, and shared weights are not changed."""
    before = {name: tensor.clone() for name, tensor in student_data.start("pretrained", 0).state_dict().items()}
    first = run(student_data, PKD)
    for other in (replace(PKD, student_layers=2, strategy="last"), replace(PKD, alpha=1.0, beta=0.0)):
        run(student_data, other, replace(TRAINING, seed=5))
    again = run(student_data, PKD)
    assert [e.metrics for e in again] == [e.metrics for e in first]
    assert [e.losses["total"] for e in again] == [e.losses["total"] for e in first]
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in student_data.start("pretrained", 0).state_dict().items()
    )
    assert first[-1].losses["total"] < first[0].losses["total"]


def test_texts_without_labels_teach_distilled_students_alone(
    data: DataConfig, teacher: Teacher, student_data: StudentData, tmp_path: Path
) -> None:
    path = tmp_path / "more.csv"
    rows = [f"red {word} .,blue {word} same ." for word in ("old", "new", "warm", "cold", "near", "far") * 8]
    path.write_text("\n".join(["sentence1,sentence2", *rows]) + "\n")
    more = open_student_data(replace(data, unlabeled=path), teacher, CPU)
    n = len(student_data.train)
    assert len(more.train) == len(more.teacher_train.logits_NC) == n + 48
    ids = torch.arange(n)
    torch.testing.assert_close(
        more.teacher_train.logits(ids), student_data.teacher_train.logits(ids), atol=1e-4, rtol=0
    )
    said = more.teacher_train.logits(torch.tensor([n, n + 6]))
    assert torch.equal(said[0], said[1])  # of the same text

    alone = replace(PKD, alpha=0.0, beta=0.0)
    model_pool = ModelPool()
    for config in (PKD, alone):
        run(more, config, model_pool=model_pool)
    assert [source.outputs is None for source in model_pool.sources.values()] == [False, True]  # kept once
    seen, same = run(more, alone), run(student_data, alone)
    assert [e.losses["total"] for e in seen] == [e.losses["total"] for e in same]
    for config in (PKD, replace(PKD, beta=0.0), replace(PKD, alpha=0.0)):
        taught, before = run(more, config), run(student_data, config)
        assert taught[-1].losses["total"] != before[-1].losses["total"]
        assert math.isfinite(taught[-1].losses["total"])


@pytest.mark.parametrize(
    ("change", "term_is_used"),
    [
        ({"alpha": 0.0}, {"kd": False, "pt": True}),
        ({"beta": 0.0}, {"kd": True, "pt": False}),
        ({"student_layers": 1}, {"kd": True, "pt": False}),  # one layer has no intermediate layer to imitate with
        ({}, {"kd": True, "pt": True}),
    ],
)
def test_terms_without_weight_are_left_out(
    student_data: StudentData, change: dict[str, Any], term_is_used: dict[str, bool]
) -> None:
    (first, *_) = run(student_data, replace(PKD, **change), replace(TRAINING, epochs=1))
    assert {name: first.losses[name] > 0 for name in ("kd", "pt")} == term_is_used


@pytest.mark.parametrize("init", ["teacher", "teacher-skip"])
def test_a_student_can_start_from_the_teacher(data: DataConfig, teacher: Teacher, init: Init) -> None:
    """Started from a teacher that knows the task, even an almost untrained student is far above guessing."""
    model_pool = ModelPool()
    student_data = open_student_data(data, teacher, CPU)
    once = replace(TRAINING, epochs=1)
    before = run(student_data, PKD, once, model_pool)  # a process that was used for another start
    evaluations = run(student_data, replace(PKD, init=init), once, model_pool)
    assert evaluations[0].metrics["score"] > 90 > before[0].metrics["score"]
    assert student_data.start("teacher", 0) is student_data.start("teacher", 0)


def test_a_process_that_was_used_for_other_layers_of_modernbert_trains_the_same(
    tiny_data: Path, tmp_path: Path
) -> None:
    """Its layers attend locally or globally, which is more than the weights that a process overwrites."""
    shutil.copytree(tiny_data / "data_raw", tmp_path / "data_raw")
    folder = write_model(tmp_path / "modern", "modernbert")
    data = DataConfig(task=TASK, data_dir=tmp_path, teacher_dir=folder, student_dir=folder, max_length=32)
    splits = load_features(TASK, tmp_path, folder, 32)
    teacher = prepare_teacher(TASK, splits, folder, tmp_path / "tuned", [replace(TEACHING, epochs=1)], CPU, nothing)
    student_data, model_pool = open_student_data(data, teacher, CPU), ModelPool()
    once = replace(TRAINING, epochs=1, precision="fp32")
    skip = replace(PKD, student_layers=2, init="teacher-skip")
    run(student_data, replace(skip, init="teacher"), once, model_pool)
    assert run(student_data, skip, once, model_pool) == run(student_data, skip, once)


def test_each_seed_draws_the_weights_that_a_pretrained_model_does_not_have(data: DataConfig, teacher: Teacher) -> None:
    """The classifier of a student that starts from the teacher is the teacher's, whatever the seed."""
    student_data, model_pool = open_student_data(data, teacher, CPU), ModelPool()
    still = replace(TRAINING, epochs=1, learning_rate=1e-12)

    def head(init: Init, seed: int) -> torch.Tensor:
        student, _ = distill(
            student_data, replace(PKD, init=init), replace(still, seed=seed), nothing, model_pool=model_pool
        )
        weight: torch.Tensor = student.state_dict()["classifier.weight"]
        return weight.clone()

    first, second = head("pretrained", 1), head("pretrained", 2)
    expected = [load_classifier(data.student_dir, data.task.labels, seed) for seed in (1, 2)]
    assert torch.allclose(first, expected[0].state_dict()["classifier.weight"], atol=1e-6)
    assert torch.allclose(second, expected[1].state_dict()["classifier.weight"], atol=1e-6)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.allclose(head("teacher", 1), head("teacher", 2), atol=1e-6)
    assert torch.allclose(head("pretrained", 1), first, atol=1e-6)  # after another seed


def test_a_narrower_student_learns_through_a_projection(data: DataConfig, teacher: Teacher, tmp_path: Path) -> None:
    write_bert(tmp_path / "narrow", width=16)
    student_data = open_student_data(replace(data, student_dir=tmp_path / "narrow"), teacher, CPU)
    student, fitted = distill(student_data, PKD, TRAINING, nothing)
    assert student.config.hidden_size == 16
    assert not any("projection" in name for name in student.state_dict())
    evaluations = run(student_data, PKD)
    assert evaluations[-1].losses["pt"] < 0.8 * evaluations[0].losses["pt"]
    assert evaluations[-1].metrics == fitted.last.metrics  # its weights come from the seed too


def test_embeddings_of_tokens_that_occur_are_trained(student_data: StudentData) -> None:
    tokens = student_data.tokens
    assert tokens is not None
    assert set(tokens) == {*student_data.train.input_ids, *student_data.dev["dev"].input_ids}
    assert len(tokens) < student_data.start("pretrained", 0).config.vocab_size


def test_strategies_differ(student_data: StudentData) -> None:
    skip, last = (
        run(student_data, replace(PKD, strategy=strategy), replace(TRAINING, epochs=1))[0].losses["pt"]
        for strategy in ("skip", "last")
    )
    assert skip != last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], but got 1.5"),
        ({"beta": -1.0}, "beta must be at least 0, but got -1.0"),
        ({"temperature": 0.0}, "temperature must be above 0, but got 0.0"),
        ({"beta": math.inf}, "beta must be finite, but got inf"),
        ({"beta": math.nan}, "beta must be at least 0, but got nan"),
        ({"temperature": math.inf}, "temperature must be finite, but got inf"),
        ({"temperature": math.nan}, "temperature must be above 0, but got nan"),
        ({"alpha": math.nan}, r"alpha must be in \[0, 1\], but got nan"),
        ({"student_layers": 0}, "student_layers must be at least 1, but got 0"),
        ({"strategy": "first"}, "strategy must be skip or last, but got 'first'"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(PKD, **change)


def test_the_first_step_is_the_loss_by_hand(tiny_data: Path, tmp_path: Path) -> None:
    """Student layers 1..k-1 meet the mapped teacher layers of the same examples, whatever the order of the batch."""
    write_bert(tmp_path / "still", dropout=0.0)
    data = DataConfig(
        task=TASK,
        data_dir=tiny_data,
        teacher_dir=tmp_path / "still",
        student_dir=tmp_path / "still",
        max_length=32,
    )
    splits = load_features(TASK, tiny_data, data.teacher_dir, 32)
    still = prepare_teacher(TASK, splits, data.teacher_dir, tmp_path / "made", [TEACHING], CPU, nothing)
    student_data = open_student_data(data, still, CPU)
    everything = TrainingConfig(epochs=1, batch_size=len(splits["train"]), evaluations_per_epoch=1, learning_rate=1e-9)
    config = replace(PKD, strategy="last", normalize=False)
    (evaluation,) = run(student_data, config, everything)

    batch = collate(splits["train"], np.arange(len(splits["train"])), CPU, pad_id=0)
    student = cut_to_layers(student_data.start("pretrained", everything.seed), (1, 2, 3)).eval()
    teacher = load_classifier(still.folder, TASK.labels, seed=0).eval()
    of_student, of_teacher = modeling.run(student, batch), modeling.run(teacher, batch)
    expected = pkd_loss(
        of_student.logits_BC,
        of_teacher.logits_BC,
        batch.labels_B,
        of_student.cls_BLH[:, [0, 1]],
        of_teacher.cls_BLH[:, [1, 2]],
        alpha=config.alpha,
        beta=config.beta,
        temperature=config.temperature,
        normalize=False,
    )
    for name, value in expected._asdict().items():
        # The training step may run in bf16.
        assert evaluation.losses[name] == pytest.approx(value.item(), rel=0.03), name


def test_what_training_leaves_is_its_best_evaluation(student_data: StudentData) -> None:
    """Also when the last one is worse: a rate that destroys what was learnt."""
    for seed in range(20):
        training = replace(TRAINING, epochs=3, learning_rate=8e-3, seed=seed)
        student, fitted = distill(student_data, PKD, training, nothing)
        if fitted.last.metrics["score"] < fitted.best.metrics["score"]:
            break
    else:
        raise AssertionError("no seed ended below its best")
    assert evaluate(student, student_data.dev, TASK)[0] == fitted.best.metrics
