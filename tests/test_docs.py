"""The documentation agrees with the code: links, error messages, commands."""

import ast
import functools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MOST_LINES = 200


def anchors(page: Path) -> set[str]:
    """Returns the anchors GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def texts_in_code() -> str:
    """Returns all string constants of the package without docstrings, those of f-strings in parts."""
    texts = []
    for module in sorted((ROOT / "pkd_tune").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
        texts += [node.value for node in constants if isinstance(node.value, str)]
    return "\n".join(texts)


def quoted_messages() -> list[str]:
    """Returns the messages that docs/troubleshooting.md quotes in the first column of its tables."""
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    return [
        message for row in rows for message in re.findall(r"`(.*?)`", row) if not message.endswith((".log", ".csv"))
    ]


def test_there_are_pages() -> None:
    assert {page.name for page in PAGES} >= {"README.md", "CONTRIBUTING.md", "design.md", "numerics.md"}
    assert len(quoted_messages()) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_modules_named_in_docs_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for module in re.findall(r"python -m pkd_tune\.([a-z_]+(?:\.[a-z_]+)*)", text):
            assert (ROOT / f"pkd_tune/{module.replace('.', '/')}.py").exists(), f"{page.name}: {module}"
    for path in re.findall(r"`(?:pkd_tune/)?([a-z_]+/[a-z_/]+\.py)", (ROOT / "docs/design.md").read_text()):
        assert (ROOT / "pkd_tune" / path).exists() or (ROOT / path).exists(), path


@pytest.mark.parametrize("message", quoted_messages())
def test_quoted_messages_are_in_the_code(message: str) -> None:
    parts = [part.strip() for part in message.split("…")]
    assert [part for part in parts if part not in texts_in_code()] == []


def test_the_python_of_the_readme_runs(tiny_search: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arguments of the search that tests share, which has ended: its students are exported again."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    home = shutil.copytree(tiny_search, tmp_path / "home")
    monkeypatch.chdir(home)
    arguments = 'task="mrpc", gpus=0, teacher="tiny", depths=(1, 3), space="space.toml", control_trials=0, seeds=0'
    tiny = code.replace('task="MRPC", gpus=8', arguments)
    assert tiny != code
    names: dict[str, Any] = {}
    exec(tiny, names)
    assert names["run"].folder == home / "results" / "MRPC" / "tiny"
    assert names["model"].config.num_hidden_layers == 3
