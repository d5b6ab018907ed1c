"""`python -m pkd_tune COMMAND`, which the console script `pkd-tune` is too."""

import subprocess
import sys

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
