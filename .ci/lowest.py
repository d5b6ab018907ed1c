"""Prints the lower bound of every dependency in pyproject.toml as a pip constraint: the oldest releases we support."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
tools = {"ruff", "mypy", "pandas-stubs", "types-tqdm", "types-psutil"}  # these check; users do not have them
for requirement in [
    *project["dependencies"],
    *project["optional-dependencies"]["onnx"],
    *project["optional-dependencies"]["dev"],
]:
    name, bound = re.match(r"([\w.\[\]-]+?)(?:\[\w+\])?(?:[>=]=([\d.]+))?[.*]*(?:,|$)", requirement).groups()
    if bound and name not in tools:
        print(f"{name}=={bound.rstrip('.')}{'.*' if requirement.endswith('.*') else ''}")
