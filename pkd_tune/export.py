"""Ships a student of a search: its Hugging Face folder, and ONNX and int8 forms of it, each loaded and scored again.

python -m pkd_tune.export results/MRPC/minilm --layers 3 --to mrpc-3-layer
python -m pkd_tune.export results/MRPC/minilm --layers 3 --to mrpc-3-layer --onnx --int8
"""

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pkd_tune.cli.command_line import Parser, Problems, run_command, say
from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import check_source, load_raw
from pkd_tune.data.task import Task
from pkd_tune.encoders.folder import WEIGHTS
from pkd_tune.reporting.formatting import metric_titles
from pkd_tune.reporting.run import data_folder, find_student, finished_run
from pkd_tune.workflows.output_dir import check_new

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writing and running ONNX takes; the extra `onnx` installs them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """What is to be shipped, resolved."""

    run: dict[str, Any]
    """The run's run.json."""
    teacher: dict[str, Any]
    """As summary.json has it."""
    student: dict[str, Any]
    """As summary.json has it."""
    folder: Path
    """Where the run keeps the student."""
    task: Task
    """What the student predicts."""
    data_dir: Path
    """Holds the dev split."""
    target: Path
    """The folder to write."""
    formats: tuple[str, ...]
    """What is written: PyTorch's form always, and first."""


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        prog="python -m pkd_tune.export",
        description="Ships a student of a search: a Hugging Face folder with a model card, and ONNX. Each form is "
        "loaded in a fresh process and scored on dev again; one that scores differently is refused.",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a search's run, for example results/MRPC/minilm")
    add("--layers", type=int, required=True, metavar="K", help="depth of the student")
    add("--method", default="pkd", help="how the student was trained, where a run has several (default: %(default)s)")
    add("--to", type=Path, required=True, metavar="DIR", help="the folder to write: a new one, or an empty one")
    add("--onnx", action="store_true", help="also write ONNX for onnxruntime, with dynamic batch and length")
    add("--int8", action="store_true", help="also write ONNX with int8 weights, dynamically quantised")
    add("--data-dir", type=Path, metavar="DIR", help="what the search had as --data-dir (default: as the run says)")
    return parser


def export(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs the command; returns its exit code: 0, or 1 when a form scores differently from the student."""
    request = resolve(args)
    # These take seconds to import: only now, after everything quick has been checked.
    from pkd_tune.deployment.conversion import write_formats
    from pkd_tune.deployment.formats import PYTORCH, refusals
    from pkd_tune.deployment.measurement import in_fresh_process, latencies_ms, latency_machine, measure
    from pkd_tune.deployment.model_card import formats_table, write_card

    task, max_length = request.task, request.run["search"]["data"]["max_length"]
    raw = load_raw(task, request.data_dir)
    dev = {name: raw[name] for name in task.dev_splits}
    unfinished = request.target.with_name(f".{request.target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        # copyfile, for the weights that transformers saves can be read by their owner alone.
        kept = shutil.ignore_patterns("README.md")
        shutil.copytree(request.folder, unfinished, ignore=kept, copy_function=shutil.copyfile)
        say(f"writing {', '.join(request.formats)}")
        write_formats(unfinished, request.formats)
        say("loading and scoring each in a fresh process")
        formats = [
            {"format": format_name, **in_fresh_process(measure, unfinished, dev, task, max_length, format_name)}
            for format_name in request.formats
        ]
        refused = refusals(
            formats, request.student["metrics"]["score"], {name: len(split) for name, split in dev.items()}
        )
        for format_name, reason in refused.items():
            remedy = f"is {request.folder} or the data in {request.data_dir} not what the search had?"
            say(f"refused: {reason}; {remedy if format_name == PYTORCH else f'leave out --{format_name}'}")
        if refused:
            return 1
        models = [(unfinished, format_name) for format_name in request.formats]
        timed = latencies_ms(models, dev[task.dev_splits[0]], max_length)
        for each, latency in zip(formats, timed, strict=True):
            each["latency_ms"] = latency
        write_card(
            request.student,
            request.teacher,
            task,
            request.run["provenance"]["command"],
            unfinished,
            seed=request.run["search"]["student_training"]["seed"],
            demo=request.run["demo"],
            select_on=request.run["search"]["data"].get("select_on", "dev"),
            formats=formats,
            latency_on=latency_machine(),
        )
        os.replace(unfinished, request.target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(formats_table(formats, metric_titles(request.student["metrics"])))
    print(request.target)
    return 0


def resolve(args: argparse.Namespace) -> ExportRequest:
    """Turns flags into what is to be shipped.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    formats = ["pytorch", *(name for name in ("onnx", "int8") if getattr(args, name))]
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing and len(formats) > 1:
        problems.found.append(f'--{formats[1]} needs {", ".join(missing)}: pip install "pkd_tune[onnx]"')
    target = args.to.resolve()
    check_new(target, problems)
    records = problems.attempt(lambda: finished_run(args.run))
    if records is None:
        raise UserError(*problems.found)
    run, summary = records
    student = problems.attempt(lambda: find_student(args.run, summary, args.layers, args.method))
    data_dir = data_folder(args.run, run)
    if args.data_dir is not None:
        data_dir = args.data_dir.resolve() / "demo" if run["demo"] else args.data_dir.resolve()
    task = TASKS[run["search"]["data"]["task"]]
    if data_dir.is_dir():
        problems.found += check_source(task, data_dir)
    else:
        problems.found.append(f"{data_dir}, which holds the dev split, is not there; say where it is with --data-dir")
    problems.raise_any()
    assert student is not None
    folder = args.run.resolve() / student["folder"]
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: no {WEIGHTS} there; the command of the search, run again, writes it")
    return ExportRequest(
        run=run,
        teacher=summary["teacher"],
        student=student,
        folder=folder,
        task=task,
        data_dir=data_dir,
        target=target,
        formats=tuple(formats),
    )


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), export))
