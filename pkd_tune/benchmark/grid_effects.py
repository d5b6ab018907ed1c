"""What the parameters of a recorded grid are worth, and whether what is best at one depth is good at another.

    python -m pkd_tune.benchmark.grid_effects results/grids/sst2-start.parquet --of init

Tables are recorded as docs/replays.md says; here all seeds count with which the whole grid was trained. Each seed has a
teacher of its own, so a spread over seeds has the teacher's in it.
"""

import argparse
import itertools
import logging
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import stdtrit
from scipy.stats import spearmanr

from pkd_tune.benchmark.recorded import RECORDED, plain, read_scores
from pkd_tune.config import Method, UserError
from pkd_tune.files import until_output_is_closed
from pkd_tune.reporting.formatting import listed, plural, setting_text, signed, spread_text
from pkd_tune.tuning.space import Settings

Others = tuple[Any, ...]
"""Values of all parameters but one, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What one value of a parameter reaches at one depth, with the best of the other parameters."""

    depth: int | None
    """None: the mean over all depths."""
    value: Any
    others: Settings
    """The other parameters: the best by the mean over all seeds."""
    scores: tuple[float, ...]
    """Of each seed, with the others that are best by the mean over the other seeds: a seed that chose is not scored.
    With a single seed, the best of that."""
    average: float
    """Mean over all seeds and all settings of the other parameters."""

    def over(self, other: "Effect") -> "Mean":
        """Returns the difference to another value, paired by seed."""
        return mean_of([own - its for own, its in zip(self.scores, other.scores, strict=True)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean over seeds."""

    mean: float
    sd: float | None
    """Standard deviation; None with one seed, as the interval."""
    interval: tuple[float, float] | None
    """95 % confidence interval by Student's t."""


def mean_of(values: Sequence[float]) -> Mean:
    """Returns the mean of some values, one for each seed."""
    mean, count = statistics.mean(values), len(values)
    if count == 1:
        return Mean(mean=mean, sd=None, interval=None)
    sd = statistics.stdev(values)
    half = float(stdtrit(count - 1, 0.975)) * sd / math.sqrt(count)
    return Mean(mean=mean, sd=sd, interval=(mean - half, mean + half))


def effects(scores: pd.DataFrame, parameter: str) -> list[Effect]:
    """Returns what each value of a parameter reaches, at each depth and then, of several, over all depths.

    Args:
        scores: The score of each training run of complete grids, times 100: its `depth`, `seed`, `score` and a column
            for each parameter.
        parameter: One of these columns.
    """
    others = [name for name in _parameters(scores) if name != parameter]
    found = []
    for (depth, value), rows in scores.groupby(["depth", parameter]):
        of_settings = _scores_of_settings(rows, others)
        seeds = sorted(rows["seed"].unique())
        best = _best(of_settings, seeds)
        found.append(
            Effect(
                depth=int(str(depth)),
                value=plain(value),
                others=dict(zip(others, best, strict=True)),
                scores=_fair_scores(of_settings, seeds),
                average=float(rows["score"].mean()),
            )
        )
    values = list(dict.fromkeys(each.value for each in found))
    depths = {each.depth for each in found}
    everywhere = [value for value in values if {each.depth for each in found if each.value == value} == depths]
    for value in everywhere if len(depths) > 1 else ():
        own = [each for each in found if each.value == value]
        of_seeds = zip(*(each.scores for each in own), strict=True)
        average = statistics.mean(each.average for each in own)
        means = tuple(statistics.mean(of_seed) for of_seed in of_seeds)
        found.append(Effect(depth=None, value=value, others={}, scores=means, average=average))
    return found


def _scores_of_settings(rows: pd.DataFrame, parameters: Sequence[str]) -> dict[Others, dict[int, float]]:
    """Returns the score of each seed for each combination of some parameters."""
    found: dict[Others, dict[int, float]] = {}
    for row in rows.to_dict("records"):
        found.setdefault(tuple(plain(row[name]) for name in parameters), {})[row["seed"]] = row["score"]
    return found


def _best(of_settings: Mapping[Others, Mapping[int, float]], seeds: Sequence[int]) -> Others:
    """Returns the settings with the best mean over some seeds."""
    return max(of_settings, key=lambda settings: statistics.mean(of_settings[settings][seed] for seed in seeds))


def _fair_scores(of_settings: Mapping[Others, Mapping[int, float]], seeds: Sequence[int]) -> tuple[float, ...]:
    """Returns the score of each seed with the settings that are best by the others."""
    without = [[other for other in seeds if other != seed] or [seed] for seed in seeds]
    return tuple(of_settings[_best(of_settings, rest)][seed] for seed, rest in zip(seeds, without, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """What the settings of one depth say of those of another, of the settings that both have."""

    source: int
    target: int
    correlation: float
    """Spearman's rank correlation between the mean scores of the settings at both."""
    transferred: float
    """Mean score at the target of what is best at the source."""
    best: float
    """Mean score of the target's best setting, chosen for each seed by the other seeds."""
    average: float
    """Mean over the settings at the target."""


def between_depths(scores: pd.DataFrame) -> list[Transfer]:
    """Returns for each ordered pair of depths with common settings what one says of the other.

    Args:
        scores: As in `effects()`.
    """
    of_depths = {
        int(str(depth)): _scores_of_settings(rows, _parameters(scores)) for depth, rows in scores.groupby("depth")
    }
    seeds = sorted(scores["seed"].unique())
    found = []
    for source, target in itertools.permutations(of_depths, 2):
        common = [settings for settings in of_depths[source] if settings in of_depths[target]]
        if len(common) < 2:
            continue
        at_source, at_target = ({each: of_depths[depth][each] for each in common} for depth in (source, target))
        means = [[statistics.mean(each.values()) for each in table.values()] for table in (at_source, at_target)]
        found.append(
            Transfer(
                source=source,
                target=target,
                correlation=float(spearmanr(*means).statistic),
                transferred=statistics.mean(at_target[_best(at_source, seeds)].values()),
                best=statistics.mean(_fair_scores(at_target, seeds)),
                average=statistics.mean(means[1]),
            )
        )
    return found


def _parameters(scores: pd.DataFrame) -> list[str]:
    return [str(name) for name in scores if name not in ("depth", "seed", "score")]


def complete_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns the training runs of the seeds with which every setting was trained, at every depth.

    Raises:
        UserError: When there is no such seed, or the settings of a depth are no whole grid.
    """
    parameters = _parameters(scores)
    expected = 0
    for depth, rows in scores.groupby("depth"):
        size, whole = len(rows[parameters].drop_duplicates()), math.prod(rows[name].nunique() for name in parameters)
        if size != whole:
            raise UserError(f"{plural(int(str(depth)), 'layer')}: {size} of the grid's {whole} settings are recorded")
        expected += whole
    complete = [seed for seed, rows in scores.groupby("seed") if len(rows) == expected]
    if not complete:
        raise UserError(f"no seed has all {expected} settings; train those that are missing")
    return scores[scores["seed"].isin(complete)]


def _text(name: str, method: Method, scores: pd.DataFrame, parameter: str) -> Iterator[str]:
    """Yields the lines of a Markdown document."""
    depths, seeds = sorted(scores["depth"].unique()), sorted(scores["seed"].unique())
    count = len(scores) // len(seeds)
    found = effects(scores, parameter)
    yield f"## {name}: {parameter}"
    yield ""
    yield (
        f"{count} settings of {method} in all, of {'depth' if len(depths) == 1 else 'depths'} {listed(depths)}; "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)}. Differences are to {setting_text(found[0].value)}."
    )
    yield ""
    yield f"| layers | {parameter} | best of the other parameters | score | mean over these | difference | 95 % CI |"
    yield "| --: | :-- | :-- | --: | --: | --: | :-- |"
    first: dict[int | None, Effect] = {}
    for effect in found:
        own = mean_of(effect.scores)
        others = ", ".join(f"{name} {setting_text(value)}" for name, value in effect.others.items())
        cells = ["all" if effect.depth is None else str(effect.depth), setting_text(effect.value), others]
        cells += [spread_text(own.mean, own.sd), f"{effect.average:.1f}"]
        if (control := first.setdefault(effect.depth, effect)) is effect:
            cells += ["", ""]
        else:
            difference = effect.over(control)
            ends = () if difference.interval is None else difference.interval
            cells += [signed(difference.mean), " to ".join(map(signed, ends))]
        yield f"| {' | '.join(cells)} |"
    yield ""
    if not (transfers := between_depths(scores)):
        return
    yield "| best setting of | at | rank correlation | its score there | best there | mean there |"
    yield "| :-- | :-- | --: | --: | --: | --: |"
    for each in transfers:
        cells = [plural(each.source, "layer"), plural(each.target, "layer"), signed(each.correlation, 2)]
        cells += [f"{number:.1f}" for number in (each.transferred, each.best, each.average)]
        yield f"| {' | '.join(cells)} |"
    yield ""


def make_parser() -> argparse.ArgumentParser:
    """Returns the program's flags."""
    parser = argparse.ArgumentParser(
        "python -m pkd_tune.benchmark.grid_effects",
        description="Prints, as Markdown, what each value of a parameter is worth in recorded grids, and "
        "what the settings of one depth say of another.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("tables", nargs="+", type=Path, metavar="TABLE", help="recorded tables, see docs/replays.md")
    add("--method", choices=RECORDED, default="kd", help="whose settings are compared (default: %(default)s)")
    add("--of", default="init", metavar="PARAMETER", help="the parameter (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program.

    Raises:
        UserError: When a table is not usable.
    """
    args = make_parser().parse_args(arguments)
    texts: list[str] = []
    for path in args.tables:
        scores = read_scores(path, args.method)
        if scores.empty:
            raise UserError(f"{path}: no setting of {args.method} is recorded")
        if args.of not in (varied := _parameters(scores)):
            raise UserError(f"--of {args.of}: {path} has several values of {listed(varied or ['no parameter'])}")
        texts += _text(path.stem, args.method, complete_seeds(scores), args.of)
    print("\n".join(texts).rstrip())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with until_output_is_closed():
            main()
    except UserError as problem:
        for line in problem.problems:
            print(f"python -m pkd_tune.benchmark.grid_effects: error: {line}", file=sys.stderr)
        sys.exit(2)
