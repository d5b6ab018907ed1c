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


def test_a_model_of_the_hub_trains_as_the_same_folder_does(hub: str, tiny_data: Path, tmp_path: Path) -> None:
    usual = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    usual = {name: value for name, value in usual.items() if not name.lower().endswith("_proxy")}
    environment = {**usual, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}

    def finetune(home: Path, model: str) -> dict[str, object]:
        (home / "data").mkdir(parents=True)
        shutil.copytree(tiny_data / "data_raw", home / "data" / "data_raw")
        command = [sys.executable, "-m", "pkd_tune.finetune", "--task", "MRPC", "--model", model, *QUICK]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        folder = home / done.stdout.splitlines()[-1]
        record = json.loads((folder / "result.json").read_text())
        return {"metrics": record["metrics"], "name": folder.name, "weights": load_file(folder / "model.safetensors")}

    local = finetune(tmp_path / "folder", str(tiny_data / "models" / "pretrained" / "tiny"))
    assert not Hub.asked
    fetched = finetune(tmp_path / "fetched", "owner/tiny")
    assert not any("pytorch_model.bin" in path for path in Hub.asked)
    assert fetched["metrics"] == local["metrics"]
    assert all((fetched["weights"][name] == weight).all() for name, weight in local["weights"].items())  # type: ignore
    assert "tiny" in str(fetched["name"])
