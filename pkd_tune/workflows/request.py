"""A search as a person asked for it: every flag of the command, resolved and checked."""

from dataclasses import dataclass
from pathlib import Path

from pkd_tune.config import SearchConfig
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.space import Parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """All that the command `search` was asked for."""

    config: SearchConfig
    parameters: Parameters
    """Of the space."""
    demo: bool
    out: Path
    """Holds the runs of all tasks."""
    name: str | None
    """Of the run's folder; None: the teacher's."""
    new: bool
    """Whether to start another run although there is one."""
    warm_start: tuple[Path, ...]
    """Folders of earlier runs."""
    resources: Resources | None
    """Of this machine; None where a cluster's are used."""
    gpus: int | None
    trials_per_gpu: int | None
    """None: as many as its memory has room for."""
    address: str | None
    """Of a running Ray cluster."""
    storage: str | None
    """Where trials keep their files; None: the run's folder."""
    trial_timeout: float | None
    """Seconds."""
    ray_dashboard: bool
    loggers: tuple[str, ...]
    """Services that get every result as well: wandb, mlflow."""
    quiet: bool
    """Whether there is no progress bar."""
    verbose: bool
    """Whether what happens to trials and processes is shown."""
    argv: tuple[str, ...]
    """The command line."""
