"""The Python API: lazily loaded, the same names and defaults as the flags, mistakes as exceptions."""

import importlib
import inspect
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pandas as pd
import pytest

import pkd_tune
from pkd_tune.workflows import options as all_options
from pkd_tune.workflows.options import SearchOptions, as_command, make_options

OPTIONS = {
    "search": all_options.SearchOptions,
    "finetune": all_options.FinetuneOptions,
    "distill": all_options.DistillOptions,
    "predict": all_options.PredictOptions,
    "export": all_options.ExportOptions,
}


def test_importing_the_package_changes_nothing_in_the_process() -> None:
    code = """
import gc, os, sys
before = gc.get_threshold(), dict(os.environ), set(sys.modules)
import pkd_tune
assert (gc.get_threshold(), dict(os.environ)) == before[:2]
print(sorted({name.split(".")[0] for name in set(sys.modules) - before[2]} - {*sys.stdlib_module_names}))
print(callable(pkd_tune.teacher_layers), sorted({"torch", "ray"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['pkd_tune']", "True []"]


def test_names_are_functions_also_after_the_commands_were_imported() -> None:
    for name in OPTIONS:
        module = importlib.import_module(f"pkd_tune.{name}")
        assert inspect.ismodule(module)
        assert inspect.isfunction(getattr(pkd_tune, name))
    assert set(pkd_tune.__all__) <= set(dir(pkd_tune))
    with pytest.raises(AttributeError, match="no attribute 'find'"):
        getattr(pkd_tune, "find")  # noqa: B009 - mypy knows that there is none


@pytest.mark.parametrize("command", OPTIONS)
def test_every_flag_is_an_argument_with_the_same_default(command: str) -> None:
    parser = importlib.import_module(f"pkd_tune.{command}").make_parser()
    flags = {action.dest: action for action in parser._actions if action.dest not in ("help", "dry_run", "check")}
    arguments = {field.name: field.default for field in fields(OPTIONS[command])}
    assert flags.keys() == arguments.keys()
    for name, default in arguments.items():
        if default is MISSING:
            assert flags[name].required
        else:
            assert flags[name].default == default


def test_options_take_strings_for_paths_and_lists_for_sequences() -> None:
    options = make_options(SearchOptions, {"task": "MRPC", "data_dir": "~/data", "depths": [2, 3], "warm_start": "a"})
    assert (options.data_dir, options.depths) == (Path.home() / "data", (2, 3))
    assert options.warm_start == (Path("a"),)
    names = {"teacher": "~/bert", "student": "tiny", "space": "~/a.toml", "storage": "s3://bucket/~"}
    named = make_options(SearchOptions, {"task": "MRPC", **names})
    assert (named.teacher, named.student) == (str(Path.home() / "bert"), "tiny")
    assert (named.space, named.storage) == (str(Path.home() / "a.toml"), "s3://bucket/~")
    assert as_command(options) == [
        *("--task", "MRPC", "--data-dir", str(Path.home() / "data"), "--depths", "2", "3", "--warm-start", "a")
    ]
    with pytest.raises(TypeError, match="unknown argument 'trails'"):
        pkd_tune.search(task="MRPC", trails=3)
    with pytest.raises(TypeError, match="missing argument 'task'"):
        pkd_tune.search(trials=3)
    assert "trials" in inspect.signature(pkd_tune.search).parameters


def test_mistakes_raise_and_do_not_exit(tmp_path: Path) -> None:
    with pytest.raises(pkd_tune.UserError, match="did you mean MRPC"):
        pkd_tune.search(task="MRCP", data_dir=tmp_path, gpus=0)
    with pytest.raises(pkd_tune.UserError, match=r"no run\.json there"):
        pkd_tune.load_run(tmp_path)


def test_a_run_gives_its_trials_and_students(tiny_run: Path) -> None:
    run = pkd_tune.load_run(tiny_run)
    assert run.status == "finished"
    assert isinstance(run.trials, pd.DataFrame)
    assert run.trials["depth"].tolist() == [1, 1, 3, 3]
    assert f"`{run.best().folder.relative_to(tiny_run)}`" in (tiny_run / "report.md").read_text().split("##")[0]
    assert run.best(method="pkd").score == max(student.score for student in run.students)
    student = run.best(layers=1)
    model, tokenizer = student.load()
    assert model.config.num_hidden_layers == 1
    assert model(**tokenizer("red .", "blue .", return_tensors="pt")).logits.shape == (1, 2)
    with pytest.raises(pkd_tune.UserError, match=r"no student for pkd with 2 layers; it has .* pkd: 1, 3"):
        run.best(layers=2)
