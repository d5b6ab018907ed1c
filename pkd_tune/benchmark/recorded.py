"""Recorded searches: of every setting of a grid, and of two seeds or more, the scores of each training run.

A table is made from the run folders of searches with `--sampler grid` and two values of `--seed`, and is one Parquet
file. `replay` lets search policies choose among its settings: no model is trained.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pkd_tune.config import Method, UserError
from pkd_tune.files import JOURNAL, RUN, read_json, write_file
from pkd_tune.reporting.run import fixed_value
from pkd_tune.tuning.journal import check_journal, evaluations
from pkd_tune.tuning.space import LEFT_OUT, Settings

SEEDS = 2
"""Recorded training runs of each setting: a policy sees those of one seed, its choice is scored with the other."""

RECORDED: tuple[Method, ...] = ("pkd", "kd")
"""Methods of which settings are recorded."""

_MADE_BY = "pkd_tune"
"""Attribute of a table with what must be equal in all its training runs: the task, and how students are trained."""

_BESIDE = ("depth", "method", "seed", "evaluation", "epoch", "score", "degenerate")
"""Columns of a table's file that are no parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The evaluations of one recorded training, from its beginning to the end of its budget."""

    epochs: tuple[float, ...]
    """Epochs done at each evaluation."""
    scores: tuple[float, ...]
    """Score of each evaluation, times 100."""
    degenerate: tuple[bool, ...]
    """Whether all predictions of each evaluation were the same."""

    @property
    def best(self) -> float:
        """The score of the training, as a search judges it: that of its best evaluation."""
        return max(self.scores)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A setting and its training runs."""

    depth: int
    """Layers of the student."""
    method: str
    """`pkd`, or `kd`: the same without the PT loss."""
    settings: Settings
    """Value of each parameter of its method."""
    trainings: tuple[Training, ...]
    """One for each seed."""

    @property
    def budget(self) -> float:
        """Epochs of a training."""
        return self.trainings[0].epochs[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The recordings at one depth, or at several that are searched together."""

    name: str
    """Name of the file and the depths: `demo-2`, `demo-2-3`."""
    recordings: tuple[Recording, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths, in ascending order."""
        return tuple(sorted({recording.depth for recording in self.recordings}))

    def of(self, method: str, depth: int | None = None) -> list[int]:
        """Returns the numbers of the recordings of a method, at a depth or at all."""
        return [
            i
            for i, recording in enumerate(self.recordings)
            if recording.method == method and depth in (None, recording.depth)
        ]

    def values(self, method: str, depth: int | None = None) -> dict[str, tuple[Any, ...]]:
        """Returns the recorded values of each parameter of a method, in ascending order."""
        found = [self.recordings[i].settings for i in self.of(method, depth)]
        return {name: tuple(sorted({settings[name] for settings in found})) for name in (found[0] if found else ())}

    def missing(self, method: str) -> int:
        """Returns how many combinations of a method's values were not recorded."""
        return int(np.prod([len(values) for values in self.values(method).values()])) - len(self.of(method))

    @property
    def budget(self) -> float:
        """Epochs of the longest training."""
        return max(recording.budget for recording in self.recordings)

    @property
    def evaluations_per_epoch(self) -> int:
        """Evaluations in an epoch of the training runs; they may be a step beside the equal parts of an epoch."""
        epochs = self.recordings[0].trainings[0].epochs
        return round(len(epochs) / epochs[-1])


def together(tables: Sequence[Table]) -> Table:
    """Returns the recordings of several depths as one table."""
    depths = "-".join(str(depth) for table in tables for depth in table.depths)
    stem = tables[0].name.rpartition("-")[0]
    return Table(name=f"{stem}-{depths}", recordings=tuple(each for table in tables for each in table.recordings))


def nearest(table: Table, method: str, wanted: Mapping[str, Any], depth: int | None = None) -> int:
    """Returns the number of the recording whose settings are nearest to others, at a depth or at all.

    The distance is summed over the parameters: how many recorded values apart two are, and 1 between two values that
    are no numbers. Parameters that one of the two lacks do not count.
    """
    values = table.values(method, depth)

    def distance(number: int) -> float:
        settings = table.recordings[number].settings
        return sum(_steps(values[name], settings[name], wanted[name]) for name in settings if name in wanted)

    return min(table.of(method, depth), key=distance)


def read_tables(path: Path) -> list[Table]:
    """Reads a table's file, without the settings that were trained with fewer than two seeds so far.

    Of more seeds, the two with the most training runs at a depth are read.

    Returns:
        One table for each depth.

    Raises:
        UserError: When it is no such file.
    """
    frame = _read(path)
    parameters = _varied(frame)
    tables = []
    for depth, of_depth in frame.groupby("depth"):
        recordings = []
        of_depth = of_depth[of_depth["seed"].isin(_first_seeds(of_depth))]
        for (method, *_), rows in of_depth.groupby(["method", *parameters], sort=True, dropna=False):
            settings = {name: plain(rows[name].iloc[0]) for name in parameters if rows[name].notna().all()}
            trainings = tuple(_training(of_seed) for _, of_seed in rows.groupby("seed"))
            if len(trainings) == SEEDS:
                recordings.append(
                    Recording(depth=int(str(depth)), method=str(method), settings=settings, trainings=trainings)
                )
        if recordings:
            tables.append(Table(name=f"{path.stem}-{depth}", recordings=tuple(recordings)))
    return tables


def _first_seeds(rows: pd.DataFrame) -> list[int]:
    """Returns the seeds that are replayed: of more than two, those with the most training runs."""
    runs = rows[rows["evaluation"] == 1]["seed"].value_counts()
    return sorted(sorted(runs.index, key=lambda seed: (-runs[seed], seed))[:SEEDS])


def read_scores(path: Path, method: Method) -> pd.DataFrame:
    """Reads the score of each recorded training run of a method, by its best evaluation.

    Returns:
        A row for each training run: `depth`, `seed`, `score` (times 100), and a column for each parameter of which the
        method has several values.

    Raises:
        UserError: When it is no table's file, or some of its settings lack a parameter that others have.
    """
    frame = _read(path)
    frame = frame[frame["method"] == method]
    parameters = _varied(frame)
    if lacking := [name for name in parameters if frame[name].isna().any()]:
        raise UserError(
            f"{path}: some settings have no {' and no '.join(lacking)}; record them as a table of their own"
        )
    return frame.groupby(["depth", *parameters, "seed"])["score"].max().reset_index()


def write_table(sources: Sequence[Path], to: Path) -> str:
    """Writes a table from run folders and from other tables.

    Args:
        sources: Of two seeds or more, for each depth; otherwise of one task and one training. Their grids may differ,
            and they may be unfinished: a table can grow, by naming itself among its sources.
        to: The file.

    Returns:
        What it holds, in one line per depth.

    Raises:
        UserError: When a folder is no run, or the sources do not belong together.
    """
    frames = [_read(source) if source.is_file() else _of_run(source) for source in sources]
    names = " and ".join(map(str, sources))
    if len({repr(frame.attrs.get(_MADE_BY)) for frame in frames}) > 1:
        raise UserError(f"{names}: give runs of one task and one training, with other seeds")
    everything = pd.concat([frame.astype(object) for frame in frames], ignore_index=True).infer_objects()
    if everything.empty:
        raise UserError(f"{names}: no trial has ended yet")
    parameters = sorted({*everything.columns} - {*_BESIDE})
    key = ["depth", "method", *parameters, "seed", "evaluation"]
    table = everything[[*key, "epoch", "score", "degenerate"]].drop_duplicates(key).sort_values(key, ignore_index=True)
    table.attrs = {_MADE_BY: frames[0].attrs.get(_MADE_BY)}
    write_file(to, lambda path: table.to_parquet(path, index=False, compression="zstd"))
    lines = []
    for read in read_tables(to):
        of_method = {method: len(read.of(method)) for method in RECORDED}
        counted = ", ".join(f"{count} settings of {method}" for method, count in of_method.items() if count)
        missing = sum(read.missing(method) for method, count in of_method.items() if count)
        lines.append(f"{read.name}: {counted}" + (f"; {missing} of the grid are missing" if missing else ""))
    return "\n".join(lines) or f"{to}: no setting was trained with {SEEDS} seeds yet"


def _read(path: Path) -> pd.DataFrame:
    """Returns the rows of a table's file, one for each evaluation.

    Raises:
        UserError: When it is no such file.
    """
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a recorded table ({error}); make one with --record") from error
    if missing := sorted({*_BESIDE} - {*frame.columns}):
        raise UserError(f"{path}: not a recorded table, it lacks {', '.join(missing)}")
    return frame


def _varied(frame: pd.DataFrame) -> list[str]:
    """Returns the parameters that have several values in a table."""
    return [name for name in frame.columns if name not in _BESIDE and frame[name].nunique() > 1]


def _of_run(run: Path) -> pd.DataFrame:
    """Returns a row for each evaluation of the complete trials of a run."""
    record = _record(run)
    search = record["search"]
    check_journal(run / JOURNAL)
    storage = JournalStorage(JournalFileBackend(str(run / JOURNAL)))
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    fixed = {name: value for name, spec in record["space"].items() if (value := fixed_value(spec)) is not None}
    rows = []
    for depth, method in itertools.product(search["depths"], RECORDED):
        if (name := f"{depth}-layer-{method}") not in names:
            continue
        own = {name: value for name, value in fixed.items() if name not in LEFT_OUT[method]}
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(states=(TrialState.COMPLETE,)):
            common = {
                "depth": depth,
                "method": method,
                "seed": search["student_training"]["seed"],
                **own,
                **trial.params,
            }
            for step, seen in evaluations(trial).items():
                score = round(trial.intermediate_values[step], 4)
                about = {"epoch": seen["epoch"], "score": score, "degenerate": seen["degenerate"]}
                rows.append({**common, "evaluation": step, **about})
    frame = pd.DataFrame(rows)
    training = {name: value for name, value in search["student_training"].items() if name != "seed"}
    frame.attrs = {_MADE_BY: {"task": search["data"]["task"]["name"], "training": training}}
    return frame


def _record(run: Path) -> dict[str, Any]:
    """Returns what run.json says of a search and its space."""
    try:
        record = read_json(run / RUN)
        return {name: dict(record[name]) for name in ("search", "space")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run}: not a run folder; give one like results/MRPC/demo, or a recorded table") from error


def _training(rows: pd.DataFrame) -> Training:
    rows = rows.sort_values("evaluation")
    return Training(
        epochs=tuple(rows["epoch"].astype(float)),
        scores=tuple(rows["score"].astype(float)),
        degenerate=tuple(rows["degenerate"].astype(bool)),
    )


def plain(value: Any) -> Any:
    """Returns a value of a table as Python has it."""
    return value.item() if isinstance(value, np.generic) else value


def _steps(values: Sequence[Any], one: Any, other: Any) -> float:
    """Returns how many recorded values lie between two."""
    if isinstance(one, (bool, str)) or one not in values or other not in values:
        return float(one != other)
    return abs(values.index(one) - values.index(other))
