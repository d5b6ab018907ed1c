"""Uploads to a small server of this test's own, which stands in for the Hugging Face hub."""

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

from pkd_tune.config import UserError
from pkd_tune.deployment.hub_upload import prepare_repository, push_folder, push_problem

TOKEN = "hf_of_this_test"


class Hub(BaseHTTPRequestHandler):
    """Keeps repositories in memory: whether each is private, and its files."""

    private: ClassVar[dict[str, bool]] = {}
    files: ClassVar[dict[str, bytes]] = {}
    status = 200
    breaks_off = False

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        repository = self.path.removeprefix("/api/models/").partition("?")[0].removesuffix("/revision/main")
        if repository not in self.private:
            return self.answer(404, {"error": "Repository not found"})
        return self.answer(200, {"id": repository, "private": self.private[repository], "sha": "0" * 40})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.breaks_off and "/preupload/" not in self.path:  # which the library asks for several times
            return None
        if self.status != 200 or self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(self.status if self.status != 200 else 401, {"error": "refused"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in self.private else 200
            hidden = asked.get("private") or asked.get("visibility") == "private"
            self.private.setdefault(name, bool(hidden))
            return self.answer(status, {"url": f"{constants.ENDPOINT}/{name}", "id": name})
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self.answer(200, {"files": modes})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                200, {"commitUrl": f"{constants.ENDPOINT}/owner/student/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        return self.answer(200, {"errors": [], "warnings": []})  # of validate-yaml

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yields the address of an empty hub that the libraries of this process use, with a token."""
    Hub.private, Hub.files, Hub.status, Hub.breaks_off = {}, {}, 200, False
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield constants.ENDPOINT
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "student" / "onnx").mkdir(parents=True)
    (tmp_path / "student" / "README.md").write_text("---\nlicense: mit\n---\n# A student\n")
    (tmp_path / "student" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "student" / "onnx" / "model.onnx").write_bytes(b"graph")
    return tmp_path / "student"


@pytest.mark.parametrize("public", [False, True])
def test_every_file_is_uploaded_to_a_repository_that_is_private_unless_it_is_to_be_public(
    hub: str, folder: Path, public: bool
) -> None:
    prepare_repository("owner/student", public=public)
    assert Hub.private == {"owner/student": not public}
    prepare_repository("owner/student", public=public)  # that it is there is no mistake
    assert push_folder(folder, "owner/student") == f"{hub}/owner/student"
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert Hub.files == files


@pytest.mark.parametrize(("public", "says"), [(False, "is there and public; give --public"), (True, "and private")])
def test_the_visibility_of_a_repository_that_is_there_is_not_changed(hub: str, public: bool, says: str) -> None:
    Hub.private["owner/student"] = public
    with pytest.raises(UserError, match=says):
        prepare_repository("owner/student", public=public)
    assert Hub.private == {"owner/student": public}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "refuses it (HTTP 403); log in (hf auth login) with a token that may write there"),
        (500, "has an error of its own (HTTP 500); "),
        (0, "broke off ("),
    ],
)
@pytest.mark.parametrize("step", ["prepare", "push"])
def test_a_failure_is_one_line_with_what_remains_to_be_done(
    hub: str, folder: Path, status: int, says: str, step: str
) -> None:
    """After an export its command would refuse the folder, which is there."""
    steps: dict[str, Callable[[], object]] = {
        "prepare": lambda: prepare_repository("owner/student", public=False),
        "push": lambda: push_folder(folder, "owner/student"),
    }
    Hub.status, Hub.breaks_off = status or 200, status == 0
    with pytest.raises(UserError) as raised:
        steps[step]()
    (message,) = raised.value.problems
    assert message.startswith(f"--push owner/student: the Hugging Face hub {says}")
    assert "\n" not in message
    upload = f", and upload the finished export: hf upload owner/student {folder}"
    assert message.endswith(upload) == (step == "push")
    assert ("the same command" in message) == (step == "prepare" and status != 403)


@pytest.mark.parametrize(
    ("name", "token", "offline", "says"),
    [
        ("student", TOKEN, False, "--push student: give OWNER/NAME"),
        ("a/b/c", TOKEN, False, "--push a/b/c: give OWNER/NAME"),
        ("owner/stu dent", TOKEN, False, "--push owner/stu dent: give OWNER/NAME"),
        ("owner/student", "", False, "no token of the Hugging Face hub; log in"),
        ("owner/student", TOKEN, True, "HF_HUB_OFFLINE=1 is set"),
    ],
)
def test_what_cannot_be_pushed_is_known_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, token: str, offline: bool, says: str
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_TOKEN", token)
    assert says in (push_problem(name) or "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push_problem("owner/student") is None
