"""The demo on a GPU: a real search that is killed with two trials at once on it, and continued by the same command."""

from pathlib import Path

import pandas as pd
import pytest
from killed_searches import journal, kill, recorded, start, wait_for

from pkd_tune.files import read_json

pytestmark = pytest.mark.gpu

RUN = "results/MRPC/demo"
TRIALS = 8
DEMO = (
    *("--task", "MRPC", "--demo", "--gpus", "1", "--trials-per-gpu", "2", "--depths", "2", "--methods", "pkd"),
    *("--trials", str(TRIALS), "--control-trials", "0", "--seeds", "0"),
)
SCORE = '"op_code":7'
"""In a line of the journal for each score that a trial reports."""


@pytest.mark.timeout(600)
def test_a_search_that_is_killed_in_its_trials_is_continued_by_the_same_command(tmp_path: Path) -> None:
    process = start(tmp_path, base=DEMO)
    wait_for(process, journal(tmp_path, RUN), SCORE, 2)
    kill(process)
    before = {key: trial for key, trial in recorded(tmp_path, RUN).items() if trial.state.is_finished()}
    process = start(tmp_path, base=DEMO)
    output = tmp_path / "output.txt"
    assert process.wait(timeout=300) == 0, output.read_text()[-3000:]
    after = recorded(tmp_path, RUN)
    assert all(after[key] == trial for key, trial in before.items())
    rows = pd.read_csv(tmp_path / RUN / "trials.csv")
    assert len(rows) == TRIALS
    assert set(rows["state"]) == {"complete"}
    resources = read_json(tmp_path / RUN / "run.json")["resources"]
    assert (resources["device"], resources["per_gpu"], resources["eager"]) == ("cuda", 2, None)
    assert (tmp_path / RUN / "best/2-layer/model.safetensors").is_file()
    assert "Traceback" not in output.read_text()
