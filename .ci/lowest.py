"""Prints the lower bound of every dependency in pyproject.toml as a pip constraint: the oldest releases we support."""

import re
import tomllib
from pathlib import Path

CHECKS = {"ruff", "mypy", "pandas-stubs", "types-tqdm", "types-psutil"}
"""What the tests do not import: tools, and the stubs they read."""
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[\w+\])?(?:>=(?P<bound>[\d.]+)|==(?P<release>[\d.]+\*)).*")

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["onnx"], *extras["sentencepiece"], *extras["dev"]]:
    found = REQUIREMENT.fullmatch(requirement)
    if found and found["name"] not in CHECKS:
        print(f"{found['name']}=={found['bound'] or found['release']}")
