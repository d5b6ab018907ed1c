"""A teacher from the hub, by a whole command: a small server of this test's own serves a repository from the disk."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

COMMIT = "c0ffee" + "0" * 34
QUICK = ("--epochs", "1", "--batch-size", "16", "--max-length", "32", "--learning-rate", "3e-3", "--gpus", "0")


class Hub(BaseHTTPRequestHandler):
    """Answers for the one model `owner/tiny` as the hub does: what is in it, and each file by its commit."""

    repository: Path
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        self.asked.append(self.path)
        files = {path.name: path.read_bytes() for path in sorted(self.repository.iterdir())}
        tags = {name: hashlib.sha1(body).hexdigest() for name, body in files.items()}
        file = self.path.removeprefix(f"/owner/tiny/resolve/{COMMIT}/")
        tag = tags.get(file)
        if self.path.startswith("/api/models/owner/tiny/revision/main"):
            facts = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            body = json.dumps(facts).encode()
        elif self.path.startswith(f"/api/models/owner/tiny/tree/{COMMIT}"):
            tree = [{"type": "file", "path": n, "size": len(body), "oid": tags[n]} for n, body in files.items()]
            body = json.dumps(tree).encode()
        elif file in files:
            body = files[file]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if tag is not None:
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, tiny_data: Path) -> Iterator[str]:
    """Yields the address of a hub with the model `owner/tiny`, which also holds a pickle nobody should ask for."""
    Hub.repository = tmp_path / "repository"
    shutil.copytree(tiny_data / "models" / "pretrained" / "tiny", Hub.repository)
    (Hub.repository / "pytorch_model.bin").write_bytes(b"a pickle")
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FINETUNE = """
import os, sys
from http.client import HTTPConnection
from pkd_tune.cli.main import run_command
from pkd_tune.finetune import finetune, make_parser
folder, *flags = sys.argv[1:]
for home, model in (("folder", folder), ("../hub", "owner/tiny")):
    os.chdir(home)
    sys.argv[1:] = ["--task", "MRPC", "--model", model, *flags]
    assert run_command(make_parser(), finetune) == 0
    hub = HTTPConnection(os.environ["HF_ENDPOINT"].removeprefix("http://"))
    hub.request("GET", "/trained-" + os.path.basename(os.getcwd()))
    hub.getresponse()
"""


@pytest.mark.slow
def test_a_model_of_the_hub_trains_as_the_same_folder_does(hub: str, tiny_data: Path, tmp_path: Path) -> None:
    """Both in one process that is not kept offline, each in a folder of its own."""
    usual = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    usual = {name: value for name, value in usual.items() if not name.lower().endswith("_proxy")}
    environment = {**usual, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    for home in ("folder", "hub"):
        shutil.copytree(tiny_data / "data_raw", tmp_path / home / "data" / "data_raw")
    model = tiny_data / "models" / "pretrained" / "tiny"
    command = [sys.executable, "-c", FINETUNE, str(model), *QUICK]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert (Hub.asked[0], Hub.asked[-1]) == ("/trained-folder", "/trained-hub")  # nothing was asked for the folder
    assert not any("pytorch_model.bin" in path for path in Hub.asked)
    local, fetched = (
        next((tmp_path / home / "data/models/finetuned/MRPC").glob("*/result.json")).parent
        for home in ("folder", "hub")
    )
    assert "tiny" in fetched.name
    metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in (local, fetched)]
    assert metrics[0] == metrics[1]
    weights = [load_file(folder / "model.safetensors") for folder in (local, fetched)]
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())
