"""What processes hold with many examples, each measured by itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def measured(what: str, examples: int, folder: Path) -> dict[str, int]:
    """Returns what a process of its own held, in bytes."""
    script = Path(__file__).parents[1] / "many_examples.py"
    done = subprocess.run([sys.executable, script, what, str(examples), folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process holds beyond mapped files")
def test_a_training_holds_no_more_of_a_large_task_than_of_a_small_one(tmp_path: Path) -> None:
    """Some bytes an example (its length, its place in the epoch) are there; tokens and teacher outputs are not."""
    small, large = (measured("train", examples, tmp_path)["own"] for examples in (2_000, 400_000))
    said = f"{large / 1e6:.0f} MB with 400,000 examples, {small / 1e6:.0f} MB with 2,000"
    assert large - small < 400_000 * 150, said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process holds beyond mapped files")
def test_a_student_of_22_million_parameters_holds_less_than_one_and_a_half_gigabytes(tmp_path: Path) -> None:
    held = measured("train-real", 400_000, tmp_path)["own"]
    assert held < 1.5e9, f"{held / 1e6:.0f} MB"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process holds beyond mapped files")
def test_the_teachers_outputs_are_built_in_a_stream(tmp_path: Path) -> None:
    peak = measured("build", 400_000, tmp_path)["peak"]
    assert peak < 2e9, f"{peak / 1e6:.0f} MB"
