"""The dashboards of a tiny run, whose search is over: real servers, asked over loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from dashboards import SECONDS, ask, family, get, scalars, start

from pkd_tune.cli.main import run_command
from pkd_tune.dashboard import dashboard, make_parser
from pkd_tune.workflows.dashboard import (
    HOST,
    TENSORBOARD_PORT,
    TRIALS_PORT,
    ServerExitedError,
    check_alive,
    find_run,
    free_port,
    ray_address,
    start_server,
)

TRIALS = [f"{depth}-layer-pkd-trial-{number:04d}" for depth in (1, 3) for number in (0, 1)]
SETTINGS = ("alpha", "beta", "temperature", "learning_rate", "strategy", "normalize", "init", "epochs")


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    """Returns the address of what stands for Ray's dashboard: something that listens."""
    with closing(socket.create_server((HOST, 0))) as listener:
        yield f"http://{HOST}:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def run(tiny_run: Path, ray: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = shutil.copytree(tiny_run, tmp_path_factory.mktemp("dashboard") / "tiny")
    (folder / "dashboard.json").write_text(json.dumps({"ray": ray, "token": "a-token"}))
    return folder


@pytest.fixture(scope="module")
def shown(run: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Returns the running command and the addresses it printed, by name."""
    process = start(run)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        yield process, dict(line.strip().split(maxsplit=1) for line in lines)
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


Shown = tuple[subprocess.Popen[str], dict[str, str]]


def test_both_addresses_answer_on_loopback(shown: Shown, run: Path, ray: str) -> None:
    _, addresses = shown
    assert list(addresses) == ["run:", "trials:", "TensorBoard:", "note:", "stop:", "Ray:"]
    assert (addresses["run:"], addresses["Ray:"]) == (str(run), f"{ray} (its token: a-token)")
    assert "no login" in addresses["note:"]
    for name in ("trials:", "TensorBoard:"):
        assert addresses[name].startswith("http://127.0.0.1:")
        status, page = get(addresses[name])
        assert status == 200
        assert "<html" in page.lower()


def test_every_trial_is_in_optuna_dashboard(shown: Shown, run: Path) -> None:
    _, addresses = shown
    _, text = get(addresses["trials:"] + "api/studies")
    studies = {study["study_name"]: study["study_id"] for study in json.loads(text)["study_summaries"]}
    _, text = get(addresses["trials:"] + f"api/studies/{studies['1-layer-pkd']}")
    trials = json.loads(text)["trials"]
    rows = pd.read_csv(run / "trials.csv").query("depth == 1")
    names = {"complete": "Complete", "stopped early": "Pruned"}
    assert [trial["state"] for trial in trials] == [names[state] for state in rows["state"]]
    assert [len(trial["intermediate_values"]) for trial in trials] == rows["evaluations"].tolist()


def test_every_trials_scalars_are_in_tensorboard(shown: Shown) -> None:
    _, addresses = shown
    tags = scalars(addresses["TensorBoard:"], trials=4)
    assert sorted(tags) == TRIALS
    assert all("score" in of_trial for of_trial in tags.values())


def test_every_trial_is_a_row_of_the_hparams_tab(shown: Shown) -> None:
    _, addresses = shown
    scalars(addresses["TensorBoard:"], trials=4)
    experiment = ask(addresses["TensorBoard:"] + "data/plugin/hparams/experiment", {"experimentName": ""})
    settings = [info["name"] for info in experiment["hparamInfos"]]
    assert set(settings) == {"depth", "method", "stage", *SETTINGS}
    metrics = [info["name"] for info in experiment["metricInfos"]]
    assert [metric["tag"] for metric in metrics] == ["best_score", "score"]
    columns = {
        "startIndex": 0,
        "sliceSize": 100,
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"],
        "colParams": [*({"hparam": name} for name in settings), *({"metric": metric} for metric in metrics)],
    }
    rows = ask(addresses["TensorBoard:"] + "data/plugin/hparams/session_groups", columns)["sessionGroups"]
    assert sorted(row["name"] for row in rows) == TRIALS
    for row in rows:
        assert set(row["hparams"]) == set(settings)
        assert row["hparams"]["method"] == "pkd"
        assert [each["name"]["tag"] for each in row["metricValues"]] == ["best_score", "score"]
        assert row["sessions"][0]["status"] == "STATUS_SUCCESS"


def test_the_journal_cannot_be_changed(shown: Shown, run: Path) -> None:
    _, addresses = shown
    before = (run / "study.log").read_bytes()
    files = sorted(path.name for path in run.iterdir())
    for method, path in (("DELETE", "api/studies/0"), ("POST", "api/studies"), ("PUT", "api/studies/0/note")):
        request = urllib.request.Request(addresses["trials:"] + path, data=b"{}", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=SECONDS)
        assert refused.value.code == 405
        assert "read-only" in json.loads(refused.value.read())["reason"]
    assert (run / "study.log").read_bytes() == before
    assert sorted(path.name for path in run.iterdir()) == files  # not even a lock


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_listens_beyond_loopback(shown: Shown) -> None:
    process, addresses = shown
    sockets = set()
    for each in family(process.pid):
        for handle in Path(f"/proc/{each}/fd").iterdir():
            sockets.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *others = line.split()
            if state == "0A" and others[5] in sockets:  # LISTEN, and the socket's number
                host, port = local.split(":")
                listening.append((host, int(port, 16)))
    assert {host for host, _ in listening} == {"0100007F"}  # 127.0.0.1
    ports = {int(addresses[name].rstrip("/").rpartition(":")[2]) for name in ("trials:", "TensorBoard:")}
    assert ports <= {port for _, port in listening}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_everything(shown: Shown) -> None:
    process, _ = shown
    everyone = family(process.pid)
    assert len(everyone) == 3
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert [each for each in everyone if Path(f"/proc/{each}").exists()] == []


def test_when_one_server_ends_the_other_is_stopped(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "broken")
    (tmp_path / "broken" / "study.log").write_text("not a journal\n{}\n")
    process = start(tmp_path / "broken")
    _, errors = process.communicate(timeout=SECONDS)  # only when all who hold its pipes are gone
    assert process.returncode == 1
    assert errors.startswith("trials ended with code 1: ")
    assert errors.endswith("; stopped\n")
    assert len(errors.splitlines()) == 1


def test_a_server_that_cannot_start_says_why() -> None:
    with start_server("nothing", 0, ["pkd_tune.no_such_module"]) as server:
        server.process.wait(timeout=SECONDS)
        with pytest.raises(
            ServerExitedError, match=r"nothing ended with code 1: .*No module named pkd_tune\.no_such_module"
        ):
            check_alive([server])


@pytest.mark.parametrize("usual", [TRIALS_PORT, TENSORBOARD_PORT])
def test_a_port_in_use_is_left_alone(usual: int) -> None:
    with socket.socket() as occupied:
        occupied.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            occupied.bind((HOST, usual))
            occupied.listen()
        except OSError:
            pass  # somebody else is there, which is just as well
        assert free_port(usual) != usual


def test_a_free_port_is_taken_as_it_is() -> None:
    port = free_port(0)
    assert free_port(port) == port


def test_rays_address_is_shown_only_while_it_answers(tmp_path: Path, ray: str) -> None:
    assert ray_address(tmp_path) is None
    (tmp_path / "dashboard.json").write_text(json.dumps({"ray": ray, "token": "a-token"}))
    assert ray_address(tmp_path) == ray
    (tmp_path / "dashboard.json").write_text(json.dumps({"ray": f"http://{HOST}:{free_port(0)}"}))
    assert ray_address(tmp_path) is None


def test_the_latest_run_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("RTE/demo", "MRPC/tiny-2", "MRPC/tiny")):
        journal = tmp_path / "results" / name / "study.log"
        journal.parent.mkdir(parents=True)
        journal.touch()
        os.utime(journal, (0, 1_000_000 - age))
    monkeypatch.chdir(tmp_path)
    assert find_run(None) == tmp_path / "results/RTE/demo"
    assert find_run(Path("results/MRPC/tiny")) == tmp_path / "results/MRPC/tiny"


@pytest.mark.parametrize(
    ("flags", "says"),
    [((), "no run under results/"), (("results/MRPC/tiny",), "results/MRPC/tiny: no study.log there")],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dashboard", *flags])
    assert run_command(make_parser(), dashboard) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert says in line
    assert list(tmp_path.iterdir()) == []
