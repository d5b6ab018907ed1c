"""One student from the command line, and what it leaves; in this process, on tiny data."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import write_bert
from transformers import AutoModelForSequenceClassification

from pkd_tune.cli.main import run_command
from pkd_tune.workflows.distill import resolve_distill
from pkd_tune.workflows.options import DistillOptions, make_options

distill, finetune, predict = (
    importlib.import_module(f"pkd_tune.{name}") for name in ("distill", "finetune", "predict")
)
PROGRAM = "python -m pkd_tune.distill"
Run = Callable[..., tuple[int, str, str]]
QUICK = ("--epochs", "2", "--batch-size", "16", "--max-length", "32", "--gpus", "0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("distil")
    shutil.copytree(tiny_data, folder / "data")
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command's module in the home folder; returns exit code, output and errors."""
    monkeypatch.chdir(home)

    def run(module: object, *flags: str) -> tuple[int, str, str]:
        command = distill.distill if module is distill else finetune.finetune
        monkeypatch.setattr(sys, "argv", ["x", "--task", "MRPC", *flags])
        try:
            code = run_command(module.make_parser(), command)  # type: ignore[attr-defined]
        except SystemExit as left:
            code = int(str(left.code))
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def teacher(run: Run) -> str:
    """Returns the folder of a good fine-tuned teacher; made once, found again by its settings."""
    code, output, errors = run(finetune, "--model", "tiny", *QUICK, "--epochs", "6", "--learning-rate", "1e-3", "3e-3")
    assert code == 0, errors
    return output.splitlines()[-1]


def test_finetuning_all_layers_makes_a_teacher_and_its_outputs(home: Path, run: Run, teacher: str) -> None:
    record = json.loads((Path(teacher) / "result.json").read_text())
    assert record["layers"] == 4
    assert record["metrics"]["score"] > 95
    assert [training["learning_rate"] for training in record["trainings"]] == [1e-3, 3e-3]
    names = {path.name.split("-")[0] for path in (home / "data/teacher_cache/MRPC").glob("*.safetensors")}
    assert names == {"train", "dev", "test"}


def test_finetuning_first_layers_makes_a_student_without_a_teacher(run: Run) -> None:
    flags = ("--model", "tiny", "--layers", "2", *QUICK, "--learning-rate", "3e-3")
    code, output, _ = run(finetune, *flags)
    assert code == 0
    scores, folder = output.splitlines()
    assert scores.startswith("MRPC dev: F1 ")
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_hidden_layers == 2
    written = (Path(folder) / "model.safetensors").stat().st_mtime_ns
    assert run(finetune, *flags)[1] == output
    assert (Path(folder) / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("flags", "imitated", "beta"),
    [
        (("--method", "kd", "--layers", "3"), [], 0.0),
        (("--method", "pkd", "--layers", "3", "--strategy", "last", "--beta", "10"), [2, 3], 10.0),
        (("--method", "pkd", "--layers", "2", "--init", "teacher-skip"), [2], 100.0),
    ],
)
def test_a_student_records_everything_that_made_it(
    run: Run, teacher: str, flags: tuple[str, ...], imitated: list[int], beta: float
) -> None:
    code, output, errors = run(
        distill, "--teacher", teacher, *flags, *QUICK, "--learning-rate", "2e-3", "--precision", "fp32"
    )
    assert code == 0, errors
    scores, folder = output.splitlines()
    record = json.loads((Path(folder) / "result.json").read_text())
    assert record["imitated_layers"] == imitated
    assert record["distillation"]["beta"] == beta
    assert record["training"]["learning_rate"] == 2e-3
    assert record["training"]["precision"] == "fp32"
    assert record["teacher"]["layers"] == 4
    assert record["content"].keys() == {"weights", "train", "dev"}
    assert f"mean {record['metrics']['score']:.1f}" in scores
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_hidden_layers == int(flags[3])
    for i, layer in enumerate(imitated, start=1):
        assert f"{i}→{layer}" in errors


def test_a_finetuned_teacher_is_said_to_be_what_the_student_starts_from(run: Run, teacher: str) -> None:
    def student(*flags: str) -> tuple[str, str, bytes]:
        usual = ("--teacher", teacher, "--method", "kd", "--layers", "2", *QUICK, "--epochs", "1")
        code, output, errors = run(distill, *usual, *flags)
        assert code == 0, errors
        folder = Path(output.splitlines()[-1])
        init = json.loads((folder / "result.json").read_text())["distillation"]["init"]
        return init, errors, (folder / "model.safetensors").read_bytes()

    init, errors, weights = student()
    assert init == "teacher"
    assert errors.count("note: the teacher given is fine-tuned already") == 1
    assert "--student" in errors
    again, quiet, same = student("--init", "teacher", "--to", "of-the-teacher")
    assert (again, same) == ("teacher", weights)
    assert "fine-tuned already" not in quiet
    other, quiet, different = student("--student", "tiny")
    assert other == "pretrained"
    assert different != weights
    assert "fine-tuned already" not in quiet


def test_a_finetuned_model_is_no_start_beside_a_teacher(run: Run, teacher: str) -> None:
    flags = ("--teacher", "tiny", "--student", teacher, "--method", "kd", "--layers", "2", *QUICK)
    code, _, errors = run(distill, *flags)
    assert code == 2
    assert (
        errors
        == f"{PROGRAM}: error: --student {teacher}: is fine-tuned already; give a pretrained encoder, or leave it out\n"
    )


def test_the_same_command_gives_the_same_student(run: Run, teacher: str, home: Path) -> None:
    flags = ("--teacher", teacher, "--method", "pkd", "--layers", "2", *QUICK, "--learning-rate", "2e-3")
    weights = []
    for name in ("one", "two"):
        assert run(distill, *flags, "--to", name)[0] == 0
        weights.append((home / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_student_replaces_what_the_command_wrote(run: Run, teacher: str, home: Path) -> None:
    flags = ("--teacher", teacher, "--method", "kd", "--layers", "2", *QUICK, "--epochs", "1", "--to", "again")
    assert run(distill, *flags, "--seed", "1")[0] == 0
    written = {path.name for path in (home / "again").iterdir()}
    assert run(distill, *flags, "--seed", "2")[0] == 0
    assert json.loads((home / "again/result.json").read_text())["training"]["seed"] == 2
    assert {path.name for path in (home / "again").iterdir()} == written


@pytest.mark.parametrize("to", ["data", ".", "data/models/pretrained/tiny"])
def test_a_folder_of_other_things_is_refused_before_anything_is_trained(run: Run, home: Path, to: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    code, output, errors = run(distill, "--teacher", "tiny", "--method", "kd", "--layers", "2", *QUICK, "--to", to)
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1
    assert f"--to {(home / to).resolve()}: it is not empty" in errors
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == before


def test_a_folder_of_the_default_name_is_not_emptied_either(run: Run, teacher: str) -> None:
    flags = ("--teacher", teacher, "--method", "kd", "--layers", "1", *QUICK, "--epochs", "1", "--seed", "7")
    code, output, _ = run(distill, *flags)
    assert code == 0
    assert run(distill, *flags)[:2] == (0, output)
    folder = Path(output.splitlines()[-1])
    (folder / "onnx").mkdir()
    code, _, errors = run(distill, *flags)
    assert code == 2
    assert f"--to {folder}: it is not empty" in errors
    assert (folder / "onnx").is_dir()


def test_flags_without_effect_are_refused(run: Run, home: Path) -> None:
    (home / "texts.tsv").write_text("sentence1\tsentence2\na\tb\n")
    texts = ("--teacher", "tiny", "--unlabeled", "texts.tsv")
    for flags in (("--method", "kd", "--layers", "2"), ("--method", "pkd", "--layers", "1")):
        code, _, errors = run(distill, *texts, *flags, "--alpha", "0", *QUICK)
        assert code == 2
        assert "--unlabeled: without the teacher's outputs nothing is learnt from texts; leave it out" in errors


def test_published_settings_are_a_start_that_flags_override(run: Run) -> None:
    args = distill.make_parser().parse_args(
        "--task MRPC --method pkd --layers 3 --preset published --alpha 0.4 --teacher tiny --gpus 0".split()
    )
    settings = resolve_distill(make_options(DistillOptions, vars(args)), "").settings
    found = settings.distillation
    assert (found.alpha, found.beta, found.temperature, found.strategy, found.normalize) == (0.4, 10, 5, "last", True)
    assert settings.training.learning_rate == 2e-5


def test_one_layer_says_once_that_beta_has_no_effect(run: Run, teacher: str) -> None:
    code, _, errors = run(distill, "--teacher", teacher, "--method", "pkd", "--layers", "1", *QUICK, "--epochs", "1")
    assert code == 0
    assert errors.count("beta has no effect") == 1
    assert "\nwarning: a student of one layer has no intermediate layer to imitate with; beta has no effect\n" in errors
    code, _, errors = run(distill, "--teacher", teacher, "--method", "kd", "--layers", "1", *QUICK, "--epochs", "1")
    assert code == 0
    assert "warning" not in errors


def test_one_layer_can_be_used_but_not_teach(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bert(home / "shallow", layers=1)
    code, output, errors = run(finetune, "--model", "./shallow", *QUICK, "--learning-rate", "1e-3", "--seed", "5")
    assert code == 0, errors
    folder = output.splitlines()[-1]
    monkeypatch.setattr(sys, "argv", ["x", "--task", "MRPC", "--model", folder, "--gpus", "0", "--out", "predicted"])
    assert run_command(predict.make_parser(), predict.predict) == 0
    assert capsys.readouterr().out.startswith("MRPC dev: F1 ")
    code, _, errors = run(distill, "--teacher", "./shallow", "--method", "kd", "--layers", "1", *QUICK)
    assert code == 2
    assert "give one of 2 layers or more" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--method", "pkd", "--layers", "3", "--alpha", "1.5"), "alpha must be in [0, 1], but got 1.5"),
        (("--method", "kd", "--layers", "3", "--temperature", "0"), "temperature must be above 0, but got 0.0"),
        (("--method", "pkd", "--layers", "3", "--beta", "-1"), "beta must be at least 0, but got -1.0"),
        (("--method", "pkd", "--layers", "3", "--beta", "inf"), "beta must be finite, but got inf"),
        (("--method", "kd", "--layers", "3", "--temperature", "inf"), "temperature must be finite, but got inf"),
        (("--method", "kd", "--layers", "3", "--learning-rate", "inf"), "--learning-rate must be finite, but got inf"),
        (("--method", "kd", "--layers", "3", "--learning-rate", "nan"), "--learning-rate must be above 0, but got nan"),
        (("--method", "pkd", "--layers", "4"), "--layers 4: a student of a 4-layer teacher has 1 to 3 layers"),
        (("--method", "kd", "--layers", "3", "--beta", "5"), "--beta belongs to --method pkd"),
        (("--method", "kd", "--layers", "3", "--preset", "published"), "no settings were published for kd on MRPC"),
        (("--method", "pkd", "--layers", "3", "--epochs", "0"), "--epochs must be above 0, but got 0"),
        (("--method", "pkd", "--layers", "3", "--teacher", "./gone"), "./gone"),
        (("--method", "pkd", "--layers", "3", "--to", "data/models/pretrained/tiny/config.json/x"), "is a file"),
        (("--method", "best", "--layers", "3"), "--method"),
    ],
)
def test_a_mistake_is_one_line(run: Run, home: Path, flags: tuple[str, ...], says: str) -> None:
    before = sorted(home.rglob("*"))
    code, output, errors = run(distill, "--teacher", "tiny", "--gpus", "0", *flags)
    assert (code, output) == (2, "")
    assert says in errors
    assert len(errors.splitlines()) == 1
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        (distill, ("--method", "pkd", "--layers", "2"), "a lower --learning-rate than 1e+20 or a lower --beta"),
        (distill, ("--method", "kd", "--layers", "2"), "a lower --learning-rate than 1e+20\n"),
        (finetune, (), "fine-tuning with learning rate 1e+20 diverged"),
    ],
)
def test_a_loss_that_is_not_finite_is_one_line(
    run: Run, teacher: str, command: object, flags: tuple[str, ...], says: str
) -> None:
    model = ("--teacher", teacher) if command is distill else ("--model", "tiny")
    code, output, errors = run(command, *flags, *model, *QUICK, "--learning-rate", "1e20")
    assert (code, output) == (2, "")
    assert says in errors
    assert errors.count("the loss was not finite") == 1
    assert "Traceback" not in errors


def test_models_are_trained_without_a_test_split(run: Run, home: Path, tiny_data: Path) -> None:
    shutil.copytree(tiny_data, home / "untested", ignore=shutil.ignore_patterns("test.tsv", "data_feat", "finetuned"))
    usual = (*QUICK, "--data-dir", "untested", "--learning-rate", "3e-3")
    code, output, errors = run(finetune, "--model", "tiny", *usual, "--epochs", "6")
    assert code == 0, errors
    code, _, errors = run(distill, "--teacher", output.splitlines()[-1], "--method", "kd", "--layers", "2", *usual)
    assert code == 0, errors


@pytest.mark.parametrize("part", ["data_feat", "models/finetuned", "teacher_cache"])
def test_a_data_folder_that_cannot_be_written_is_one_line(run: Run, home: Path, tiny_data: Path, part: str) -> None:
    data = home / f"no-{Path(part).name}"
    shutil.copytree(tiny_data, data, ignore=shutil.ignore_patterns("data_feat", "finetuned", "teacher_cache"))
    (data / part).write_text("in the way")
    for command, model in ((distill, ("--method", "kd", "--layers", "2", "--teacher")), (finetune, ("--model",))):
        code, output, errors = run(command, *model, "tiny", *QUICK, "--data-dir", data.name)
        assert (code, output) == (2, "")
        assert errors.endswith(f"error: --data-dir {data / part}: {data / part} is a file; give a folder\n")
        assert len(errors.splitlines()) == 1


def test_a_classifier_for_another_task_is_no_teacher(run: Run, teacher: str, home: Path) -> None:
    other = home / "three"
    shutil.copytree(teacher, other)
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    (other / "config.json").write_text(json.dumps(config))
    code, _, errors = run(distill, "--teacher", "./three", "--method", "kd", "--layers", "2", *QUICK)
    assert code == 2
    assert "its classifier has 3 outputs, but MRPC needs 2" in errors.splitlines()[-1]
    config |= {"id2label": {"0": "different", "1": "equivalent"}}
    (other / "config.json").write_text(json.dumps(config))
    for command, flags in ((distill, ("--teacher", "./three", "--method", "kd", "--layers", "2")), (finetune, ())):
        code, _, errors = run(command, *flags, *(("--model", "./three") if command is finetune else ()), *QUICK)
        assert code == 2
        assert "its classes are different, equivalent, but MRPC has not_equivalent, equivalent" in errors
