"""Replays search policies on recorded tables, and writes how good their choices are by epochs spent.

    python -m pkd_tune.benchmark.replay results/search-efficiency/demo.parquet

docs/replays.md explains what is replayed and how a table is recorded.
"""

import argparse
import itertools
import logging
import math
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd

from pkd_tune.benchmark.policies import POLICIES, STAGED_TRIALS, Maker, variant
from pkd_tune.benchmark.recorded import SEEDS, Table, read_tables, together, write_table
from pkd_tune.benchmark.simulation import simulate
from pkd_tune.config import UserError
from pkd_tune.files import until_output_is_closed, write_text
from pkd_tune.reporting.figures import Figure, Panel, Series
from pkd_tune.reporting.methods import SeriesStyle
from pkd_tune.reporting.plots import write_plots

SLOTS = (1, 8, 32)
BUDGETS = (1, 2, 4, 6, 8, 10, 13, 17, 21, 26, 34, 42, STAGED_TRIALS)
"""In whole training runs, up to those of the staged grid; 17 are a third of them. Of several depths that are searched
together, so many for each study."""
REPEATS = 500
SUMMARY = ["table", "slots", "policy", "epochs", "median", "q25", "q75"]
"""Columns of summary.csv."""
SLOW = {"SMAC": 20, "DEHB": 100}
"""Policies that take seconds for a search, and how many repeats of them are made at most."""

STYLES = {
    "staged grid": SeriesStyle("#EE7733", "dash"),
    "random": SeriesStyle("#888888", "dot"),
    "hyperband": SeriesStyle("#CC3311", "dashdot"),
    "tpe without stopping": SeriesStyle("#33BBEE", "dash"),
    "OptunaSearch + ASHA": SeriesStyle("#EE3377", "dot"),
    "SMAC": SeriesStyle("#009988", "dashdot"),
    "DEHB": SeriesStyle("#AA5599", "dash"),
    "ours": SeriesStyle("#0077BB", "solid"),
}

log = logging.getLogger("pkd_tune.replay")


def search_once(table: Table, policy: Maker, slots: int, epochs: np.ndarray, repeat: int, folder: Path) -> np.ndarray:
    """Returns the confirmed scores of simulated searches with each of some budgets of epochs.

    What a search chooses is scored by the best evaluation of its training with the other seed; the mean over depths
    where it searches several. The seed that it sees alternates, so that a setting's luck with one seed counts as often
    as with the other.
    """
    seed = repeat % SEEDS
    chosen = simulate(table, seed, policy(table, repeat, folder), slots, epochs.tolist(), random.Random(repeat))
    recordings = [[table.recordings[number] for number in choice.values()] for choice in chosen]
    return np.array([np.mean([each.trainings[1 - seed].best for each in of_depths]) for of_depths in recordings])


def replay(
    table: Table, policies: Sequence[str], slots: Sequence[int], repeats: int, *, processes: int = 1
) -> pd.DataFrame:
    """Replays policies on a table.

    Args:
        table: What is searched.
        policies: Names of `POLICIES`, or assignments of `variant()`, separated by spaces.
        slots: Numbers of concurrent trials.
        repeats: Searches of each policy with each number of slots; of those in `SLOW` fewer.
        processes: That share the repeats.

    Returns:
        A row for each number of slots, policy and budget: median and quartiles of the confirmed score over the repeats.
    """
    studies = len({(each.depth, each.method) for each in table.recordings}) if len(table.depths) > 1 else 1
    epochs = np.array(BUDGETS) * table.budget * studies
    rows = []
    for name in policies:
        for count in slots:
            begun = time.monotonic()
            of_policy = min(repeats, SLOW.get(name, repeats))
            work = partial(_searches, table, name, count, epochs)
            shares = [range(start, of_policy, processes) for start in range(min(processes, of_policy))]
            if processes == 1:
                found = [work(shares[0])]
            else:
                with ProcessPoolExecutor(processes) as pool:
                    found = list(pool.map(work, shares))
            scores = np.concatenate(found)
            for spent, at in zip(epochs, scores.T, strict=True):
                low, middle, high = np.percentile(at, (25, 50, 75))
                quartiles = {"median": middle, "q25": low, "q75": high}
                rows.append({"table": table.name, "slots": count, "policy": name, "epochs": spent, **quartiles})
            log.info("%s, %d slots, %s: %.0f s", table.name, count, name, time.monotonic() - begun)
    return pd.DataFrame(rows)


def _searches(table: Table, name: str, slots: int, epochs: np.ndarray, repeats: Sequence[int]) -> np.ndarray:
    """Returns the confirmed scores of some repeats, one a row; runs in a process of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    policy = POLICIES.get(name) or variant(name.split())
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        return np.array([search_once(table, policy, slots, epochs, repeat, Path(folder)) for repeat in repeats])


def read_summary(path: Path) -> pd.DataFrame:
    """Returns the rows of earlier replays, none where there is no such file.

    Raises:
        UserError: When it is not a summary.
    """
    if not path.exists():
        return pd.DataFrame(columns=SUMMARY)
    try:
        before = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' errors of parsing are ValueErrors
        raise UserError(f"{path} cannot be read ({error}); move it, or choose another --to") from error
    if missing := [name for name in SUMMARY if name not in before]:
        lacks = f"it has no column {', '.join(missing)}"
        raise UserError(f"{path} is not a summary of replays: {lacks}; move it, or choose another --to")
    return before[SUMMARY]


def add_to_summary(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Adds rows of `replay()` to a file, in place of what it has of the same tables, policies and numbers of slots.

    Returns:
        All rows of the file, by table, number of slots and policy.

    Raises:
        UserError: When the file is there and is not a summary.
    """
    before = read_summary(path)
    rows = rows.round({"epochs": 2, "median": 3, "q25": 3, "q75": 3})
    if not before.empty:
        key = ["table", "slots", "policy"]
        kept = before[~before.set_index(key).index.isin(rows.set_index(key).index)]
        rows = pd.concat([kept, rows], ignore_index=True)
    place = {name: number for number, name in enumerate(POLICIES)}
    rows = rows.assign(place=rows["policy"].map(place).fillna(len(place)))
    summary = rows.sort_values(["table", "slots", "place", "policy", "epochs"], ignore_index=True)[SUMMARY]
    write_text(path, summary.to_csv(index=False))
    return summary


def finding(summary: pd.DataFrame) -> str:
    """Returns, as a Markdown table, when each policy reaches the staged grid's final confirmed score.

    That is the first budget from which on its median stays at or above the staged grid's last median.
    """
    lines = [
        "| table | slots | policy | final score | reaches the staged grid's at | below random at |",
        "| :-- | --: | :-- | --: | --: | --: |",
    ]
    for (table, slots), group in summary.groupby(["table", "slots"], sort=False):
        medians = {name: rows.set_index("epochs")["median"] for name, rows in group.groupby("policy", sort=False)}
        staged, chance = medians.get("staged grid"), medians.get("random")
        for name, scores in medians.items():
            row = " | ".join([str(table), str(slots), str(name)])
            reached = below = "–"
            if staged is not None:
                short = scores[scores < staged.iloc[-1] - 1e-9]
                later = scores if short.empty else scores[scores.index > short.index[-1]]
                reached = "never" if later.empty else f"{later.index[0] / staged.index[-1]:.0%} of its epochs"
            if chance is not None:
                both = scores.index.intersection(chance.index)
                below = f"{int((scores[both] < chance[both] - 1e-9).sum())} of {len(both)} budgets"
            lines.append(f"| {row} | {scores.iloc[-1]:.2f} | {reached} | {below} |")
    return "\n".join(lines) + "\n"


def figures(summary: pd.DataFrame) -> list[Figure]:
    """Returns a figure for each table: confirmed score by epochs, a panel for each number of slots.

    Thick lines are medians, thin ones quartiles. The scale begins at the lowest median that any policy but the staged
    grid has from the fourth budget on, so that those that are alike can be told apart.
    """
    lines = {"median": (2.0, 1.0), "q25": (0.5, 0.6), "q75": (0.5, 0.6)}  # width and opacity
    found = []
    for table, of_table in summary.groupby("table", sort=False):
        panels = []
        for slots, of_slots in of_table.groupby("slots", sort=False):
            groups = sorted(of_slots.groupby("policy", sort=False), key=lambda group: group[0] == "ours")  # on top
            late = of_slots[of_slots["epochs"] >= sorted(set(of_slots["epochs"]))[:4][-1]]
            low = late["median"][late["policy"] != "staged grid"].min()
            series = [
                Series(
                    name=str(name),
                    look=STYLES.get(str(name), SeriesStyle()),
                    x=[*rows["epochs"]],
                    y=[*rows[what]],
                    width=width,
                    opacity=opacity,
                    legend=what == "median",
                )
                for name, rows in groups
                for what, (width, opacity) in lines.items()
            ]
            title = f"{slots} slot{'s' if slots != 1 else ''}"
            x, y = "epochs spent in all slots", "confirmed score"
            panels.append(Panel(title=title, x=x, y=y, series=series, low_y=None if math.isnan(low) else low - 0.5))
        found.append(Figure(name=str(table), title=str(table), caption="", panels=panels))
    return found


def make_parser() -> argparse.ArgumentParser:
    """Returns the program's flags."""
    parser = argparse.ArgumentParser(
        "python -m pkd_tune.benchmark.replay",
        description="Replays search policies on recorded tables; or, with --record, makes a table from run folders.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("tables", nargs="+", type=Path, metavar="TABLE", help="recorded tables; with --record: folders of runs")
    add("--record", type=Path, metavar="FILE", help="write the table of these runs: one grid, trained with two seeds")
    add("--to", type=Path, default=Path("results/search-efficiency"), metavar="DIR", help="receives summary.csv, "
        "finding.md and plots/ (default: %(default)s)")  # fmt: skip
    add("--policies", nargs="+", action="extend", metavar="P", help="names of policies, or constants of this "
        "package's search to compare, such as 'REDUCTION=2 WARM_UP_TRIALS=8' (default: all policies)")  # fmt: skip
    add("--together", action="store_true", help="search all depths and methods of a table at once, with transfer=true "
        "or transfer=false; the score is the mean over depths, of the better method at each")  # fmt: skip
    add("--slots", nargs="+", action="extend", type=int, metavar="N", help="concurrent trials (default: 1 8 32)")
    add("--repeats", type=int, default=REPEATS, metavar="N", help="searches of each kind (default: %(default)s)")
    add("--processes", type=int, default=1, metavar="N", help="that share the work (default: %(default)s)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Runs the program.

    Raises:
        UserError: When a table or a policy is not usable.
    """
    if args.record is not None:
        print(write_table(args.tables, args.record))
        return
    all_slots = args.slots or list(SLOTS)
    for flag, numbers in (("--slots", all_slots), ("--repeats", [args.repeats]), ("--processes", [args.processes])):
        if min(numbers) < 1:
            raise UserError(f"{flag} must be at least 1")
    tables = [table for path in args.tables for table in _tables(path, args.together)]
    names = args.policies or list(POLICIES)
    if args.together and (alone := [name for name in names if "transfer=" not in name]):
        raise UserError(
            f"--together: {', '.join(alone)} searches one depth; give --policies transfer=true transfer=false"
        )
    policies = [name for name in names if is_usable(name, tables)]
    read_summary(args.to / "summary.csv")  # before hours of work
    for table, name, count in itertools.product(tables, policies, all_slots):
        rows = replay(table, [name], [count], args.repeats, processes=args.processes)
        summary = add_to_summary(args.to / "summary.csv", rows)
    write_text(args.to / "finding.md", finding(summary))
    write_plots(figures(summary), [], args.to / "plots")
    print(finding(summary))


def _tables(path: Path, at_once: bool) -> list[Table]:
    """Returns the tables of a file, or all of them as one.

    Raises:
        UserError: When it has none.
    """
    tables = read_tables(path)
    if not tables:
        raise UserError(f"{path}: no setting was trained with {SEEDS} seeds yet; record another seed")
    return [together(tables)] if at_once else tables


def is_usable(name: str, tables: Sequence[Table]) -> bool:
    """Returns whether a policy can be replayed; names the package that one lacks.

    Raises:
        UserError: When there is no such policy, or the tables lack what it needs.
    """
    for table in tables:
        if "transfer=" not in name and not table.of("pkd"):
            raise UserError(f"{table.name}: {name} searches PKD, and no setting of it was recorded")
    if name == "staged grid":
        for table in tables:
            if not table.of("kd"):
                raise UserError(f"{table.name}: the staged grid begins with KD, and no setting of it was recorded")
    if name in ("hyperband", "SMAC", "DEHB"):
        for table in tables:
            if len({recording.budget for recording in table.recordings}) > 1:
                raise UserError(f"{table.name}: {name} takes training runs of equal length; leave it out of --policies")
    package = {"SMAC": "smac", "DEHB": "dehb"}.get(name)
    if package is not None:
        try:
            __import__(package)
        except ImportError as error:
            log.warning("%s is left out: %s", name, error)
            return False
    elif name not in POLICIES:
        try:
            variant(name.split())
        except ValueError as error:
            raise UserError(f"--policies {name!r}: {error}; policies are {', '.join(POLICIES)}") from error
    return True


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("pkd_tune").setLevel(logging.INFO)
    try:
        with until_output_is_closed():
            main(make_parser().parse_args())
    except UserError as problem:
        for line in problem.problems:
            print(f"python -m pkd_tune.benchmark.replay: error: {line}", file=sys.stderr)
        sys.exit(2)
