"""The whole search: teacher, teacher outputs, trials at every depth, exported students and a report.

    python -m pkd_tune.search --task MRPC --demo
    python -m pkd_tune.search --task MRPC --gpus 8
    python -m pkd_tune.search --task MRPC --gpus 0 --teacher data/models/pretrained/minilm --depths 2 3 --trials 8

Running the same command again continues a search that was interrupted, or adds trials when --trials is larger.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pkd_tune.command_line import (
    Parser,
    Problems,
    add_data_flags,
    add_teacher_flags,
    check_fit,
    check_writable,
    find_data,
    find_encoder,
    load_examples,
    run_command,
    say,
    seed,
    training_bar,
)
from pkd_tune.config import DataConfig, SearchConfig, UserError
from pkd_tune.distillation.model_folder import layer_count, model_name
from pkd_tune.glue.data import load_features
from pkd_tune.glue.tasks import TASKS
from pkd_tune.reporting.records import (
    RUN,
    SUMMARY,
    TRIALS,
    plain,
    provenance,
    read_json,
    write_json,
    write_trials,
)
from pkd_tune.reporting.tables import learnt_nothing, plural, write_report
from pkd_tune.tuning.run_folder import check_same_search, choose_run_folder
from pkd_tune.tuning.slots import Slots, choose_slots
from pkd_tune.tuning.space import Space, find_space, load_space


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        prog="python -m pkd_tune.search",
        description="Searches Patient Knowledge Distillation students for a GLUE task; leaves report and checkpoints.",
        epilog="The same command again continues an interrupted search; a larger --trials adds to a finished one.",
    )
    add_data_flags(parser)
    add = parser.add_argument
    add(
        "--gpus",
        type=int,
        metavar="N",
        help="GPUs to use, one trial on each; 0: the CPU, one trial per core (default: all GPUs found, else the CPU)",
    )
    add_teacher_flags(parser)
    add(
        "--depths",
        type=int,
        nargs="+",
        metavar="K",
        help="student depths in layers (default: a quarter and a half of the teacher's)",
    )
    add("--trials", type=int, metavar="N", help="trials in all, shared by the depths (default: what the space says)")
    add("--space", metavar="FILE", help="search space: a TOML file, or default or demo (default: default, or demo)")
    add("--seed", type=seed, default=42, metavar="N", help="seed of sampling and of training (default: %(default)s)")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="a run is written to <out>/<TASK>/<name of the teacher>/ (default: %(default)s)",
    )
    add("--new", action="store_true", help="start another run instead of continuing the last one")
    return parser


def search(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs the command; returns its exit code: 0, 1 when no trial was completed, 130 when Ctrl-C cut it short."""
    config, space, slots = resolve(args)
    name = "demo" if args.demo else model_name(config.data.teacher_dir)
    run_dir = choose_run_folder(args.out.resolve() / config.data.task, name, new=args.new)
    record = {"demo": args.demo, "search": asdict(config), "space": asdict(space)["parameters"]}
    record = json.loads(json.dumps(record, default=plain))
    if (run_dir / RUN).exists():
        check_same_search(run_dir, read_json(run_dir / RUN), record)
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / "run.lock", blocking=False):
            record = {**record, "slots": asdict(slots), "provenance": provenance("pkd_tune.search", argv)}
            return run(config, space, slots, run_dir, record, new=args.new)
    except Timeout as error:
        raise UserError(f"{run_dir}: another search is running there; wait, or start another with --new") from error


def resolve(args: argparse.Namespace) -> tuple[SearchConfig, Space, Slots]:
    """Turns flags into settings, and finds every mistake in flags, space, data and teacher that can be found quickly.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    space = problems.attempt(lambda: load_space(find_space(args.space or ("demo" if args.demo else "default"))))
    slots = problems.attempt(lambda: choose_slots(args.gpus))
    if args.trials is not None and args.trials < 1:
        problems.found.append(f"--trials must be at least 1, but got {args.trials}")
    check_writable(args.out.resolve(), "--out", problems)
    task, data_dir = find_data(args, problems)
    folder = find_encoder(args, "--teacher", data_dir, problems)
    student_folder = find_encoder(args, "--student", data_dir, problems) if args.student else folder
    for flag, model in (("--teacher", folder), ("--student", student_folder if args.student else None)):
        if model is not None and task is not None and space is not None:
            check_fit(model, flag, task, space.max_length, problems)
    if args.student and space is not None and space.init != "pretrained":
        problems.found.append(f"--student: init in the space is {space.init!r}, the teacher; leave out --student")
    depths = None
    if folder is not None and student_folder is not None:
        most = (
            layer_count(folder)
            if folder == student_folder
            else min(layer_count(folder), layer_count(student_folder) + 1)
        )
        depths = problems.attempt(lambda: choose_depths(args.depths, most))
    if depths is not None and space is not None and (args.trials or space.trials) < len(depths):
        problems.found.append(f"--trials {args.trials}: give at least {len(depths)}, one for each depth")
    problems.raise_any()
    assert task is not None and space is not None and slots is not None  # noqa: PT018 - for the type checker
    assert folder is not None and student_folder is not None and depths is not None  # noqa: PT018
    data = DataConfig(
        task=task.name,
        data_dir=data_dir,
        teacher_dir=folder,
        student_dir=student_folder,
        max_length=space.max_length,
        init=space.init,
    )
    config = SearchConfig(
        data=data,
        teacher_trainings=tuple(replace(training, seed=args.seed) for training in space.teacher),
        student_training=replace(space.training, seed=args.seed),
        depths=depths,
        trials=args.trials or space.trials,
        seed=args.seed,
    )
    return config, space, slots


def choose_depths(asked: list[int] | None, teacher_layers: int) -> tuple[int, ...]:
    """Returns the student depths in rising order; by default a quarter and a half of the teacher's layers.

    Raises:
        UserError: For every depth that is not in 1 .. N-1.
    """
    if asked is None:
        return tuple(sorted({max(1, teacher_layers // 4), max(1, teacher_layers // 2)}))
    wrong = [
        f"--depths {depth}: a student of this {teacher_layers}-layer teacher has 1 to {teacher_layers - 1} layers"
        for depth in asked
        if not 1 <= depth < teacher_layers
    ]
    if wrong:
        raise UserError(*wrong)
    return tuple(sorted(set(asked)))


def run(config: SearchConfig, space: Space, slots: Slots, run_dir: Path, record: dict[str, Any], *, new: bool) -> int:
    """Does the work of a search in its folder: prepare, search, export, report."""
    # These take seconds to import: only now, after everything quick has been checked.
    import torch

    from pkd_tune.distillation.student import open_classroom
    from pkd_tune.distillation.teacher import prepare_teacher
    from pkd_tune.export import export_best
    from pkd_tune.tuning.engine import run_search
    from pkd_tune.tuning.study import Studies

    data, task = config.data, TASKS[config.data.task]
    raw = load_examples(task, data.data_dir, demo=record["demo"])
    depths = ", ".join(map(str, config.depths))
    say(f"{task.name}: {plural(config.trials, 'trial')} at depths {depths}; {slots.count} at once on {slots.device}")
    if 1 in config.depths:
        say("note: a student of one layer has no inner layer to imitate with; beta has no effect there")
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    with training_bar("teacher") as show:
        teacher = prepare_teacher(
            task,
            splits,
            data.teacher_dir,
            data.data_dir / "models" / "finetuned" / task.name,
            config.teacher_trainings,
            torch.device(slots.device),
            show,
        )
    say(
        f"teacher: {model_name(data.teacher_dir)}, {teacher.layers} layers, {task.name} dev score "
        f"{teacher.metrics['score']:.1f} ({task.baseline}: {teacher.majority['score']:.1f})"
    )
    record["content"] = {
        "teacher": teacher.key,
        **{name: splits[name].key for name in ("train", *task.dev_splits)},
    }
    if (run_dir / RUN).exists():
        before = read_json(run_dir / RUN)
        check_same_search(run_dir, before, record)
        record = continued(before, record)
    write_json(run_dir / RUN, record)
    open_classroom(data, teacher, torch.device(slots.device), config.student_training.seed)

    studies = Studies(run_dir / "study.log", config.depths, config.trials, space.parameters, config.seed)
    if studies.remaining():
        run_search(config, teacher, studies, run_dir, slots)
    else:
        say("all its trials are done; a larger --trials adds to them, --new starts another run")
    write_trials(run_dir / TRIALS, studies.rows())
    say("exporting the best student of each depth, and scoring what was exported")
    command = record["provenance"]["command"]
    dev = {name: raw[name] for name in task.dev_splits}
    summary = export_best(config, teacher, studies, dev, run_dir, command, demo=record["demo"])
    write_json(run_dir / SUMMARY, summary)
    report = write_report(run_dir)
    for line in closing_lines(summary, run_dir, report):
        say(line)
    if studies.unfinished():
        again = "the same command without --new" if new else "the same command"
        say(f"stopped with {plural(studies.unfinished(), 'trial')} to go; {again} continues")
        return 130
    return 0 if summary["students"] else 1


def continued(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a run that goes on: begun when and as it was, with the later commands beside it."""
    later = [*before.get("continued_with", []), now["provenance"]["command"]]
    trials = max(before["search"]["trials"], now["search"]["trials"])
    return {
        **now,
        "search": {**now["search"], "trials": trials},
        "provenance": before["provenance"],
        "continued_with": [command for command in dict.fromkeys(later) if command != before["provenance"]["command"]],
    }


def closing_lines(summary: dict[str, Any], run_dir: Path, report: Path) -> list[str]:
    """Returns what a finished search says: the best student of each depth, and where everything is."""
    teacher = summary["teacher"]
    lines = [
        f"{plural(student['layers'], 'layer')}: dev score {student['metrics']['score']:.1f} "
        f"(teacher {teacher['metrics']['score']:.1f}), {student['parameters'] / teacher['parameters']:.0%} of its "
        f"size, {teacher['latency_ms'] / student['latency_ms']:.1f} times as fast"
        + (f"; no better than {teacher['baseline']}" if learnt_nothing(student, teacher) else "")
        for student in summary["students"]
    ] or ["no trial reached the end of its training; the report says why"]
    return [
        *lines,
        f"report:      {report}",
        f"checkpoints: {run_dir / 'best'}",
        f"TensorBoard: tensorboard --logdir {run_dir / 'ray'}",
    ]


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), search))
