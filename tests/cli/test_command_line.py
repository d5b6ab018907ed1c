"""What all commands say alike."""

import argparse
import signal
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from pkd_tune import bench, distill, export, finetune, predict, report, search
from pkd_tune.cli.command_line import run_command

AFTER_CTRL_C = {
    search: "the same command without --new continues a search",
    finetune: "the same command goes on from its last whole epoch",
    distill: "the same command goes on with a teacher from its last whole epoch, but starts a student again",
    predict: "what is written is whole, and the same command starts again",
    bench: "what is written is whole, and the same command starts again",
    export: "what is written is whole, and the same command starts again",
    report: "what is written is whole, and the same command starts again",
}
FLAGS = {
    search: "--task MRPC",
    finetune: "--task MRPC",
    distill: "--task MRPC --method kd --layers 2",
    predict: "--task MRPC --model x",
    export: "x --layers 2 --to y",
}


@pytest.fixture
def signals() -> Iterator[None]:
    """Gives the process its handler of SIGTERM back, which a command replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "scheduler"])
@pytest.mark.parametrize("module", AFTER_CTRL_C, ids=lambda module: module.__name__.split(".")[-1])
def test_an_interrupted_command_says_what_the_same_command_will_do(
    module: ModuleType, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: argparse.Namespace, argv: list[str]) -> int:
        signal.raise_signal(number)
        raise AssertionError("the signal was ignored")

    monkeypatch.setattr(sys, "argv", ["x", *FLAGS.get(module, "").split()])
    assert run_command(module.make_parser(), interrupted) == 130
    said = f"python -m {module.__name__}: interrupted; {AFTER_CTRL_C[module]}\n"
    assert capsys.readouterr().err == said
