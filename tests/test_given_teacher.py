"""A search, as a command, with a teacher that was fine-tuned elsewhere."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import SPACE

pytestmark = pytest.mark.slow


@pytest.fixture
def search(tmp_path: Path, tiny_search: Path) -> Callable[[], "subprocess.CompletedProcess[str]"]:
    """Returns a function that runs a search of two trials with the teacher in `given`, the shared search's own."""
    shutil.copytree(tiny_search / "data" / "data_raw", tmp_path / "data" / "data_raw")
    (finetuned,) = {path.parent for path in (tiny_search / "data/models/finetuned/MRPC").rglob("config.json")}
    shutil.copytree(finetuned, tmp_path / "given")
    (tmp_path / "space.toml").write_text(SPACE.replace("trials = 4", "trials = 2"))
    flags = ("--task", "mrpc", "--gpus", "0", "--teacher", "./given", "--depths", "2", "--space", "space.toml")
    return lambda: subprocess.run(
        [sys.executable, "-m", "pkd_tune.search", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )


def test_a_teacher_that_pads_at_the_start_is_explained_before_any_trial(
    tmp_path: Path, search: Callable[[], "subprocess.CompletedProcess[str]"]
) -> None:
    path = tmp_path / "given" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "left"}))
    done = search()
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "in plain transformers on 40 dev examples" in line]
    assert line.startswith("warning: ")
    assert "because padding_side in its tokenizer_config.json is 'left'" in line
