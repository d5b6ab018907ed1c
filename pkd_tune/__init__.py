"""Searches Patient Knowledge Distillation settings for shallow students of BERT and other encoders.

    import pkd_tune

    run = pkd_tune.search(task="MRPC", gpus=8, trials=24)
    model, tokenizer = run.best(layers=3).load()

Importing the package loads nothing else and changes nothing in the process; each name below is loaded when it is used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(
        ("search", "plan", "check", "finetune", "distill", "predict", "export", "load_run"), "pkd_tune.api"
    ),
    "UserError": "pkd_tune.config",
    "teacher_layers": "pkd_tune.distillation.layer_map",
    "pkd_loss": "pkd_tune.distillation.losses",
}
__all__ = [
    "UserError",
    "check",
    "distill",
    "export",
    "finetune",
    "load_run",
    "pkd_loss",
    "plan",
    "predict",
    "search",
    "teacher_layers",
]

if TYPE_CHECKING:
    from pkd_tune.api import check, distill, export, finetune, load_run, plan, predict, search
    from pkd_tune.config import UserError
    from pkd_tune.distillation.layer_map import teacher_layers
    from pkd_tune.distillation.losses import pkd_loss


class _Package(ModuleType):
    """This package, whose functions keep their names although the commands' modules have the same ones.

    Python binds a submodule to its package when it is imported: `pkd_tune.search` would become the module once anybody
    has imported `pkd_tune.search`, and could not be called any more.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOMES})


sys.modules[__name__].__class__ = _Package
