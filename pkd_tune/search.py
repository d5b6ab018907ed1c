"""The whole search: teacher, teacher outputs, trials at every depth, exported students and a report.

    python -m pkd_tune.search --task MRPC --demo
    python -m pkd_tune.search --task MRPC --gpus 8
    python -m pkd_tune.search --task MRPC --gpus 0 --teacher data/models/pretrained/minilm --depths 2 3 --trials 8

Running the same command again continues a search that was interrupted, or adds trials when --trials is larger.
"""

import argparse
import sys

from pkd_tune.cli.common_flags import Parser, add_budget_flags, add_data_flags, add_teacher_flags
from pkd_tune.cli.main import run_command, show_messages
from pkd_tune.cli.search_flags import add_outcome_flags, add_place_flags, add_space_flags
from pkd_tune.workflows.options import SearchOptions, make_options


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        SearchOptions.command,
        description="Searches Patient Knowledge Distillation students for a task; leaves report and checkpoints.",
        epilog="The same command again continues an interrupted search; a larger --trials adds to a finished one.",
    )
    add_data_flags(parser)
    add_teacher_flags(parser)
    add_space_flags(parser)
    add_budget_flags(parser.add_argument_group("how students are trained"))
    add_place_flags(parser)
    add_outcome_flags(parser)
    parser.use_defaults_of(SearchOptions)
    parser.after_ctrl_c = "the same command without --new continues a search"
    return parser


def search(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code.

    0, also at the time limit; 1 when no trial was completed; 130 when Ctrl-C cut it short.
    """
    values = vars(args)
    dry_run, check_data = values.pop("dry_run"), values.pop("check")
    options = make_options(SearchOptions, values)
    show_messages(quiet=options.quiet)
    from pkd_tune.workflows.request import resolve_search

    request = resolve_search(options, command)
    # These take seconds to import: only now, after everything quick has been checked.
    if check_data:
        from pkd_tune.workflows.data_check import check

        print(check(request))
        return 0
    if dry_run:
        from pkd_tune.workflows.dry_run import plan

        print(plan(request))
        return 0
    from pkd_tune.cli.summary import print_outcome
    from pkd_tune.workflows.search import search as run

    return print_outcome(run(request), again="the same command without --new" if options.new else "the same command")


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), search))
