"""The dashboards of a search that is running, as a person sees them."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from browser import launched
from dashboards import SECONDS, scalars, start
from tiny import SPACE


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(600)  # a search, two servers and a browser at once
def test_a_running_search_is_seen_in_the_browser_and_not_disturbed(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "space.toml").write_text(SPACE)
    run = tmp_path / "results" / "MRPC" / "tiny"
    flags = ["--task", "MRPC", "--teacher", "tiny", "--depths", "1", "--trials", "400", "--space", "space.toml"]
    flags += ["--control-trials", "0", "--seeds", "0"]
    command = [sys.executable, "-m", "pkd_tune.search", "--gpus", "0", *flags]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as search:
        try:
            assert search.stderr is not None
            assert any(line.startswith("search ") for line in search.stderr)  # waits until a trial has ended
            _look_at(run)
            assert search.poll() is None  # all that was seen was seen while it ran
        finally:
            search.send_signal(signal.SIGINT)
            _, said = search.communicate(timeout=SECONDS)
    assert search.returncode == 130, said
    trials = pd.read_csv(run / "trials.csv")
    assert set(trials["state"]) <= {"complete", "stopped early", "interrupted"}
    assert trials["trial"].tolist() == list(range(len(trials)))
    assert not Path(f"{run / 'study.log'}.lock").exists()


def _look_at(run: Path) -> None:
    """Opens both dashboards of a run in a browser, as a person would."""
    process = start(run)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        addresses = dict(line.strip().split(maxsplit=1) for line in lines)
        with launched() as browser:
            page = browser.new_page()
            page.set_default_timeout(120_000)  # the search leaves the page little of the CPU
            errors: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(addresses["trials:"])
            page.get_by_text("1-layer-pkd").first.click()
            page.locator(".js-plotly-plot").first.wait_for()
            page.goto(addresses["trials:"] + "dashboard/studies/0/trials")
            page.get_by_text("learning_rate").first.wait_for()
            assert scalars(addresses["TensorBoard:"], trials=1)  # for the page asks only once
            page.goto(addresses["TensorBoard:"] + "#timeseries")
            page.get_by_text("1-layer-pkd-trial-0000").first.wait_for()
            page.locator("scalar-card canvas, scalar-card svg").first.wait_for()
            assert errors == []
            assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SECONDS) == 0
