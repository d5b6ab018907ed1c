"""Files are written atomically and read with their name in every error."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pkd_tune.config import UserError
from pkd_tune.files import atomic_folder, machine_failure, read_json, write_file, write_json


@pytest.fixture
def umask() -> Iterator[None]:
    """Sets one by which files have the mode 0o640."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def written_for_its_owner(path: Path) -> None:
    """Writes a file as safetensors does: under another name first, and with permissions of its own."""
    new = path.with_name("new")
    new.touch(mode=0o600)
    new.replace(path)


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"where": tmp_path, "α": 1})
    assert read_json(tmp_path / "run.json") == {"where": str(tmp_path), "α": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "run.json", half)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("umask")
def test_the_umask_decides_who_may_read_a_file_whatever_wrote_it(tmp_path: Path) -> None:
    write_file(tmp_path / "weights", written_for_its_owner)
    write_json(tmp_path / "token.json", {}, private=True)
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "onnx").mkdir()
        written_for_its_owner(folder / "onnx" / "weights")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"weights": 0o640, "token.json": 0o600, "model": 0o750, "onnx": 0o750}
    assert stat.S_IMODE((tmp_path / "model" / "onnx" / "weights").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "full", "/a/b"), "/a/b: No space left on device; free some space there"),
        (Exception("No space left on device (os error 28)"), "No space left on device; free some space there"),
        (MemoryError(), "Cannot allocate memory; run fewer trials at once"),
        (FileNotFoundError(errno.ENOENT, "none", "/a"), None),
        (KeyError("a"), None),
    ],
)
def test_what_the_machine_refuses_is_told_from_bugs(error: Exception, words: str | None) -> None:
    found = machine_failure(error)
    assert found is None if words is None else found is not None and found.startswith(words)
    outer = RuntimeError("wrapped")
    outer.__cause__ = error
    assert machine_failure(outer) == found


def test_a_write_that_the_machine_refuses_names_the_file(tmp_path: Path) -> None:
    def full(unfinished: Path) -> None:
        raise OSError(errno.ENOSPC, "as write() has it, without a name")

    with pytest.raises(OSError, match="No space left") as raised:
        write_file(tmp_path / "run.json", full)
    assert (
        machine_failure(raised.value) == f"{tmp_path / 'run.json'}: {os.strerror(errno.ENOSPC)}; free some space there"
    )


@pytest.mark.parametrize("content", [b'{"a": ', b"[]", b"\xff"])
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize("error", [UserError("the disk is wrong"), KeyboardInterrupt()])
def test_a_reader_that_left_hides_no_error(error: BaseException) -> None:
    """What went wrong is said on standard error, whoever reads the output."""
    code = """
import sys
from pkd_tune.config import UserError
from pkd_tune.files import until_output_is_closed
try:
    with until_output_is_closed():
        sys.stdout.write("printed")
        raise {}
except BaseException as error:
    print(repr(error), file=sys.stderr)
"""
    reading, writing = os.pipe()
    os.close(reading)
    raised = 'UserError("the disk is wrong")' if isinstance(error, UserError) else "KeyboardInterrupt"
    ended = subprocess.run(
        [sys.executable, "-c", code.format(raised)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, f"{error!r}\n")
