"""Reaching the hub and finding models; a small server of this test's own stands in for the hub."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hubs import serve
from huggingface_hub import constants
from tickets import ticket_rows, write_csv

from pkd_tune.config import HubDataset, UserError
from pkd_tune.data.hub import dataset_cached, find_pretrained, go_offline, hub_reachable


class Refuser(BaseHTTPRequestHandler):
    """Answers everything with a status, at first 'forbidden', which is an answer."""

    requests = 0
    status = 403

    def do_HEAD(self) -> None:
        type(self).requests += 1
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answering_endpoint() -> Iterator[str]:
    Refuser.requests, Refuser.status = 0, 403
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuser)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed_endpoint() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


Use = Callable[[str], None]


@pytest.fixture
def use_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Returns a function that makes an address the hub's, with an empty cache and without proxies."""

    def use(address: str) -> None:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    return use


def fresh_process(code: str, **variables: str) -> list[str]:
    """Runs code in a process with only these variables of Hugging Face, and returns the lines it printed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
    }
    prelude = "import os, sys, time\nfrom pathlib import Path\nfrom pkd_tune.config import HubDataset, UserError\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_error_status_is_a_response_and_is_requested_once(answering_endpoint: str, use_hub: Use) -> None:
    use_hub(answering_endpoint)
    assert hub_reachable()
    assert hub_reachable()
    assert Refuser.requests == 1


def test_offline_there_is_no_request(answering_endpoint: str, use_hub: Use) -> None:
    use_hub(answering_endpoint)
    go_offline()
    assert not hub_reachable()
    assert Refuser.requests == 0


@pytest.mark.parametrize("endpoint", ["closed port", "https://no-such-host.invalid"])
def test_an_unreachable_hub_is_known_at_once(endpoint: str, closed_endpoint: str, use_hub: Use) -> None:
    use_hub(closed_endpoint if endpoint == "closed port" else endpoint)
    started = time.perf_counter()
    assert not hub_reachable()
    assert time.perf_counter() - started < 2


def test_a_hub_that_does_not_respond_costs_the_timeout_once(use_hub: Use) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use_hub(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.perf_counter()
        assert not hub_reachable(0.2)
        assert time.perf_counter() - started >= 0.2
        started = time.perf_counter()
        assert not hub_reachable(0.2)
        assert time.perf_counter() - started < 0.2


def test_slow_name_resolution_is_not_waited_for() -> None:
    # The timeout of a connection does not cover name resolution, which can take half a minute.
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
    assert time.perf_counter() - started < 10  # nor does the process wait for it at its end


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


def test_a_model_that_is_nowhere_is_one_line_without_waiting(
    tmp_path: Path, closed_endpoint: str, use_hub: Use
) -> None:
    use_hub(closed_endpoint)
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        find_pretrained("owner/model", tmp_path)
    assert time.perf_counter() - started < 3
    (problem,) = caught.value.problems
    assert "'owner/model' is not on this machine, and the Hugging Face hub is out of reach" in problem
    assert str(tmp_path / "models" / "pretrained" / "owner" / "model") in problem
    assert "--data-dir" in problem
    assert "--demo" in problem


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, r"\(HTTP 401\); log in \(hf auth login\)"),
        (403, r"\(HTTP 403\); log in \(hf auth login\), and accept the licence"),
        (404, r"has no such thing \(HTTP 404\); check the name"),
        pytest.param(429, r"\(HTTP 429\); wait some minutes", marks=pytest.mark.slow),
        pytest.param(500, r"\(HTTP 500\); give the same command again later", marks=pytest.mark.slow),
    ],
)
def test_what_the_hub_answers_is_said_with_its_remedy(
    tmp_path: Path, answering_endpoint: str, use_hub: Use, status: int, remedy: str
) -> None:
    use_hub(answering_endpoint)
    Refuser.status = status
    with pytest.raises(
        UserError, match=f"'owner/model': the Hugging Face hub .*{remedy}.*; or put its folder at"
    ) as raised:
        find_pretrained("owner/model", tmp_path)
    assert len(raised.value.problems) == 1


def test_a_model_in_the_cache_needs_no_hub_and_half_of_one_does(
    tmp_path: Path, answering_endpoint: str, use_hub: Use
) -> None:
    use_hub(answering_endpoint)
    snapshot = cached_snapshot(tmp_path / "hub", "config.json", "vocab.txt", "model.safetensors")
    assert find_pretrained("owner/model", tmp_path) == snapshot
    assert Refuser.requests == 0
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match="HTTP 403"):
        find_pretrained("owner/model", tmp_path)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        pytest.param("stalls", "broke off (", marks=pytest.mark.slow),
        pytest.param("truncated", "broke off (", marks=pytest.mark.slow),
        ("longer", "gave a file of another size than it has; the same command downloads what is missing"),
        ("other content", "gave another content than it says for model.safetensors; the same command downloads"),
        ("401", "refuses it (HTTP 401); log in"),
        ("403", "needs a login on the Hugging Face hub (hf auth login)"),
        pytest.param("429", "has had too many requests (HTTP 429); wait some minutes", marks=pytest.mark.slow),
        ("500", "has an error of its own (HTTP 500); give the same command again later"),
    ],
)
def test_a_download_that_fails_is_one_line_and_its_repeat_takes_what_is_missing(
    tmp_path: Path, use_hub: Use, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, weights: str, said: str
) -> None:
    model = tiny_data / "models" / "pretrained" / "tiny"
    with serve(model) as hub:
        use_hub(hub.address)
        if weights == "stalls":
            monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        hub.content = weights
        with pytest.raises(UserError, match=re.escape(said)) as raised:
            find_pretrained("owner/model", tmp_path)
        assert len(raised.value.problems) == 1
        hub.content, hub.requests = "whole", []
        folder = find_pretrained("owner/model", tmp_path)
        assert hub.downloads() == ["model.safetensors 0"]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in model.iterdir()
        }
        hub.requests = []
        assert find_pretrained("owner/model", tmp_path) == folder
        assert hub.requests == []


def test_a_first_download_asks_for_each_file_once(tmp_path: Path, use_hub: Use, tiny_data: Path) -> None:
    with serve(tiny_data / "models" / "pretrained" / "tiny") as hub:
        use_hub(hub.address)
        folder = find_pretrained("owner/model", tmp_path)
        asked = [each for each in hub.requests if "agent" not in each]
    files = sorted(path.name for path in folder.iterdir())
    of_files = sorted(each.split()[1].rpartition("/")[2] for each in asked if "/resolve/" in each)
    assert of_files == sorted([*files, *files])  # its size, and its content
    assert len(asked) == 2 * len(files) + 4  # the hub, the model twice, its list of files


def test_an_answer_that_makes_no_sense_is_one_line(tmp_path: Path, use_hub: Use, tiny_data: Path) -> None:
    with serve(tiny_data / "models" / "pretrained" / "tiny") as hub:
        use_hub(hub.address)
        hub.listing = ["nonsense"]
        with pytest.raises(UserError, match="gave an answer that cannot be read") as raised:
            find_pretrained("owner/model", tmp_path)
    assert len(raised.value.problems) == 1


OPENING = """
from pkd_tune.data.hub import open_dataset
try:
    dataset = open_dataset(HubDataset(repository="owner/data"))
    print({name: split.num_rows for name, split in dataset.items()})
except UserError as error:
    print(*error.problems, sep="\\n")
"""


@pytest.fixture
def hub_dataset(tmp_path: Path) -> Path:
    """Returns a folder of train.csv and validation.csv."""
    header = ("text", "text_pair", "label")
    write_csv(tmp_path / "data" / "train.csv", ticket_rows(70), header)
    write_csv(tmp_path / "data" / "validation.csv", ticket_rows(14), header)
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("stalls", "broke off ("),
        ("truncated", "broke off ("),
        ("longer", "gave a file of another size than it has; the same command downloads what is missing"),
        ("other content", "gave another content than it says for train.csv; the same command downloads"),
        ("other letters", "gave another content than it says for train.csv; the same command downloads"),
        ("401", "refuses it (HTTP 401); log in (hf auth login)"),
        ("403", "refuses it (HTTP 403); log in (hf auth login), and accept the licence on its page"),
        ("404", "has no such thing (HTTP 404); check the name"),
        ("429", "has had too many requests (HTTP 429); wait some minutes"),
        ("500", "has an error of its own (HTTP 500); give the same command again later"),
    ],
)
def test_a_dataset_whose_download_fails_is_one_line_and_its_repeat_takes_what_is_missing(
    tmp_path: Path, hub_dataset: Path, content: str, said: str
) -> None:
    with serve(dataset=hub_dataset) as hub:
        variables = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        hub.content = content
        (problem,) = fresh_process(OPENING, **variables)
        assert problem.startswith("owner/data: the Hugging Face hub ")
        assert said in problem
        assert "put the files below --data-dir" in problem
        hub.content, hub.requests = "whole", []
        assert fresh_process(OPENING, **variables) == ["{'train': 70, 'validation': 14}"]
        assert hub.downloads() in (["train.csv 0"], ["train.csv 0", "validation.csv 0"])
        hub.requests = []
        assert fresh_process(OPENING, **variables) == ["{'train': 70, 'validation': 14}"]
        assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize(("status", "said"), [(401, "refuses it"), (403, "refuses it"), (404, "")])
def test_a_dataset_that_the_hub_refuses_is_one_line(
    tmp_path: Path, answering_endpoint: str, status: int, said: str
) -> None:
    code = """
from pkd_tune.data.hub import (open_dataset)
try:
    open_dataset(HubDataset(repository="owner/data"))
except UserError as error:
    print(*error.problems, sep="\\n")
"""
    Refuser.status = status
    variables = {"HF_ENDPOINT": answering_endpoint, "HF_HOME": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path / "d")}
    (problem,) = fresh_process(code.replace("\\\\n", "\\n"), **variables)
    assert problem.startswith("owner/data")
    assert said in problem


def test_an_invalid_name_is_one_line(tmp_path: Path, closed_endpoint: str, use_hub: Use) -> None:
    use_hub(closed_endpoint)
    with pytest.raises(UserError, match="'bert base!' is neither a folder nor a valid model name on the hub"):
        find_pretrained("bert base!", tmp_path)


def cached_snapshot(cache: Path, *names: str) -> Path:
    """Writes what a download of owner/model leaves in the hub's local cache."""
    repository = cache / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


@pytest.mark.parametrize("offline", [False, True])
def test_the_local_cache_is_used_when_the_hub_is_out_of_reach(
    tmp_path: Path, closed_endpoint: str, use_hub: Use, offline: bool
) -> None:
    use_hub(closed_endpoint)
    if offline:
        go_offline()
    snapshot = cached_snapshot(tmp_path / "hub", "config.json", "vocab.txt", "model.safetensors")
    assert find_pretrained("owner/model", tmp_path) == snapshot


def test_a_cache_without_weights_is_not_a_model(tmp_path: Path, closed_endpoint: str, use_hub: Use) -> None:
    use_hub(closed_endpoint)
    cached_snapshot(tmp_path / "hub", "config.json", "vocab.txt", "pytorch_model.bin")
    with pytest.raises(UserError, match="is not on this machine, and the Hugging Face hub is out of reach"):
        find_pretrained("owner/model", tmp_path)


def test_a_dataset_counts_as_cached_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    folder = tmp_path / "nyu-mll___glue" / "mrpc" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    assert not dataset_cached(HubDataset(repository="nyu-mll/glue", config="mrpc"))
    (folder / "dataset_info.json").write_text("{}")
    assert dataset_cached(HubDataset(repository="nyu-mll/glue", config="mrpc"))
    assert not dataset_cached(HubDataset(repository="nyu-mll/glue", config="rte"))
    folder = tmp_path / "SetFit___my_reviews" / "default" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    assert dataset_cached(HubDataset(repository="SetFit/MyReviews"))  # as the library spells it
