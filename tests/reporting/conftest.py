"""A recorded run with its report, made once; tests must not change it."""

from pathlib import Path

import pytest
from recorded_run import write_run

from pkd_tune.reporting.run_report import write_report


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run with enough trials for every plot, and its report."""
    run = tmp_path_factory.mktemp("reported") / "MRPC" / "minilm"
    write_run(run, methods=("pkd-skip", "pkd-last", "kd", "finetuned"), trials=48)
    write_report(run)
    return run
