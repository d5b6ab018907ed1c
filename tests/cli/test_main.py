"""What all commands say alike."""

import argparse
import importlib
import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator

import pytest
import torch

from pkd_tune.cli.main import prepare_terminal, run_command

AFTER_CTRL_C = {
    "search": "the same command without --new continues a search",
    "finetune": "the same command continues from its last complete epoch",
    "distill": "the same command continues a teacher from its last complete epoch, but starts a student again",
    "export": "what is written is complete, and the same command starts again",
}
FLAGS = {
    "search": "--task MRPC",
    "finetune": "--task MRPC",
    "distill": "--task MRPC --method kd --layers 2",
    "export": "x --layers 2 --to y",
}


@pytest.fixture
def signals() -> Iterator[None]:
    """Gives the process its handler of SIGTERM back, which a command replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "scheduler"])
@pytest.mark.parametrize("name", AFTER_CTRL_C)
def test_an_interrupted_command_says_what_the_same_command_will_do(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: argparse.Namespace, command: str) -> int:
        signal.raise_signal(number)
        raise AssertionError("the signal was ignored")

    module = importlib.import_module(f"pkd_tune.{name}")
    monkeypatch.setattr(sys, "argv", ["x", *FLAGS[name].split()])
    assert run_command(module.make_parser(), interrupted) == 130
    assert capsys.readouterr().err == f"python -m pkd_tune.{name}: interrupted; {AFTER_CTRL_C[name]}\n"


@pytest.mark.usefixtures("signals")
def test_a_full_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(args: argparse.Namespace, command: str) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")

    monkeypatch.setattr(sys, "argv", ["x", *FLAGS["finetune"].split()])
    assert run_command(importlib.import_module("pkd_tune.finetune").make_parser(), full) == 1
    said = "stopped: the GPU's memory ran out; free it, or choose another GPU with CUDA_VISIBLE_DEVICES; "
    assert capsys.readouterr().err == f"python -m pkd_tune.finetune: {said}{AFTER_CTRL_C['finetune']}\n"


def test_a_terminal_that_says_no_size_has_eighty_columns(monkeypatch: pytest.MonkeyPatch, signals: None) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        prepare_terminal()
        assert termios.tcgetwinsize(theirs) == (24, 80)
        termios.tcsetwinsize(theirs, (30, 120))
        prepare_terminal()
        assert termios.tcgetwinsize(theirs) == (30, 120)
    os.close(ours)
