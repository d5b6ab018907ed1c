"""What other users of the machine can do to a search: nothing. Root makes two users; elsewhere this is skipped."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

VICTIM, ATTACKER = 61001, 61002

SEARCHING = """
import sys
from pathlib import Path
import ray
from pkd_tune.tuning import cluster
from pkd_tune.tuning.resources import Resources
with cluster.local_cluster(Resources(), Path("ray-start.log")):
    ray.get(ray.remote(lambda: 1).remote())
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""

ATTACKING = """
import os, sys, glob
from pathlib import Path
address, temporary = sys.argv[1:]
def attempt(what, how):
    try:
        print(what, "succeeded:", how())
    except Exception as error:
        print(what, "refused:", type(error).__name__)
for folder in glob.glob(temporary + "/*"):
    attempt("listing", lambda: os.listdir(folder))
for folder in Path("/proc").glob("[0-9]*"):
    if folder.stat().st_uid == int(os.environ["VICTIM"]):
        attempt("environment", lambda: (folder / "environ").read_bytes())
        if b"RAY_AUTH_TOKEN" in (folder / "cmdline").read_bytes():
            print("command line succeeded")
from ray._raylet import GcsClient
attempt("cluster", lambda: GcsClient(address=address).internal_kv_put(b"fun:x", b"code", True, b"fun", timeout=5))
"""


@pytest.fixture
def victims_folder() -> Iterator[Path]:
    import shutil
    import tempfile

    if os.getuid():
        pytest.skip("only root can make other users")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "home").mkdir()
    os.chown(folder / "home", VICTIM, VICTIM)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_another_user_reads_no_token_and_no_folder_and_cannot_connect(victims_folder: Path) -> None:
    home = victims_folder / "home"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(victims_folder / "tmp")}
    try:
        probe = [sys.executable, "-c", "import pkd_tune"]
        subprocess.run(probe, cwd=home, env=environment, user=VICTIM, group=VICTIM, extra_groups=[], check=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("this installation cannot be read by other users")
    victim = subprocess.Popen(
        [sys.executable, "-c", SEARCHING],
        cwd=home, env=environment, user=VICTIM, group=VICTIM, extra_groups=[],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert victim.stdout is not None
        address = victim.stdout.readline().strip()
        attack = subprocess.run(
            [sys.executable, "-c", ATTACKING, address, str(victims_folder / "tmp")],
            cwd="/", user=ATTACKER, group=ATTACKER, extra_groups=[], capture_output=True, text=True, timeout=100,
            env={**environment, "VICTIM": str(VICTIM), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        )  # fmt: skip
    finally:
        victim.communicate(timeout=100)
    assert "succeeded" not in attack.stdout
    for kind in ("listing refused: PermissionError", "environment refused: PermissionError", "cluster refused:"):
        assert kind in attack.stdout, attack.stdout + attack.stderr
    assert list((victims_folder / "tmp").iterdir()) == []
    assert not list(home.rglob("auth_token"))
