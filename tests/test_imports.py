"""The arrows between the rooms, and what each room may load."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pkd_tune"
BASE = {"config", "files"}
ROOMS = {
    "data": BASE,
    "encoders": {*BASE, "data"},
    "distillation": {*BASE, "data", "encoders"},
    "tuning": {*BASE, "data", "encoders", "distillation"},
    "reporting": {*BASE},
    "deployment": {*BASE, "data", "encoders", "reporting"},
    "benchmark": {*BASE, "data", "encoders", "distillation", "tuning", "reporting"},
    "workflows": {*BASE, "data", "encoders", "distillation", "tuning", "reporting", "deployment"},
    "cli": {*BASE, "data", "tuning", "reporting", "workflows"},
}
"""Which rooms each may import besides itself; a command, a module beside the rooms, may import any."""
LIBRARY_OF = {"ray": {"tuning"}, "optuna": {"tuning", "benchmark"}}
NOT_IN_REPORTING = {"torch", "transformers", "ray", "optuna", "datasets"}
SLOW = {"torch", "transformers", "ray", "datasets", "matplotlib", "plotly", "sklearn"}
COMMANDS = ("search", "finetune", "distill", "predict", "export", "report", "dashboard", "spaces", "bench", "doctor")


def imports(module: Path) -> set[str]:
    """Returns the dotted names a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module if node.level == 0 else f"relative import of {node.module}")
    return found


def wrong_imports(module: Path) -> list[str]:
    """Returns what a module imports and must not."""
    parts = module.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0] if len(parts) > 1 else None
    wrong = []
    for name in imports(module):
        top, *rest = name.split(".")
        other = rest[0] if rest else ""
        if top == "pkd_tune" and room is not None and other not in {room, *ROOMS[room]}:
            wrong.append(name)
        if parts[0] in BASE and top not in (*sys.stdlib_module_names, "pkd_tune"):
            wrong.append(name)
        if room not in LIBRARY_OF.get(top, {room}) or (room == "reporting" and top in NOT_IN_REPORTING) or " " in name:
            wrong.append(name)
    return wrong


def test_arrows_go_one_way() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert {module.relative_to(PACKAGE).parts[0] for module in modules if module.parent != PACKAGE} == {*ROOMS}
    assert {str(module.relative_to(PACKAGE)): wrong for module in modules if (wrong := wrong_imports(module))} == {}


def test_reports_need_no_heavy_library() -> None:
    code = f"import sys, pkd_tune.reporting.run_report; assert not {NOT_IN_REPORTING} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_needs_no_slow_library() -> None:
    """Of no command; the first that imports one is named."""
    code = f"""
import importlib, sys
for command in {COMMANDS}:
    importlib.import_module("pkd_tune." + command).make_parser().format_help()
    slow = {SLOW} & {{*sys.modules}}
    assert not slow, (command, slow)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
