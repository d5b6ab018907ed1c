"""What students can start from, and what they really do where that is fine-tuned already."""

from pathlib import Path

from pkd_tune.cli.command_line import Problems, say
from pkd_tune.config import Init
from pkd_tune.encoders.folder import has_classifier

ONE_LAYER_TEACHER = "--teacher: a student has fewer layers than its teacher; give one of 2 layers or more"


def check_pretrained(folder: Path, problems: Problems) -> None:
    """Keeps a problem when the model that --student names was fine-tuned already."""
    if has_classifier(folder):
        problems.found.append(f"--student {folder}: is fine-tuned already; give a pretrained encoder, or leave it out")


def actual_init(init: Init, student_dir: Path) -> Init:
    """Returns what students really start from, and says so where that is not what was asked for.

    Args:
        init: What was asked for, or is usual.
        student_dir: What students are cut from. A fine-tuned one is the teacher, beside which no other was given; what
            it was before it was fine-tuned is not known.
    """
    if init != "pretrained" or not has_classifier(student_dir):
        return init
    say(
        "note: the teacher given is fine-tuned already, and students start from its first layers (init teacher); "
        "--student names a pretrained model to start from, as published"
    )
    return "teacher"
