"""`python -m pkd_tune COMMAND`, and the console script `pkd-tune COMMAND`: the same as `python -m pkd_tune.COMMAND`."""

import importlib
import sys

from pkd_tune import __version__
from pkd_tune.files import until_output_is_closed

COMMANDS = {
    "search": "search students of a task, compare and export the best",
    "finetune": "fine-tune a teacher, or a student without a teacher",
    "distill": "distil one student at given settings",
    "predict": "score models, write predictions and GLUE benchmark files",
    "export": "export a student as Hugging Face folder, ONNX and int8",
    "report": "renew all reports, and the table of all tasks",
    "dashboard": "show a run in the browser",
    "spaces": "print a shipped search space",
    "bench": "measure how fast this machine trains students",
    "doctor": "print what a run needs of this machine, for a bug report",
}


def main() -> int:
    """Runs the command that the first argument names; returns its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"pkd_tune {__version__}")
        return 0
    if name in ("-h", "--help"):
        with until_output_is_closed():
            print(
                "usage: pkd-tune COMMAND [--help]\n\n" + "\n".join(f"  {c:<10} {what}" for c, what in COMMANDS.items())
            )
        return 0
    if name not in COMMANDS:
        print(f"pkd-tune: error: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"pkd_tune.{name}")
    del sys.argv[1]
    from pkd_tune.cli.main import run_command

    return run_command(module.make_parser(), getattr(module, name))


if __name__ == "__main__":
    sys.exit(main())
