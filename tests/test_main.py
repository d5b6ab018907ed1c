"""`python -m pkd_tune COMMAND`, which the console script `pkd-tune` is too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pkd_tune import __version__
from pkd_tune.__main__ import COMMANDS


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pkd_tune", *arguments], capture_output=True, text=True)


def test_it_lists_its_commands_and_names_unknown_ones() -> None:
    assert all(command in run().stdout for command in COMMANDS)
    assert run("--version").stdout == f"pkd_tune {__version__}\n"
    wrong = run("serach")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("pkd-tune: error: no command 'serach'; there are search,")


@pytest.mark.parametrize("command", ["spaces", "report"])
def test_a_command_is_that_of_its_module(command: str) -> None:
    assert f"usage: python -m pkd_tune.{command}" in run(command, "--help").stdout


def test_a_command_without_an_output_does_its_work() -> None:
    """As where a service closes it before it starts the command."""
    ended = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pkd_tune.spaces default >&-"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "command",
    ["pkd_tune", "pkd_tune.spaces default", "pkd_tune.search --help", "pkd_tune.benchmark.grid_effects {table}"],
)
def test_a_command_whose_reader_has_left_ends_in_silence(command: str, buffered: bool) -> None:
    table = Path(__file__).parent.parent / "results/grids/sst2-start.parquet"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", *command.format(table=table).split()],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"},
    )
    os.close(writing)
    assert not ended.stderr
    assert ended.returncode == 141 or "--help" in command  # argparse itself ignores what it cannot print
