"""Search policies that can be replayed on a recorded table: the paper's staged grid, random search, what other tools
do, and this package's own search.

`ours` and `tpe without stopping` are the code of `pkd_tune.tuning` itself, for a single study. A sampler of continuous
values is given a range in which every recorded value has its cell, half-way to its neighbours; what it suggests is
trained with the values of the cell.
"""

import contextlib
import functools
import itertools
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from pkd_tune.benchmark.recorded import RECORDED, Table, nearest
from pkd_tune.benchmark.simulation import Job, Policy, Seen
from pkd_tune.config import Method
from pkd_tune.files import JOURNAL
from pkd_tune.tuning import sampling
from pkd_tune.tuning import studies as studies_module
from pkd_tune.tuning.plan import StudyKey, StudyPlan, TrialId, siblings
from pkd_tune.tuning.space import Choice, Float, Parameters, Settings, suggest
from pkd_tune.tuning.space_file import DEFAULT, Space, find_space, load_space
from pkd_tune.tuning.studies import Studies

METHOD: Method = "pkd"
"""What is searched; the staged grid begins with vanilla KD."""

STAGED_KD = {"alpha": 3, "temperature": 3, "learning_rate": 3}
"""Values of each parameter in the paper's first stage: 27 settings of vanilla KD."""
STAGED_PKD = {"beta": 4, "learning_rate": 3, "normalize": 2}
"""The same in its second, which keeps the best alpha and temperature: 24 settings of PKD."""
STAGED_KEPT: tuple[str, ...] = ("alpha", "temperature")
STAGED_TRIALS = math.prod(STAGED_KD.values()) + math.prod(STAGED_PKD.values())

ASHA_REDUCTION = 4
"""Default of Ray's ASHA, which keeps a quarter at each rung; rungs are evaluations 1, 4, 16, ..."""
HYPERBAND_REDUCTION = 3
"""As in the paper on Hyperband (Li et al., JMLR 2018)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """The continuous space that is searched in place of a grid."""

    parameters: Parameters
    values: Mapping[str, tuple[Any, ...]]
    """Recorded values of each parameter."""
    log: frozenset[str]
    """Parameters whose values are compared on a logarithmic scale."""
    numbers: Mapping[tuple[Any, ...], int]
    """Recording of each combination of values, in the order of the parameters."""
    table: Table = field(repr=False)
    method: Method = METHOD
    depth: int | None = None
    """Of the recordings; None: the table has one depth."""

    def recording(self, settings: Mapping[str, Any]) -> int:
        """Returns the number of the recording in whose cell a setting lies; of one that is missing, the nearest."""
        snapped = {name: self._snap(name, settings[name]) for name in self.values}
        number = self.numbers.get(tuple(snapped.values()))
        return nearest(self.table, self.method, snapped, self.depth) if number is None else number

    def _snap(self, name: str, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            return value
        scale = math.log if name in self.log else float
        return min(self.values[name], key=lambda recorded: abs(scale(recorded) - scale(value)))


@functools.cache
def default_space() -> Space:
    """Returns default.toml, which this package's search uses."""
    return load_space(find_space(DEFAULT))


def scales_of(table: Table, method: Method = METHOD, depth: int | None = None) -> Scales:
    """Returns the continuous space of a table, or of one of its depths; which parameters are logarithmic is what
    default.toml says, but for those with a recorded 0."""
    values = table.values(method, depth)
    defaults = default_space().parameters
    log = frozenset(name for name in values if getattr(defaults.get(name), "log", False) and values[name][0] > 0)
    parameters: Parameters = {}
    for name, recorded in values.items():
        if len(recorded) > 1 and not isinstance(recorded[0], (bool, str)):
            scaled = np.log(recorded) if name in log else np.array(recorded, dtype=float)
            low, high = scaled[0] - (scaled[1] - scaled[0]) / 2, scaled[-1] + (scaled[-1] - scaled[-2]) / 2
            back = math.exp if name in log else float
            parameters[name] = Float(back(low), back(high), log=name in log)
        else:
            parameters[name] = Choice(recorded)
    numbers = {tuple(table.recordings[i].settings[name] for name in values): i for i in table.of(method, depth)}
    return Scales(
        parameters=parameters, values=values, log=log, numbers=numbers, table=table, method=method, depth=depth
    )


Maker = Callable[[Table, int, Path], Policy]
"""Makes a policy for one simulated search from the table, a seed, and a folder for its files."""


def staged_grid(table: Table, seed: int, folder: Path) -> Policy:
    """Returns the paper's procedure: vanilla KD over a grid, then PKD with the alpha and temperature of its best.

    The second stage begins when every trial of the first has ended. Of a parameter with more recorded values than the
    paper had, evenly spaced ones are taken, the lowest and the highest among them; of any other parameter, the lowest.
    """
    rng = random.Random(seed)
    first = _grid(table, "kd", STAGED_KD, {})
    rng.shuffle(first)
    jobs = iter([Job(i, number) for i, number in enumerate(first)])
    scores: dict[int, float] = {}
    best: dict[int, float] = defaultdict(lambda: float("-inf"))
    second: list[Iterator[Job]] = []

    def ask() -> Job | None:
        if (job := next(jobs, None)) is not None:
            return job
        if len(scores) < len(first):
            return None
        if not second:
            winner = table.recordings[max(scores, key=lambda number: scores[number])]
            kept: Settings = {name: winner.settings[name] for name in STAGED_KEPT if name in winner.settings}
            numbers = _grid(table, METHOD, STAGED_PKD, kept)
            rng.shuffle(numbers)
            second.append(iter([Job(len(first) + i, number) for i, number in enumerate(numbers)]))
        return next(second[0], None)

    def report(job: Job, seen: Seen) -> bool:
        best[job.trial] = max(best[job.trial], seen.score)
        return False

    def end(job: Job, seen: Seen) -> None:
        if table.recordings[job.recording].method == "kd":
            scores[job.recording] = best[job.trial]

    return Policy(ask=ask, report=report, end=end)


def random_search(table: Table, seed: int, folder: Path) -> Policy:
    """Returns random search: recorded settings in a random order, each trained with its whole budget."""
    numbers = table.of(METHOD)
    random.Random(seed).shuffle(numbers)
    jobs = iter([Job(i, number) for i, number in enumerate(numbers)])
    return Policy(ask=lambda: next(jobs, None), report=_continue, end=_nothing)


def own_search(
    table: Table,
    seed: int,
    folder: Path,
    *,
    early_stopping: bool = True,
    max_pending: int | None = None,
    first_rung: int = 1,
    transfer: bool | None = None,
) -> Policy:
    """Returns this package's search: the studies of `pkd_tune.tuning`, with a storage in memory in place of a journal.

    Args:
        table: What is searched.
        seed: Of the sampler.
        folder: Is not used.
        early_stopping: Whether weak trials are stopped at rungs.
        max_pending: Trials that run without a score at most; 0: no limit; None: as in default.toml.
        first_rung: Evaluation at which the first rung is.
        transfer: Whether the studies of all depths and methods of the table, side by side, try each other's best
            settings; None: PKD is searched alone, at the table's depth.
    """
    methods: tuple[Method, ...] = (METHOD,) if transfer is None else RECORDED
    per_epoch = table.evaluations_per_epoch
    scales = {
        StudyKey(depth, method): _cached_scales(table, method, depth)
        for depth, method in itertools.product(table.depths, methods)
        if table.of(method, depth)
    }
    plans = [
        StudyPlan(
            study_key=study_key,
            quota=100_000,
            parameters=each.parameters,
            siblings=siblings(study_key, scales) if transfer else (),
        )
        for study_key, each in scales.items()
    ]
    with _replaced("open_journal", lambda path: optuna.storages.InMemoryStorage()):
        studies = Studies(
            folder / JOURNAL,
            plans,
            seed=seed,
            early_stopping=early_stopping,
            first_rung=first_rung / per_epoch,
            max_pending=default_space().max_pending if max_pending is None else max_pending,
        )
    trials: list[TrialId] = []

    def ask() -> Job | None:
        if (asked := studies.ask()) is None:
            return None
        trial_id, settings, _ = asked
        trials.append(trial_id)
        return Job(len(trials) - 1, scales[trial_id.study_key].recording(settings))

    def report(job: Job, seen: Seen) -> bool:
        epoch = seen.evaluation / per_epoch  # the recorded one may be a step before the rung
        details = {"epoch": epoch, "degenerate": seen.degenerate, "metrics": {"score": seen.score}}
        return studies.report(trials[job.trial], seen.evaluation, seen.score, details, last=seen.last)

    def end(job: Job, seen: Seen) -> None:
        (studies.complete if seen.last else studies.stop)(trials[job.trial])

    return Policy(ask=ask, report=report, end=end)


def asha_with_optuna(table: Table, seed: int, folder: Path) -> Policy:
    """Returns what Ray's documentation shows: OptunaSearch with ASHA, both with their defaults; simulated.

    As in Ray 2.60 a trial that ASHA stops is told to Optuna as complete, with its last score. The algorithm is that of
    `ray.tune.schedulers.async_hyperband` with one bracket: a trial is stopped at a rung if its score lies below the
    upper quarter's limit of those recorded there before.
    """
    scales = _cached_scales(table)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    rungs: dict[int, list[float]] = defaultdict(list)
    trials: dict[int, optuna.Trial] = {}

    def ask() -> Job:
        trial = study.ask()
        trials[trial.number] = trial
        return Job(trial.number, scales.recording(suggest(trial, scales.parameters)))

    def report(job: Job, seen: Seen) -> bool:
        trials[job.trial].report(seen.score, seen.evaluation)
        if seen.last or not _is_power(seen.evaluation, ASHA_REDUCTION):
            return False
        before = rungs[seen.evaluation]
        stop = bool(before) and seen.score < float(np.percentile(before, (1 - 1 / ASHA_REDUCTION) * 100))
        before.append(seen.score)
        return stop

    def end(job: Job, seen: Seen) -> None:
        study.tell(trials.pop(job.trial), seen.score)

    return Policy(ask=ask, report=report, end=end)


def hyperband(table: Table, seed: int, folder: Path) -> Policy:
    """Returns Hyperband with random settings: brackets of synchronous successive halving, one after another.

    Budgets are counted in evaluations. A trial that is promoted continues from where it stopped. Slots that a rung
    leaves idle begin the next bracket.
    """
    rng = random.Random(seed)
    numbers = table.of(METHOD)
    longest = max(len(table.recordings[number].trainings[0].scores) for number in numbers)
    brackets = int(math.log(longest, HYPERBAND_REDUCTION) + 1e-9)
    queue: list[Job] = []
    bracket_of: dict[int, int] = {}
    waiting: dict[tuple[int, int], dict[int, tuple[float, int]]] = {}  # by bracket and rung: score and recording
    left: dict[tuple[int, int], int] = {}
    begun = [0]

    def budget(kind: int, rung: int) -> int:
        return max(1, round(longest * math.pow(HYPERBAND_REDUCTION, rung - kind)))

    def begin() -> None:
        number = begun[0]
        kind = brackets - number % (brackets + 1)
        begun[0] += 1
        count = math.ceil((brackets + 1) / (kind + 1) * HYPERBAND_REDUCTION**kind)
        chosen = [rng.choice(numbers) for _ in range(count)]
        waiting[number, 0], left[number, 0] = {}, count
        for recording in chosen:
            trial = len(bracket_of)
            bracket_of[trial] = number
            queue.append(Job(trial, recording, 0, budget(kind, 0)))

    def ask() -> Job:
        if not queue:
            begin()
        return queue.pop(0)

    def end(job: Job, seen: Seen) -> None:
        number = bracket_of[job.trial]
        kind = brackets - number % (brackets + 1)
        rung = next(r for r in range(kind + 1) if budget(kind, r) >= seen.evaluation or r == kind)
        waiting[number, rung][job.trial] = seen.score, job.recording
        left[number, rung] -= 1
        if left[number, rung] or rung == kind:
            return
        found = waiting.pop((number, rung))
        going_on = sorted(found, key=lambda trial: -found[trial][0])[: max(1, len(found) // HYPERBAND_REDUCTION)]
        waiting[number, rung + 1], left[number, rung + 1] = {}, len(going_on)
        done = budget(kind, rung)
        queue[:0] = [Job(trial, found[trial][1], done, budget(kind, rung + 1)) for trial in going_on]

    return Policy(ask=ask, report=_continue, end=end)


def _config_space(scales: Scales, seed: int) -> Any:
    """Returns the parameters as SMAC and DEHB take them; choices are texts.

    Raises:
        ImportError: Unless the package `ConfigSpace`, which both need, is installed.
    """
    from ConfigSpace import Categorical, ConfigurationSpace
    from ConfigSpace import Float as SpaceFloat

    space = ConfigurationSpace(seed=seed)
    for name, parameter in scales.parameters.items():
        if isinstance(parameter, Float):
            space.add(SpaceFloat(name, (parameter.low, parameter.high), log=parameter.log))
        elif isinstance(parameter, Choice):
            space.add(Categorical(name, [str(value) for value in parameter.values]))
    return space


def _longest(table: Table) -> int:
    """Returns the number of evaluations of the longest training run."""
    return max(len(table.recordings[number].trainings[0].scores) for number in table.of(METHOD))


def smac(table: Table, seed: int, folder: Path) -> Policy:
    """Returns SMAC's multi-fidelity facade, with its defaults.

    Raises:
        ImportError: Unless the package `smac` is installed.
    """
    from smac import MultiFidelityFacade, Scenario
    from smac.runhistory import TrialInfo, TrialValue

    scales = _cached_scales(table)
    space, longest = _config_space(scales, seed), _longest(table)
    scenario = Scenario(
        space,
        n_trials=100_000,
        min_budget=1,
        max_budget=longest,
        seed=seed,
        deterministic=True,
        output_directory=folder,
    )
    facade = MultiFidelityFacade(scenario, lambda config, seed, budget: 0.0, overwrite=True, logging_level=False)
    running: dict[int, TrialInfo] = {}
    done: dict[tuple[Any, ...], int] = {}

    def ask() -> Job:
        info = facade.ask()
        trial, key = len(running), tuple(dict(info.config).items())
        running[trial] = info
        until = max(1, round(info.budget))
        begin = done.get(key, 0)
        return Job(trial, scales.recording(_from_text(scales, dict(info.config))), begin if begin < until else 0, until)

    def end(job: Job, seen: Seen) -> None:
        info = running[job.trial]
        done[tuple(dict(info.config).items())] = seen.evaluation
        facade.tell(info, TrialValue(cost=-seen.score))

    return Policy(ask=ask, report=_continue, end=end)


def dehb(table: Table, seed: int, folder: Path) -> Policy:
    """Returns DEHB with its defaults, asked and told.

    Raises:
        ImportError: Unless the package `dehb` is installed.
    """
    from dehb import DEHB
    from loguru import logger

    logger.disable("dehb")  # it writes to stdout whatever `log_level` says
    scales = _cached_scales(table)
    space, longest = _config_space(scales, seed), _longest(table)
    search = DEHB(
        cs=space,
        min_fidelity=1,
        max_fidelity=longest,
        seed=seed,
        n_workers=1,
        save_freq="end",
        output_path=str(folder),
        log_level="ERROR",
    )
    running: dict[int, Any] = {}
    done: dict[Any, int] = {}

    def ask() -> Job:
        info = search.ask()
        trial = len(running)
        running[trial] = info
        until = max(1, round(info["fidelity"]))
        begin = done.get(info["config_id"], 0)
        settings = _from_text(scales, dict(info["config"]))
        return Job(trial, scales.recording(settings), begin if begin < until else 0, until)

    def end(job: Job, seen: Seen) -> None:
        info = running[job.trial]
        done[info["config_id"]] = seen.evaluation
        search.tell(info, {"fitness": -seen.score, "cost": seen.epoch})

    return Policy(ask=ask, report=_continue, end=end)


POLICIES: dict[str, Maker] = {
    "staged grid": staged_grid,
    "random": random_search,
    "hyperband": hyperband,
    "tpe without stopping": lambda table, seed, folder: own_search(table, seed, folder, early_stopping=False),
    "OptunaSearch + ASHA": asha_with_optuna,
    "SMAC": smac,
    "DEHB": dehb,
    "ours": own_search,
}
"""Policies by their names in tables and plots."""


def variant(assignments: Sequence[str]) -> Maker:
    """Returns the maker of this package's search with other constants of `pkd_tune.tuning.sampling`.

    Args:
        assignments: Such as `REDUCTION=2`; or `sampler=gp`, `sampler=cmaes`, `sampler=random`; or
            `max_pending=8`; or `first_rung=2`, the evaluation at which the first rung is; or `transfer=true` and
            `transfer=false`, with a study for each depth and method of the table.

    Raises:
        ValueError: When one is not of that form, or there is no such constant.
    """
    if unreadable := [text for text in assignments if not re.fullmatch(r"\w+=[\w.]+", text)]:
        raise ValueError(f"{' '.join(unreadable)} is neither a policy nor NAME=VALUE")
    given = dict(text.split("=") for text in assignments)
    pending = int(given.pop("max_pending")) if "max_pending" in given else None
    rung = int(given.pop("first_rung", 1))
    transfer = given.pop("transfer", None)
    if transfer not in (None, "true", "false"):
        raise ValueError(f"transfer={transfer}: there are true and false")
    kind = given.pop("sampler", "tpe")
    constants = {name: float(value) if "." in value else int(value) for name, value in given.items()}
    if unknown := [name for name in constants if not isinstance(getattr(sampling, name, None), (int, float))]:
        raise ValueError(f"pkd_tune.tuning.sampling has no number {', '.join(unknown)}")
    samplers: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
        "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False),
        "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    if kind not in ("tpe", *samplers):
        raise ValueError(f"sampler={kind}: there are tpe, {', '.join(samplers)}")

    def make(table: Table, seed: int, folder: Path) -> Policy:
        replaced = _replaced("make_sampler", lambda _, seed: samplers[kind](seed)) if kind in samplers else None
        with replaced or contextlib.nullcontext(), _constants(constants):
            policy = own_search(
                table,
                seed,
                folder,
                max_pending=pending,
                first_rung=rung,
                transfer=None if transfer is None else transfer == "true",
            )

        def report(job: Job, seen: Seen) -> bool:
            with _constants(constants):
                return policy.report(job, seen)

        return Policy(ask=policy.ask, report=report, end=policy.end)

    return make


@contextlib.contextmanager
def _constants(values: Mapping[str, float]) -> Iterator[None]:
    """Gives constants of `pkd_tune.tuning.sampling` other values, for a comparison."""
    before = {name: getattr(sampling, name) for name in values}
    for name, value in values.items():
        setattr(sampling, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(sampling, name, value)


@contextlib.contextmanager
def _replaced(name: str, value: Any) -> Iterator[None]:
    """Replaces a function that `pkd_tune.tuning.studies` calls, for a comparison."""
    before = getattr(studies_module, name)
    setattr(studies_module, name, value)
    try:
        yield
    finally:
        setattr(studies_module, name, before)


_SCALES: dict[tuple[int, Method, int | None], Scales] = {}


def _cached_scales(table: Table, method: Method = METHOD, depth: int | None = None) -> Scales:
    """Returns the space of a table, which many searches have in common."""
    key = id(table), method, depth
    found = _SCALES.get(key)
    if found is None or found.table is not table:
        found = _SCALES[key] = scales_of(table, method, depth)
    return found


def _grid(table: Table, method: str, counts: Mapping[str, int], kept: Settings) -> list[int]:
    """Returns the recordings of a grid of evenly spaced values of some parameters, with others kept."""
    values = table.values(method)
    chosen = {
        name: (kept[name],) if name in kept else _spread(recorded, counts.get(name, 1))
        for name, recorded in values.items()
    }
    wanted: list[Settings] = [{}]
    for name, choices in chosen.items():
        wanted = [{**settings, name: value} for settings in wanted for value in choices]
    numbers = {tuple(table.recordings[i].settings[name] for name in values): i for i in table.of(method)}
    found = [numbers.get(tuple(settings.values())) for settings in wanted]
    return list(
        dict.fromkeys(
            nearest(table, method, settings) if number is None else number
            for number, settings in zip(found, wanted, strict=True)
        )
    )


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """Returns so many of some values, evenly spaced, with the first and the last where there are several."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[place] for place in places]


def _from_text(scales: Scales, settings: Mapping[str, Any]) -> Settings:
    """Returns settings with the values of categories that are given as text; fixed parameters as well."""
    found: Settings = {}
    for name, parameter in scales.parameters.items():
        if isinstance(parameter, Choice):
            found[name] = next(value for value in parameter.values if str(value) == str(settings[name]))
        else:
            found[name] = float(settings[name])
    return found


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _continue(job: Job, seen: Seen) -> bool:
    return False


def _nothing(job: Job, seen: Seen) -> None:
    return None
