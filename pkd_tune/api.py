"""The Python API: what the commands do, as functions. `import pkd_tune` makes them available as `pkd_tune.search` etc.

Arguments have the names and defaults of the commands' flags (`--data-dir` is `data_dir`); mistakes raise `UserError`.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from pkd_tune.workflows.distill import distill as _distill
from pkd_tune.workflows.distill import resolve_distill
from pkd_tune.workflows.export import Exported, resolve_export
from pkd_tune.workflows.export import export as _export
from pkd_tune.workflows.finetune import TrainedModel, resolve_finetune
from pkd_tune.workflows.finetune import finetune as _finetune
from pkd_tune.workflows.finished_run import SearchRun, load_run
from pkd_tune.workflows.options import (
    DistillOptions,
    ExportOptions,
    FinetuneOptions,
    PredictOptions,
    SearchOptions,
    command_line,
    make_options,
)
from pkd_tune.workflows.predict import Prediction, resolve_predict
from pkd_tune.workflows.predict import predict as _predict
from pkd_tune.workflows.request import resolve_search

__all__ = ["check", "distill", "export", "finetune", "load_run", "plan", "predict", "search"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _arguments_of(options: type) -> Callable[[Function], Function]:
    """Shows the fields of the options as the function's signature, for help() and completion."""

    def decorate(function: Function) -> Function:
        parameters = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=field.type,
            )
            for field in fields(options)
        ]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


@_arguments_of(SearchOptions)
def search(**arguments: Any) -> SearchRun:
    """Searches distillation settings for a task, or continues the search that was begun with the same arguments.

    Returns:
        What the search left: `run.best(layers=3).load()` is a transformers model and its tokenizer, `run.trials` a
        DataFrame with every training, `run.report` the path of the report.

    Raises:
        TypeError: For an unknown or a missing argument.
        UserError: With everything that is wrong with the arguments, the data or the models.
    """
    from pkd_tune.workflows.search import search as run

    options = make_options(SearchOptions, arguments)
    return run(resolve_search(options, command_line(options)))


@_arguments_of(SearchOptions)
def plan(**arguments: Any) -> str:
    """Returns what a search would cost, as text: trials, epochs, hours and disk, from a few timed steps.

    Raises:
        TypeError: For an unknown or a missing argument.
        UserError: With everything that is wrong with the arguments, the data or the models.
    """
    from pkd_tune.workflows.dry_run import plan as plan_of

    options = make_options(SearchOptions, arguments)
    return plan_of(resolve_search(options, command_line(options)))


@_arguments_of(SearchOptions)
def check(**arguments: Any) -> str:
    """Returns how the data of a search's task was understood, as text: classes, lengths, what is truncated, duplicates.

    Raises:
        TypeError: For an unknown or a missing argument.
        UserError: With everything that is wrong with the arguments, the data or the models.
    """
    from pkd_tune.workflows.data_check import check as check_data

    options = make_options(SearchOptions, arguments)
    return check_data(resolve_search(options, command_line(options)))


@_arguments_of(FinetuneOptions)
def finetune(**arguments: Any) -> TrainedModel:
    """Fine-tunes a model for a task, unless that was done before; returns its folder and its scores on dev.

    Raises:
        TypeError: For an unknown or a missing argument.
        UserError: With everything that is wrong with the arguments, the data or the model.
    """
    options = make_options(FinetuneOptions, arguments)
    return _finetune(resolve_finetune(options, command_line(options)))


@_arguments_of(DistillOptions)
def distill(**arguments: Any) -> TrainedModel:
    """Distils one student at given settings; returns its folder and its scores on dev.

    Raises:
        TypeError: For an unknown or a missing argument.
        UserError: With everything that is wrong with the arguments, the data or the models.
    """
    options = make_options(DistillOptions, arguments)
    return _distill(resolve_distill(options, command_line(options)))


@_arguments_of(PredictOptions)
def predict(**arguments: Any) -> list[Prediction]:
    """Predicts and scores splits with fine-tuned models; returns the scores and the Parquet file of each split.

    Raises:
        TypeError: For an unknown or a missing argument.
        UserError: With everything that is wrong with the arguments, the data or the models.
    """
    options = make_options(PredictOptions, arguments)
    return _predict(resolve_predict(options, command_line(options)))


def export(run: SearchRun | Path | str, *, to: Path | str, **arguments: Any) -> Exported:
    """Exports a student of a search, and scores every format of it again.

    Args:
        run: What `search()` returned, or a run's folder.
        to: The folder to write: a new one, or an empty one.
        arguments: `layers`, `method`, `tolerance`, `onnx`, `int8`, `task`, `data_dir`, as the command has them.

    Raises:
        TypeError: For an unknown argument.
        UserError: With everything that is wrong with the arguments, or when a format scores differently.
    """
    folder = run.folder if isinstance(run, SearchRun) else run
    return _export(resolve_export(make_options(ExportOptions, {"run": folder, "to": to, **arguments})))
