"""The arrows between the rooms, and what each room may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pkd_tune"
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {
    "glue": {"config", "glue"},
    "distillation": {"config", "glue", "distillation"},
    "tuning": {"config", "glue", "distillation", "tuning"},
    "reporting": {"config", "reporting"},
    "benchmark": {"config", "glue", "distillation", "reporting", "benchmark"},
    "deployment": {"config", "glue", "distillation", "reporting", "deployment"},
}
OWN_ROOM = {"ray": "tuning", "optuna": "tuning"}
NOT_IN_REPORTING = {"torch", "transformers", "ray", "optuna", "datasets"}
SLOW = {"torch", "transformers", "ray", "datasets", "matplotlib", "plotly", "sklearn"}
COMMANDS = [m.stem for m in MODULES if m.parent == PACKAGE and "def make_parser" in m.read_text(encoding="utf-8")]


def imports(module: Path) -> set[str]:
    """Returns the dotted names a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative import"
            found.add(node.module)
    return found


def room_of(module: Path) -> str | None:
    parts = module.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def test_there_are_modules_in_every_room() -> None:
    assert {room_of(module) for module in MODULES} == {None, *ROOMS}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_arrows_go_one_way(module: Path) -> None:
    room = room_of(module)
    for name in imports(module):
        top, *rest = name.split(".")
        if top == "pkd_tune" and room is not None:
            assert rest, f"{module}: imports the whole package"
            assert rest[0] in ROOMS[room], f"{room} must not import {name}"
        if module.name == "config.py":
            assert top in sys.stdlib_module_names, f"config.py must not import {name}"
        assert top not in OWN_ROOM or OWN_ROOM[top] == room, f"only {OWN_ROOM.get(top)} may import {top}"
        assert room != "reporting" or top not in NOT_IN_REPORTING, f"reporting must not import {top}"


def test_reports_need_no_heavy_library() -> None:
    code = f"import sys, pkd_tune.reporting.tables; assert not {NOT_IN_REPORTING} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_are_commands() -> None:
    assert {"search", "finetune", "distill", "predict", "bench", "export", "report", "dashboard"} <= {*COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_slow_library(command: str) -> None:
    code = f"import sys, pkd_tune.{command} as c; c.make_parser().format_help(); print(*{SLOW} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


def test_modules_stay_short() -> None:
    lengths = {str(m.relative_to(PACKAGE)): len(m.read_text(encoding="utf-8").splitlines()) for m in MODULES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
