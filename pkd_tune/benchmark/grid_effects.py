"""What the parameters of a recorded grid are worth, and whether what is best at one depth is good at another.

    python -m pkd_tune.benchmark.grid_effects results/grids/sst2.parquet --of init

Tables are recorded as docs/replays.md says; here all seeds count that every compared setting was trained with.
"""

import argparse
import itertools
import logging
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from pkd_tune.benchmark.recorded import RECORDED, read_scores
from pkd_tune.config import Method, UserError
from pkd_tune.reporting.formatting import listed, plural, setting_text, signed, spread_text
from pkd_tune.tuning.space import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What one value of a parameter reaches at one depth, with the best of the other parameters."""

    depth: int | None
    """None: the mean over all depths."""
    value: Any
    others: Settings
    """The other parameters: the best by the mean over seeds. Chosen for each value, so all are equally optimistic."""
    scores: tuple[float, ...]
    """Of each seed."""
    average: float
    """Mean over all settings of the other parameters."""

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
        scores: The score of each training run, times 100: its `depth`, `seed`, `score` and a column for each parameter.
        parameter: One of these columns.
    """
    others = [name for name in _parameters(scores) if name != parameter]
    values = sorted(scores[parameter].unique())
    found = []
    for depth, at_depth in scores.groupby("depth"):
        for value in values:
            table = at_depth[at_depth[parameter] == value].pivot(index="seed", columns=others, values="score")
            best = table.mean().idxmax()
            found.append(
                Effect(
                    depth=int(str(depth)),
                    value=value,
                    others=dict(zip(others, best if isinstance(best, tuple) else (best,), strict=True)),
                    scores=tuple(table[best].astype(float)),
                    average=float(table.to_numpy().mean()),
                )
            )
    for value in values if scores["depth"].nunique() > 1 else ():
        own = [each for each in found if each.value == value and each.depth is not None]
        of_seeds = zip(*(each.scores for each in own), strict=True)
        average = statistics.mean(each.average for each in own)
        means = tuple(statistics.mean(of_seed) for of_seed in of_seeds)
        found.append(Effect(depth=None, value=value, others={}, scores=means, average=average))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """What the settings of one depth say of those of another; scores are means over seeds."""

    source: int
    target: int
    correlation: float
    """Spearman's rank correlation between the scores of all settings at both."""
    transferred: float
    """Score at the target of what is best at the source."""
    best: float
    """Score of the target's best setting."""
    average: float
    """Mean over all settings at the target."""


def between_depths(scores: pd.DataFrame) -> list[Transfer]:
    """Returns for each ordered pair of depths what one says of the other; `scores` as in `effects()`."""
    means = scores.pivot_table(index=_parameters(scores), columns="depth", values="score").dropna()
    return [
        Transfer(
            source=source,
            target=target,
            correlation=float(means[source].corr(means[target], method="spearman")),
            transferred=float(means[target].iloc[int(means[source].argmax())]),
            best=float(means[target].max()),
            average=float(means[target].mean()),
        )
        for source, target in itertools.permutations([int(str(depth)) for depth in means], 2)
    ]


def _parameters(scores: pd.DataFrame) -> list[str]:
    return [str(name) for name in scores if name not in ("depth", "seed", "score")]


def seeds_of_all(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns the training runs of the seeds with which every setting of every depth was trained.

    Raises:
        UserError: When there is no such seed.
    """
    settings = ["depth", *_parameters(scores)]
    count = scores.groupby(settings).ngroups
    complete = [seed for seed, rows in scores.groupby("seed") if rows.groupby(settings).ngroups == count]
    if not complete:
        raise UserError(f"no seed has all {count} settings; train those that are missing")
    return scores[scores["seed"].isin(complete)]


def _text(name: str, method: Method, scores: pd.DataFrame, parameter: str) -> Iterator[str]:
    """Yields the lines of a Markdown document."""
    depths = sorted(scores["depth"].unique())
    seeds = sorted(scores["seed"].unique())
    count = scores.groupby(["depth", *_parameters(scores)]).ngroups
    yield f"## {name}: {parameter}"
    yield ""
    yield f"{count} settings of {method} at depths {listed(depths)}, seeds {listed(seeds)}."
    yield ""
    yield f"| layers | {parameter} | best of the others | score | mean of all others | difference | 95 % CI |"
    yield "| --: | :-- | :-- | --: | --: | --: | :-- |"
    first: dict[int | None, Effect] = {}
    for effect in effects(scores, parameter):
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
    if len(depths) == 1:
        return
    yield "| best setting of | at | rank correlation | its score there | best there | mean there |"
    yield "| :-- | :-- | --: | --: | --: | --: |"
    for each in between_depths(scores):
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
        if args.of not in (varied := _parameters(scores)):
            raise UserError(f"--of {args.of}: {path} has several values of {listed(varied or ['no parameter'])}")
        texts += _text(path.stem, args.method, seeds_of_all(scores), args.of)
    print("\n".join(texts).rstrip())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        main()
    except UserError as problem:
        for line in problem.problems:
            print(f"python -m pkd_tune.benchmark.grid_effects: error: {line}", file=sys.stderr)
        sys.exit(2)
