"""Reaching the hub and finding models; a small server of this test's own stands in for the hub."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pkd_tune.config import UserError
from pkd_tune.data.hub import dataset_cached, find_pretrained

HUB_VARIABLES = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
)


class Refuser(BaseHTTPRequestHandler):
    """Answers everything with 'forbidden', which is an answer."""

    requests = 0

    def do_HEAD(self) -> None:
        type(self).requests += 1
        self.send_response(403)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answering_endpoint() -> Iterator[str]:
    Refuser.requests = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuser)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed_endpoint() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def fresh_process(code: str, **variables: str) -> list[str]:
    """Runs code in a process that has never heard of a hub but for these variables; returns the lines it printed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in HUB_VARIABLES and not name.lower().endswith("_proxy")
    }
    prelude = "import os, sys, time\nfrom pathlib import Path\nfrom pkd_tune.config import UserError\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


ASK_TWICE = """
from pkd_tune.data.hub import (hub_reachable)
started = time.perf_counter()
print(hub_reachable(), hub_reachable())
print(time.perf_counter() - started < 2)
"""


def test_an_error_page_is_an_answer_and_is_asked_for_once(answering_endpoint: str) -> None:
    assert fresh_process(ASK_TWICE, HF_ENDPOINT=answering_endpoint) == ["True True", "True"]
    assert Refuser.requests == 1


def test_offline_mode_asks_nobody(answering_endpoint: str) -> None:
    variables = {"HF_ENDPOINT": answering_endpoint, "HF_HUB_OFFLINE": "1"}
    assert fresh_process(ASK_TWICE, **variables) == ["False False", "True"]
    assert Refuser.requests == 0


@pytest.mark.parametrize("endpoint", ["closed port", "https://no-such-host.invalid"])
def test_nobody_there_is_known_at_once(endpoint: str, closed_endpoint: str) -> None:
    address = closed_endpoint if endpoint == "closed port" else endpoint
    assert fresh_process(ASK_TWICE, HF_ENDPOINT=address) == ["False False", "True"]


def test_a_server_that_never_answers_costs_the_time_limit_once() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        code = """
from pkd_tune.data.hub import (hub_reachable)
started = time.perf_counter()
print(hub_reachable(0.5), hub_reachable(0.5))
print(0.4 < time.perf_counter() - started < 0.95)
"""
        assert fresh_process(code, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}") == ["False False", "True"]


def test_a_slow_name_lookup_is_not_waited_for() -> None:
    # The time limit of a connection does not cover the lookup, which asks dead name servers for half a minute.
    code = """
import socket
socket.getaddrinfo = lambda *arguments, **options: time.sleep(20)
from pkd_tune.data.hub import (hub_reachable)
started = time.perf_counter()
print(hub_reachable(0.3))
print(time.perf_counter() - started < 1)
"""
    started = time.perf_counter()
    assert fresh_process(code, HF_ENDPOINT="https://hub.example") == ["False", "True"]
    assert time.perf_counter() - started < 10  # The process does not wait for its lookup to end either.


def test_going_offline_reaches_libraries_imported_before_and_after(answering_endpoint: str) -> None:
    code = """
import huggingface_hub
from pkd_tune.data.hub import (go_offline)
go_offline()
import datasets
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import OfflineModeIsEnabled
print(os.environ["HF_HUB_OFFLINE"], is_offline_mode(), datasets.config.HF_HUB_OFFLINE)
try:
    huggingface_hub.HfApi().model_info("owner/model")
except OfflineModeIsEnabled:
    print("refused")
"""
    assert fresh_process(code, HF_ENDPOINT=answering_endpoint) == ["1 True True", "refused"]
    assert Refuser.requests == 0


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_an_existing_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "some" / "where" / "model")
    assert find_pretrained(str(folder), tmp_path) == folder


@pytest.mark.parametrize("name", ["bert-base-uncased", "owner/model"])
def test_a_name_is_looked_up_in_the_data_folder(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / "models" / "pretrained" / name)
    assert find_pretrained(name, tmp_path) == folder


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=r"results has no config\.json"):
        find_pretrained(str(tmp_path / "results"), tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/bert", "./bert", "../bert", "~/bert", "some/long/path"])
def test_what_looks_like_a_path_is_never_asked_for_on_the_hub(name: str, tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match="this folder does not exist") as caught:
        find_pretrained(name, tmp_path)
    assert name in str(caught.value)
    assert time.perf_counter() - started < 0.1


def find(name: str, data_dir: Path) -> str:
    return f"""
started = time.perf_counter()
from pkd_tune.data.hub import (find_pretrained)
try:
    print(find_pretrained({name!r}, Path({str(data_dir)!r})))
except UserError as error:
    print(error)
print(time.perf_counter() - started < 3)
"""


def test_a_model_that_is_nowhere_is_one_line_without_waiting(tmp_path: Path, closed_endpoint: str) -> None:
    code = find("owner/model", tmp_path)
    problem, quick = fresh_process(code, HF_ENDPOINT=closed_endpoint, HF_HOME=str(tmp_path / "home"))
    assert quick == "True"
    assert "'owner/model' is not on this machine and the Hugging Face hub is out of reach" in problem
    assert str(tmp_path / "models" / "pretrained" / "owner" / "model") in problem
    assert "--data-dir" in problem
    assert "--demo" in problem


def test_a_name_the_hub_could_not_have_is_one_line(tmp_path: Path, closed_endpoint: str) -> None:
    problem, _ = fresh_process(find("bert base!", tmp_path), HF_ENDPOINT=closed_endpoint, HF_HOME=str(tmp_path))
    assert problem == "pretrained model 'bert base!' is neither a folder nor a name the hub could have"


def cached_snapshot(home: Path, *names: str) -> Path:
    """The hub's local cache after a download of owner/model."""
    repository = home / "hub" / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


def test_the_local_cache_is_used_when_the_hub_is_out_of_reach(tmp_path: Path, closed_endpoint: str) -> None:
    snapshot = cached_snapshot(tmp_path / "home", "config.json", "vocab.txt", "model.safetensors")
    code = find("owner/model", tmp_path)
    variables = {"HF_ENDPOINT": closed_endpoint, "HF_HOME": str(tmp_path / "home")}
    assert fresh_process(code, **variables) == [str(snapshot), "True"]
    assert fresh_process(code, **variables, HF_HUB_OFFLINE="1") == [str(snapshot), "True"]


def test_a_cache_without_weights_is_not_a_model(tmp_path: Path, closed_endpoint: str) -> None:
    cached_snapshot(tmp_path / "home", "config.json", "vocab.txt", "pytorch_model.bin")
    code = find("owner/model", tmp_path)
    problem, _ = fresh_process(code, HF_ENDPOINT=closed_endpoint, HF_HOME=str(tmp_path / "home"))
    assert "is not on this machine and the Hugging Face hub is out of reach" in problem


def test_a_dataset_counts_as_cached_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    folder = tmp_path / "nyu-mll___glue" / "mrpc" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    assert not dataset_cached("nyu-mll/glue", "mrpc")
    (folder / "dataset_info.json").write_text("{}")
    assert dataset_cached("nyu-mll/glue", "mrpc")
    assert not dataset_cached("nyu-mll/glue", "rte")
