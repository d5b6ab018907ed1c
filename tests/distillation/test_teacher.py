"""Fine-tuned teachers: what is cached, scored and refused."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import write_task

from pkd_tune.config import DataConfig, TrainingConfig, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.student import compute_teacher_outputs, teacher_cache_folder
from pkd_tune.distillation.teacher import MIN_TEACHER_MARGIN, Teacher, Train, finetune, finetune_once, prepare_teacher
from pkd_tune.encoders.folder import weights_key
from pkd_tune.encoders.modeling import load_classifier, save_classifier

TASK = TASKS["MRPC"]
TEACHING = TrainingConfig(epochs=6, batch_size=16, learning_rate=3e-3, seed=0)
LAZY = replace(TEACHING, epochs=1, learning_rate=1e-9)
CPU = torch.device("cpu")
Prepare = Callable[[list[TrainingConfig], Path], Teacher]


def test_a_teacher_above_the_majority_baseline_is_cached(data: DataConfig, teacher: Teacher, prepare: Prepare) -> None:
    assert teacher.metrics["score"] > 95 > teacher.majority["score"]
    assert teacher.layers == 4
    weights = teacher.folder / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert prepare([TEACHING], data.student_dir) == teacher
    assert weights.stat().st_mtime_ns == written


def test_a_finetuned_folder_is_used_unchanged(teacher: Teacher, prepare: Prepare) -> None:
    given = prepare([TEACHING], teacher.folder)
    assert given.folder == teacher.folder
    assert not given.finetuned_here
    assert given.training_scores == ()
    assert given.metrics == teacher.metrics


def test_a_teacher_at_the_majority_baseline_is_refused(data: DataConfig, prepare: Prepare) -> None:
    with pytest.raises(
        UserError,
        match=r"most frequent class, which scores .* by pkd_tune\.finetune, and give its folder as --teacher$",
    ):
        prepare([LAZY], data.student_dir)


def test_a_teacher_whose_loss_is_not_finite_is_one_line_that_names_the_rate(data: DataConfig, prepare: Prepare) -> None:
    with pytest.raises(
        UserError,
        match=r"^tiny: fine-tuning with learning rate 1e\+20 diverged: .* not finite .* a lower learning rate$",
    ):
        prepare([replace(TEACHING, learning_rate=1e20)], data.student_dir)


def test_the_best_of_several_trainings_is_kept(data: DataConfig, prepare: Prepare) -> None:
    for configs in ([LAZY, TEACHING], [TEACHING, LAZY]):
        teacher = prepare(configs, data.student_dir)
        assert teacher.metrics["score"] > 95
        record = json.loads((teacher.folder / "training.json").read_text())
        assert [each["learning_rate"] for each in record["trainings"]] == [each.learning_rate for each in configs]
        assert record["kept"]["learning_rate"] == TEACHING.learning_rate
        assert record["kept"]["dev_score"] > 95
        scores = dict(zip([each.learning_rate for each in configs], teacher.training_scores, strict=True))
        assert scores[TEACHING.learning_rate] > 95 > scores[LAZY.learning_rate]


def test_what_selects_a_teacher_and_where_it_truncates_make_it_another(data: DataConfig, tmp_path: Path) -> None:
    """A task file may name other metrics later; and short texts are the same tokens whatever the maximum length."""
    splits = load_features(TASK, data.data_dir, data.teacher_dir, 32)
    once = replace(TEACHING, epochs=1)
    folders, limits = [], []
    for task, max_length in ((TASK, 32), (TASK, 64), (replace(TASK, metrics=("accuracy",)), 64), (TASK, 32)):
        folder = finetune(
            task, splits, data.teacher_dir, 2, tmp_path, [once], CPU, lambda evaluation: None, max_length=max_length
        )
        folders.append(folder)
        limits.append(json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"])
    assert limits == [32, 64, 64, 32]
    assert len({*folders}) == 3
    assert folders[0] == folders[-1]


def test_trainings_may_run_in_any_order_and_ended_ones_are_not_repeated(data: DataConfig, tmp_path: Path) -> None:
    """As when each runs on a node of its own."""
    splits = load_features(TASK, data.data_dir, data.student_dir, data.max_length)
    configs = [replace(TEACHING, epochs=1), replace(TEACHING, epochs=2), LAZY]
    trained: list[int] = []

    def with_cache(folder: Path, train: Train | None = None) -> Path:
        return finetune(
            TASK,
            splits,
            data.student_dir,
            2,
            folder,
            configs,
            CPU,
            lambda seen: trained.append(seen.epochs),
            train=train,
        )

    def once(number: int, path: Path) -> float:
        return finetune_once(TASK, splits, data.student_dir, 2, configs[number], CPU, print, path=path)

    def backwards(paths: Sequence[Path]) -> list[float]:
        return [once(number, path) for number, path in reversed([*enumerate(paths)])][::-1]

    def only_second(paths: Sequence[Path]) -> list[float]:
        once(1, paths[1])
        for half_written in (".tmp1Ab2Cd", f".{paths[0].name}.123.partial"):  # as of a process that was killed
            paths[0].with_name(half_written).touch()
        raise KeyboardInterrupt

    one_by_one, together, again = (tmp_path / name for name in ("one by one", "together", "again"))
    made = [with_cache(one_by_one), with_cache(together, backwards)]
    with pytest.raises(KeyboardInterrupt):
        with_cache(again, only_second)
    trained.clear()
    made.append(with_cache(again))
    assert 1 in trained
    assert 2 not in trained  # it had ended
    assert len({(weights_key(folder), (folder / "training.json").read_text()) for folder in made}) == 1
    for folder in made:
        assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_dev_scores_are_computed_once_decide_about_the_teacher_and_survive_damage(
    data: DataConfig, teacher: Teacher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load_features(TASK, data.data_dir, data.student_dir, data.max_length)

    def scores(splits: dict[str, Split]) -> dict[str, float]:
        return prepare_teacher(TASK, splits, teacher.folder, tmp_path, [TEACHING], CPU, lambda evaluation: None).metrics

    assert scores(splits) == teacher.metrics
    assert MIN_TEACHER_MARGIN == 2
    (record,) = tmp_path.iterdir()
    whole = record.read_text()
    record.write_text(json.dumps({**teacher.metrics, "f1": 12.5}))
    assert scores(splits)["f1"] == 12.5
    assert scores({**splits, "dev": splits["train"]})["f1"] != 12.5  # other examples, another record
    least = teacher.majority["score"] + MIN_TEACHER_MARGIN
    record.write_text(json.dumps({**teacher.metrics, "score": least + 0.01}))
    assert scores(splits)["score"] == least + 0.01
    record.write_text(json.dumps({**teacher.metrics, "score": least - 0.01}))
    with pytest.raises(UserError, match="but must exceed always predicting the most frequent class"):
        scores(splits)
    for damaged in (whole[: len(whole) // 2].encode(), b"\xff", b"{}"):
        caplog.clear()
        record.write_bytes(damaged)
        assert scores(splits) == teacher.metrics
        assert f"{record} is damaged" in caplog.text
        assert record.read_text() == whole


@pytest.mark.parametrize(
    ("positives", "score", "passes"), [(39, 98.8, True), (39, 98.7, False), (38, 97.1, True), (38, 96.9, False)]
)
def test_a_teacher_of_rare_classes_must_halve_the_errors(
    data: DataConfig, teacher: Teacher, tmp_path: Path, positives: int, score: float, passes: bool
) -> None:
    task = replace(TASK, metrics=("accuracy",))
    splits = load_features(TASK, data.data_dir, data.student_dir, data.max_length)
    rare = replace(splits["dev"], labels=(np.arange(len(splits["dev"])) < positives).astype(np.int64))

    def prepare() -> None:
        prepare_teacher(
            task, {**splits, "dev": rare}, teacher.folder, tmp_path, [TEACHING], CPU, lambda evaluation: None
        )

    with contextlib.suppress(UserError):
        prepare()
    (record,) = tmp_path.iterdir()
    record.write_text(json.dumps({"accuracy": score, "score": score}))
    with contextlib.nullcontext() if passes else pytest.raises(UserError, match="and reach"):
        prepare()


def test_a_teacher_given_as_its_finetuned_folder_finds_its_outputs(data: DataConfig, teacher: Teacher) -> None:
    """Whose tokenizer and configuration files differ from those of the model that was fine-tuned."""
    cache = teacher_cache_folder(data)
    compute_teacher_outputs(data, teacher.folder, teacher.key, CPU)
    computed = sorted(cache.glob("*.safetensors"))
    given = replace(data, teacher_dir=teacher.folder)
    compute_teacher_outputs(given, teacher.folder, weights_key(teacher.folder), CPU)
    assert sorted(cache.glob("*.safetensors")) == computed
    assert {path.name.rsplit("-", 1)[0] for path in computed} == {"train", "dev", "test"}


def test_a_classifier_is_no_teacher_for_a_regression(tiny_data: Path, tmp_path: Path) -> None:
    task, tiny = TASKS["STS-B"], tiny_data / "models/pretrained/tiny"
    write_task(task, tmp_path)
    splits = load_features(task, tmp_path, tiny, 32)
    save_classifier(load_classifier(tiny, ("a", "b", "c"), seed=0), tiny, tmp_path / "nli")
    with pytest.raises(UserError, match="its classifier has 3 outputs, but STS-B needs 1"):
        prepare_teacher(task, splits, tmp_path / "nli", tmp_path, [TEACHING], CPU, print)


def test_a_regression_teacher_must_beat_the_mean(tiny_data: Path, tmp_path: Path) -> None:
    task, tiny = TASKS["STS-B"], tiny_data / "models/pretrained/tiny"
    write_task(task, tmp_path)
    splits = load_features(task, tmp_path, tiny, 32)
    flat = load_classifier(tiny, (), seed=0)
    flat.classifier.weight.data.zero_()
    save_classifier(flat, tiny, tmp_path / "flat")
    with pytest.raises(UserError, match=r"scores 0\.0 on STS-B dev, .* mean label, which scores 0\.0, and reach 2"):
        prepare_teacher(task, splits, tmp_path / "flat", tmp_path, [TEACHING], CPU, print)


def test_a_given_regression_teacher_of_another_scale_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    """As one that gives 0 to 1 for labels from 0 to 5: correlations, and so the score, are the same."""
    task, tiny = TASKS["STS-B"], tiny_data / "models/pretrained/tiny"
    write_task(task, tmp_path)
    splits = load_features(task, tmp_path, tiny, 32)
    config = replace(TEACHING, epochs=12)
    taught = prepare_teacher(task, splits, tiny, tmp_path / "made", [config], CPU, lambda evaluation: None)
    assert set(taught.metrics) == {"pearson", "spearman", "score"}
    given = prepare_teacher(task, splits, taught.folder, tmp_path / "given", [config], CPU, print)
    assert given.metrics == taught.metrics
    model = load_classifier(taught.folder, (), seed=0)
    for parameter in (model.classifier.weight, model.classifier.bias):
        parameter.data /= 5
    save_classifier(model, tiny, tmp_path / "other")
    with pytest.raises(
        UserError,
        match=r"^--teacher .*other: the values .* labels of STS-B dev \(mean squared error [4-9].*\) than the mean "
        r"label is \([3-5].*\), as on another scale; give a teacher of the labels' scale, or a pretrained model",
    ):
        prepare_teacher(task, splits, tmp_path / "other", tmp_path / "given", [config], CPU, print)
