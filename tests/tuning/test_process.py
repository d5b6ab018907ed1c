"""What is set in a process before torch is imported, and that nothing is set by importing this room."""

import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).parents[2] / "pkd_tune" / "tuning"

PREPARE = """
import atexit, gc, os, sys
os.environ.pop("OMP_WAIT_POLICY", None)
from pkd_tune.tuning.process import environment, prepare_process
atexit.register(lambda: print("frozen:", gc.get_freeze_count() > 0))
prepare_process()
print(os.environ["OMP_WAIT_POLICY"], gc.get_threshold()[0], environment(), "torch" in sys.modules)
os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
prepare_process()
print(os.environ["OMP_WAIT_POLICY"], environment())
"""
IMPORT_ALL = """
import os, sys
import ray, sklearn, torch, transformers  # which set variables of their own
before = dict(os.environ)
for name in sys.argv[1:]:
    __import__(name)
assert before == dict(os.environ), before.items() ^ os.environ.items()
"""


def test_a_prepared_process_has_sleeping_threads_unless_the_user_says_otherwise() -> None:
    done = subprocess.run([sys.executable, "-c", PREPARE], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "PASSIVE 100000 {'OMP_WAIT_POLICY': 'PASSIVE'} False",
        "ACTIVE {'OMP_WAIT_POLICY': 'ACTIVE'}",
        "frozen: True",
    ]


def test_importing_the_module_changes_no_environment_variable() -> None:
    modules = [f"pkd_tune.tuning.{path.stem}" for path in sorted(ROOM.glob("*.py")) if path.stem != "__init__"]
    assert len(modules) > 10
    subprocess.run([sys.executable, "-c", IMPORT_ALL, "pkd_tune", *modules], check=True)
