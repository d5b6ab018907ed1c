"""Export a student of a search: its Hugging Face folder, and ONNX and int8, each loaded and scored again.

python -m pkd_tune.export results/MRPC/minilm --to mrpc-student
python -m pkd_tune.export results/MRPC/minilm --layers 3 --to mrpc-3-layer --onnx --int8
"""

import argparse
import sys
from pathlib import Path

from pkd_tune.cli.common_flags import Parser
from pkd_tune.cli.main import run_command
from pkd_tune.config import METHODS
from pkd_tune.workflows.options import ExportOptions, make_options


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        ExportOptions.command,
        description="Exports a student of a search: a Hugging Face folder with a model card, and ONNX. Each format is "
        "loaded in a fresh process and scored on dev again; one that scores differently is refused.",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a search's run, for example results/MRPC/minilm")
    add("--layers", type=int, metavar="K", help="depth of the student (default: the student that the report names)")
    add(
        "--method",
        choices=METHODS,
        metavar="M",
        help=f"how the student was trained, where a run has several: {', '.join(METHODS)} (default: pkd; without "
        "--layers, that of the student that the report names)",
    )
    add(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="without --layers: by how many points the student may fall short of the teacher (default: the search's)",
    )
    add("--to", type=Path, required=True, metavar="DIR", help="the folder to write: a new one, or an empty one")
    add("--onnx", action="store_true", help="also write ONNX for onnxruntime, with dynamic batch and length")
    add("--int8", action="store_true", help="also write ONNX with int8 weights, dynamically quantised")
    add("--push", metavar="OWNER/NAME", help="also upload the folder to the Hugging Face hub, to a private repository")
    add("--public", action="store_true", help="with --push: to a public repository")
    add("--task", metavar="TASK", help="where the run's task is now, if its files were moved (default: where it was)")
    add("--data-dir", type=Path, metavar="DIR", help="what the search had as --data-dir (default: as the run says)")
    parser.use_defaults_of(ExportOptions)
    return parser


def export(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code: 0, or 1 when a format scores differently from the student."""
    from pkd_tune.workflows import export as workflow

    request = workflow.resolve_export(make_options(ExportOptions, vars(args)))
    try:
        exported = workflow.export(request)
    except workflow.ExportCheckError as refused:
        print(*refused.problems, sep="\n", file=sys.stderr)
        return 1
    print(exported.table)
    print(exported.folder)
    if exported.address:
        print(exported.address)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), export))
