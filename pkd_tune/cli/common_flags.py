"""Flags: a parser whose mistakes are one line each, and the groups of flags that several commands have.

Defaults come from the options' dataclasses (`pkd_tune.workflows.options`), which Python callers use as well.
"""

import argparse
import difflib
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, get_args

from pkd_tune.config import Precision
from pkd_tune.data.glue import TASKS


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line each."""

    after_ctrl_c = "what is written is complete, and the same command starts again"
    """What is said after an interruption; commands that can continue say so."""

    def __init__(self, module: str, **settings: Any) -> None:
        super().__init__(prog=f"python -m {module}", allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Prints what is wrong and exits with code 2; an unknown flag is told the nearest known one."""
        if unknown := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            known = [flag for action in self._actions for flag in action.option_strings]
            if near := difflib.get_close_matches(unknown[1], known, n=1):
                message += f"; did you mean {near[0]}?"
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def use_defaults_of(self, options: type) -> None:
        """Gives every flag the default of the field that it sets."""
        defaults = {field.name: field.default for field in fields(options) if field.default is not MISSING}
        flags = {action.dest for action in self._actions}
        self.set_defaults(**{name: value for name, value in defaults.items() if name in flags})


def whole_numbers(text: str) -> list[int]:
    """Returns the whole numbers of `1`, or of `1,2`."""
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be whole numbers, but got {text!r}") from error


class Extend(argparse.Action):
    """Adds values to those of the same flag before: `--set A=1 --set B=2` and `--set A=1 B=2` mean the same.

    Unlike argparse's own `extend`, the first use of the flag replaces its default.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Stores the values of all uses so far."""
        before = getattr(namespace, self.dest, self.default)
        setattr(namespace, self.dest, [*(() if before is self.default else before), *values])


class Flatten(Extend):
    """The same for lists, so that `--depths 1,2` and `--depths 1 2` mean the same."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Stores the joined list."""
        super().__call__(parser, namespace, [number for part in values for number in part], option_string)


TASK_HELP = (
    "what is classified: a task of GLUE; a task file (tickets.toml) or a folder with train.csv, for data of your own; "
    "or hub:owner/name, a dataset on the Hugging Face hub"
)


def add_data_flags(parser: Parser) -> None:
    """Adds the flags that say which examples: --task, --demo, --data-dir."""
    trainable = ", ".join(name for name, task in TASKS.items() if task.trainable)
    add = parser.add_argument
    add("--task", required=True, metavar="TASK", help=f"{TASK_HELP} (GLUE: {trainable})")
    add(
        "--demo",
        action="store_true",
        help="use a small synthetic corpus (of a GLUE task, or of `tickets`) and model: nothing is downloaded",
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="holds data_raw/<TASK>/*.tsv and models/pretrained/<name>; what is not there comes from the Hugging Face "
        "hub (default: %(default)s)",
    )


def add_teacher_flags(parser: Parser) -> None:
    """Adds the flags that name the models: --teacher, --student."""
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="encoder to fine-tune as the teacher, or a classifier fine-tuned for the task: a folder, a name under "
        "models/pretrained, or a name on the hub (default: %(default)s)",
    )
    parser.add_argument(
        "--student",
        metavar="MODEL",
        help="encoder whose layers students are initialised from; may be narrower than the teacher (default: the model "
        "that --teacher names)",
    )


def add_unlabeled_flag(group: argparse._ActionsContainer) -> None:
    """Adds --unlabeled."""
    group.add_argument(
        "--unlabeled",
        type=Path,
        metavar="FILE",
        help="texts without labels, on which distilled students are trained with the teacher's outputs: a table with "
        "the task's text columns, or a .txt file with one text a line (default: none)",
    )


def add_budget_flags(parser: argparse._ActionsContainer) -> None:
    """Adds the flags that say how long is trained on what: --epochs, --batch-size, --max-length, --seed."""
    add = parser.add_argument
    add("--epochs", type=int, metavar="N", help="passes over the training split (default: the space's, usually 4)")
    add("--batch-size", type=int, metavar="N", help="examples per optimiser step (default: the space's, usually 32)")
    add("--max-length", type=int, metavar="N", help="longest example in tokens (default: the space's, usually 128)")
    add(
        "--seed",
        type=int,
        metavar="N",
        help="seed of data order, dropout and new weights, and of the sampler of a search (default: %(default)s)",
    )


def add_gpu_flag(parser: argparse._ActionsContainer) -> None:
    """Adds --gpus for a command that trains or runs one model."""
    parser.add_argument("--gpus", type=int, metavar="N", help="0: the CPU; 1: a GPU (default: a GPU if there is one)")


def add_cuda_graphs_flag(parser: argparse._ActionsContainer) -> None:
    """Adds --no-cuda-graphs."""
    parser.add_argument(
        "--no-cuda-graphs",
        dest="cuda_graphs",
        action="store_false",
        help="on a GPU, do training steps eagerly instead of as captured CUDA graphs: slower",
    )


def add_precision_flag(parser: argparse._ActionsContainer) -> None:
    """Adds --precision."""
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of matrix products: bf16, fp32, or auto: bf16 where the device supports it (default: the space's, "
        "usually auto)",
    )
