"""Shipping a student: what is written, whether it is the same model, and when nothing is written."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pkd_tune.cli.main import run_command
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw
from pkd_tune.export import export, make_parser
from pkd_tune.reporting.document import plain
from pkd_tune.reporting.verdict import choose_student, verdict_text
from pkd_tune.workflows.export import resolve_export
from pkd_tune.workflows.finalists import measure_formats
from pkd_tune.workflows.options import ExportOptions

Ship = Callable[..., tuple[int, str, str]]
RUN = "results/MRPC/tiny"


@pytest.fixture(scope="module")
def home(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a working folder with a copy of the tiny run, and of the data it was searched on."""
    folder = tmp_path_factory.mktemp("export")
    return shutil.copytree(tiny_run.parents[2], folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def ship(home: Path) -> Ship:
    """Returns what runs the command in the working folder: exit code, standard output, standard error."""

    def ship(*flags: str) -> tuple[int, str, str]:
        output, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, chdir(home), redirect_stdout(output), redirect_stderr(errors):
            patch.setattr(sys, "argv", ["export", *flags])
            code = run_command(make_parser(), export)
        return code, output.getvalue(), errors.getvalue()

    return ship


@pytest.fixture(scope="module")
def shipped(home: Path, ship: Ship) -> tuple[Path, str]:
    """Returns a folder with every form, and what the command printed."""
    code, output, errors = ship(RUN, "--layers", "1", "--to", "out/shipped", "--onnx", "--int8")
    assert code == 0, errors
    assert errors.splitlines() == ["writing pytorch, onnx, int8", "loading and scoring each in a fresh process"]
    return home / "out" / "shipped", output


def student(home: Path) -> dict[str, Any]:
    summary = json.loads((home / RUN / "summary.json").read_text())
    found: dict[str, Any] = next(student for student in summary["students"] if student["layers"] == 1)
    return found


def test_the_folder_is_the_student_of_the_run(shipped: tuple[Path, str], home: Path) -> None:
    folder, output = shipped
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    hugging_face = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert files == hugging_face | {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert [path.name for path in folder.parent.iterdir()] == ["shipped"]  # nothing unfinished beside it
    kept = home / RUN / "best" / "1-layer" / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == kept.read_bytes()
    assert output.splitlines()[-1] == str(folder)


def test_onnx_computes_the_same_for_any_batch_and_length(shipped: tuple[Path, str]) -> None:
    folder, _ = shipped
    session = onnxruntime.InferenceSession(folder / "onnx/model.onnx")
    assert {(each.name, *each.shape) for each in session.get_inputs()} == {
        (name, "batch", "length") for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    assert [(each.name, *each.shape) for each in session.get_outputs()] == [("logits", "batch", 2)]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for words in ([1], [3, 60], [2, 40, 5, 1, 9, 9, 30]):
        first, second = ["red green " * count for count in words], ["blue same"] * len(words)
        inputs = dict(tokenizer(first, second, padding=True, return_tensors="np"))
        (logits,) = session.run(["logits"], inputs)
        with torch.inference_mode():
            expected = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_int8_holds_every_matrix_in_one_byte_a_weight(shipped: tuple[Path, str]) -> None:
    folder, _ = shipped

    def matrices(file: str) -> list[onnx.TensorProto]:
        graph = onnx.load(folder / "onnx" / file).graph
        return [each for each in graph.initializer if len(each.dims) == 2 and min(each.dims) > 1]

    quantised, whole = matrices("model_quantized.onnx"), matrices("model.onnx")
    assert {each.data_type for each in quantised} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert {each.data_type for each in whole} == {onnx.TensorProto.FLOAT}
    assert sorted(sorted(each.dims) for each in quantised) == sorted(sorted(each.dims) for each in whole)


def test_the_card_says_what_each_form_scores_weighs_and_takes(shipped: tuple[Path, str], home: Path) -> None:
    folder, output = shipped
    text = (folder / "README.md").read_text()
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert "\n".join(table) in text
    recorded = student(home)
    accuracy, f1 = recorded["metrics"]["accuracy"], recorded["metrics"]["f1"]
    for title, file in (("PyTorch, fp32", "model.safetensors"), ("ONNX, fp32", "onnx/model.onnx")):
        (row,) = [line for line in table if f"| {title} |" in line]
        size = (folder / file).stat().st_size / 1e6
        assert row.startswith(f"| {title} | `{file}` | {size:.1f} MB | {f1:.1f} | {accuracy:.1f} |")
        assert re.search(r"\| \d+\.\d ms \|$", row)
    run = json.loads((home / RUN / "run.json").read_text())
    assert f"Trained with `{run['provenance']['command']}`." in text
    assert "(seed 42" in text
    card = cast(ModelCardData, ModelCard(text).data)
    assert card.pipeline_tag == "text-classification"
    assert "onnx" in (card.tags or [])
    assert {(each.metric_type, each.metric_value) for each in card.eval_results or []} == {
        ("f1", round(f1, 2)),
        ("accuracy", round(accuracy, 2)),
    }


def test_the_code_in_the_card_runs(shipped: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = shipped
    text = (folder / "README.md").read_text().split("---\n", maxsplit=2)[2]
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, flags=re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        code = re.sub(r"^    ", "", block, flags=re.MULTILINE)
        exec(re.sub("PATH( OR NAME)? OF THIS FOLDER", str(folder), code), {})
    classified, logits = capsys.readouterr().out.splitlines()
    assert classified.startswith("{'label': '")
    assert logits.startswith("[[")


def test_int8_alone_leaves_no_fp32_onnx(tmp_path: Path, shipped: tuple[Path, str]) -> None:
    from pkd_tune.deployment.conversion import write_formats

    folder, _ = shipped
    shutil.copytree(folder, tmp_path / "student", ignore=shutil.ignore_patterns("onnx"))
    write_formats(tmp_path / "student", ["pytorch", "int8"])
    assert [path.name for path in (tmp_path / "student" / "onnx").iterdir()] == ["model_quantized.onnx"]


@contextmanager
def changed(file: Path, change: Callable[[str], str]) -> Iterator[None]:
    """Changes a file for as long as the context lasts."""
    before = file.read_text()
    file.write_text(change(before))
    try:
        yield
    finally:
        file.write_text(before)


def test_no_report_or_card_says_where_the_data_lies(shipped: tuple[Path, str], tiny_run: Path) -> None:
    for file in (tiny_run / "report.md", tiny_run / "report.html", tiny_run / "run.json", shipped[0] / "README.md"):
        assert str(tiny_run.parents[2]) not in file.read_text()


def test_a_student_that_does_not_score_as_recorded_is_refused(home: Path, ship: Ship) -> None:
    def lower(text: str) -> str:
        record = json.loads(text)
        for student in record["students"]:
            student["metrics"]["score"] -= 10
        return json.dumps(record)

    with changed(home / RUN / "summary.json", lower):
        code, output, errors = ship(RUN, "--layers", "1", "--to", "refused/student")
    assert (code, output) == (1, "")
    assert re.search(r"refused: PyTorch, fp32 scores [\d.]+ instead of [\d.]+; at most 2\.50 points off", errors)
    assert list((home / "refused").iterdir()) == []


def _no_run_json(home: Path) -> None:
    (home / RUN / "run.json").unlink()


def _no_summary(home: Path) -> None:
    (home / RUN / "summary.json").unlink()


def _no_student(home: Path) -> None:
    shutil.rmtree(home / RUN / "best")


def _no_data(home: Path) -> None:
    shutil.move(home / "data", home / "moved")


def _no_dev(home: Path) -> None:
    (home / "data/data_raw/MRPC/dev.tsv").unlink()


def _full(home: Path) -> None:
    (home / "new").mkdir()
    (home / "new" / "thesis.tex").touch()


def _file(home: Path) -> None:
    (home / "new").touch()


def _unchanged(home: Path) -> None:
    pass


TO = ("--to", "new")
MISTAKES = {
    "no-run": (_unchanged, ("results/MRPC/other", "--layers", "1", *TO), ["results/MRPC/other: no run.json there"]),
    "no-run-json": (_no_run_json, (RUN, "--layers", "1", *TO), ["no run.json there; give the folder of a run"]),
    "unfinished": (
        _no_summary,
        (RUN, "--layers", "1", *TO),
        ["has not ended", "python -m pkd_tune.search --task mrpc"],
    ),
    "layers": (
        _unchanged,
        (RUN, "--layers", "2", *TO),
        ["--layers 2 --method pkd", "no such student; it has pkd: 1, 3"],
    ),
    "method": (
        _unchanged,
        (RUN, "--layers", "1", "--method", "kd", *TO),
        ["--method kd", "it has pkd: 1, 3"],
    ),
    "method-alone": (_unchanged, (RUN, "--method", "kd", *TO), ["has no student for --method kd; it has pkd: 1, 3"]),
    "tolerance-and-layers": (
        _unchanged,
        (RUN, "--layers", "1", "--tolerance", "2", *TO),
        ["--tolerance chooses a student, and --layers names one"],
    ),
    "tolerance": (_unchanged, (RUN, "--tolerance", "nan", *TO), ["--tolerance must be at least 0, but got nan"]),
    "no-student": (_no_student, (RUN, "--layers", "1", *TO), ["best/1-layer: no model.safetensors there"]),
    "no-data": (
        _no_data,
        (RUN, "--layers", "1", *TO),
        ["/data, which holds the dev split, is not there", "--data-dir"],
    ),
    "data-dir": (_unchanged, (RUN, "--layers", "1", *TO, "--data-dir", "nowhere"), ["nowhere, which holds the dev"]),
    "dev": (_no_dev, (RUN, "--layers", "1", *TO), ["dev.tsv"]),
    "full": (_full, (RUN, "--layers", "1", *TO), ["--to", "it is not empty; give a new folder, or empty this one"]),
    "file": (_file, (RUN, "--layers", "1", *TO), ["--to", "is a file; give a new folder"]),
    "push": (_unchanged, (RUN, "--layers", "1", *TO, "--push", "student"), ["--push student: give OWNER/NAME"]),
    "public": (_unchanged, (RUN, "--layers", "1", *TO, "--public"), ["--public belongs to --push; leave it out"]),
    "working-folder": (_unchanged, (RUN, "--layers", "1", "--to", "."), ["--to", "it is not empty"]),
}


@pytest.mark.parametrize(("damage", "flags", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    flags: tuple[str, ...],
    says: list[str],
) -> None:
    shutil.copytree(tiny_run.parents[2], tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["export", *flags])
    assert run_command(make_parser(), export) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    for words in says:
        assert words in line
    assert output.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_depth_the_student_of_the_verdict_is_exported(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    summary = json.loads((home / RUN / "summary.json").read_text())
    verdict = choose_student(summary["students"], summary["teacher"], summary["tolerance"])
    assert verdict is not None
    caplog.set_level("INFO", "pkd_tune")
    request = resolve_export(ExportOptions(run=home / RUN, to=home / "out" / "verdict"))
    assert request.folder == home / RUN / verdict.student["folder"]
    assert request.verdict == verdict_text(verdict, "this student")  # which its card says
    assert caplog.messages == [plain(verdict_text(verdict))]
    other = 4 - verdict.student["layers"]
    assert resolve_export(ExportOptions(run=home / RUN, to=home / "out" / "other", layers=other)).verdict == ""


@pytest.mark.slow
def test_the_student_to_ship_is_measured_in_every_format(home: Path) -> None:
    raw = load_raw(TASKS["MRPC"], home / "data")
    folder = home / RUN / "best" / "1-layer"
    before = sorted(folder.rglob("*"))
    teacher = home / RUN / "best" / "3-layer"
    found = measure_formats(teacher, folder, {"dev": raw["dev"]}, TASKS["MRPC"], 32)
    assert [each["format"] for each in found] == ["teacher", "pytorch", "onnx", "int8"]
    assert found[1]["metrics"] == student(home)["metrics"]
    assert found[2]["metrics"] == pytest.approx(found[1]["metrics"], abs=2.6)  # an example of 40
    assert found[3]["size_mb"] < found[2]["size_mb"]
    assert min(each[name] for each in found for name in ("latency_ms", "examples_per_second")) > 0
    assert sorted(folder.rglob("*")) == before


def test_onnx_without_its_packages_names_the_extra(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    code, _, errors = ship(RUN, "--layers", "1", *TO, "--int8")
    assert code == 2
    assert errors.endswith('--int8 needs onnxruntime: pip install "pkd_tune[onnx]"\n')
