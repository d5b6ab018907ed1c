"""What a bench measured: medians, ratios of medians, shares of the machine's peak, and the tables that show them."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from pkd_tune.benchmark.race import Answer, Entry, Work
from pkd_tune.reporting.document import Table, Text, markdown
from pkd_tune.reporting.formatting import plural

CLASSES = 2
COSTS = {
    "evaluation": "scoring dev",
    "checkpoint": "writing a training's state",
    "reset": "beginning and ending",
    "report": "a report to Ray",
}

Found = Mapping[str, list[list[Answer]]]


def needed_flops(lengths: Sequence[int], depth: int, width: int, inner: int, heads: int) -> float:
    """Returns the floating-point operations that training on examples of these lengths needs, forward and backward.

    Counted are matrix products, a multiplication and its addition as two operations. The backward pass of each takes
    two products of the same size, one for the gradient of either factor (as in the count of 6 operations per weight and
    token of Kaplan et al. 2020, section 2.1). Every token goes through projections, attention and feed-forward of all
    layers but the top one, where [CLS] alone is needed: there the key matrix is applied to its query, and the value
    matrix to what it gathers.

    Args:
        lengths: Tokens of each example, without padding.
        depth: Layers of the student.
        width: Hidden size.
        inner: Size of the feed-forward layer.
        heads: Attention heads.
    """
    per_token = 8 * width**2 + 4 * width * inner  # four projections; two feed-forward products
    lower = (depth - 1) * sum(tokens * per_token + 4 * tokens**2 * width for tokens in lengths)
    top = sum(per_token + 4 * heads * tokens * width for tokens in lengths)
    pooler_and_classifier = len(lengths) * (2 * width**2 + 2 * width * CLASSES)
    return 3.0 * (lower + top + pooler_and_classifier)


def summary(
    lineups: Mapping[int, Sequence[Entry]], found: Mapping[int, Found], report_seconds: list[float]
) -> dict[str, Any]:
    """Returns the numbers of a bench and every measurement they come from.

    Args:
        lineups: The entries of each depth, the plain loop in fp32 first.
        found: What they answered.
        report_seconds: How long each report held up a trial.
    """
    ours = next(iter(lineups.values()))[-1].works[0].precision
    measured = {
        precision: [turn[0][precision] for answers in found.values() for turn in answers["peak"]]
        for precision in ("fp32", "bf16")
    }
    peaks = {
        precision: {
            "flops_per_second": median(rates),
            "in_hardware": precision in ("fp32", ours),
            "measured": rates,
        }
        for precision, rates in measured.items()
    }
    return {
        "peaks": peaks,
        "depths": [
            {
                "depth": depth,
                "training": _training(entries, found[depth], peaks),
                "costs": _costs(found[depth], report_seconds),
            }
            for depth, entries in lineups.items()
        ],
    }


def _training(entries: Sequence[Entry], found: Found, peaks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    plain = plain_cpu = 0.0
    for entry in entries:
        work = entry.works[0]
        if work.kind in ("peak", "costs"):
            continue
        rates = [sum(len(work.lengths) / answer["seconds"] for answer in turn) for turn in found[entry.name]]
        cpu_rates = [
            len(work.lengths) * len(turn) / sum(answer["cpu_seconds"] for answer in turn) for turn in found[entry.name]
        ]
        plain, plain_cpu = plain or median(rates), plain_cpu or median(cpu_rates)
        flops = _flops_per_example(work)
        rows.append(
            {
                "name": entry.name,
                "precision": work.precision,
                "processes": len(entry.works),
                "threads": work.threads,
                "examples_per_second": median(rates),
                "tokens_per_second": median(rates) * float(np.mean(work.lengths)),
                "times_plain": median(rates) / plain,
                "examples_per_cpu_second": median(cpu_rates),
                "times_plain_per_cpu_second": median(cpu_rates) / plain_cpu,
                "needed_flops_per_example": flops,
                "share_of_peak": median(rates) * flops / peaks[work.precision]["flops_per_second"],
                "measured_examples_per_second": rates,
                "measured_examples_per_cpu_second": cpu_rates,
            }
        )
    return rows


def _flops_per_example(work: Work) -> float:
    width, inner, heads = (work.model[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    return needed_flops(work.lengths, work.depth, width, inner, heads) / len(work.lengths)


def _costs(found: Found, report_seconds: list[float]) -> dict[str, Any]:
    measured = {what: [turn[0][what] for turn in found["costs"]] for what in COSTS if what != "report"}
    return {
        what: {"seconds": median(seconds), "measured": seconds}
        for what, seconds in {**measured, "report": report_seconds}.items()
    }


def as_text(record: Mapping[str, Any]) -> str:
    """Returns the tables of a bench: what the machine reaches, then speed and other costs for each depth."""
    products = ", ".join(
        f"{precision} {_digits(peak['flops_per_second'] / 1e9)} GFLOP/s"
        + ("" if peak["in_hardware"] else " (in software)")
        for precision, peak in record["peaks"].items()
    )
    turns = plural(record["repeats"], "turn")
    blocks: list[Text | Table] = [
        Text(f"{record['machine']}. {record['model']}. {record['data']}. Medians of {turns}."),
        Text(f"Matrix products: {products}."),
    ]
    for group in record["depths"]:
        rows = group["training"]
        header = (
            plural(group["depth"], "layer"),
            "processes × threads",
            "examples/s",
            "tokens/s",
            "× plain",
            "by CPU time",
            "of peak",
        )
        lines = [
            (
                f"{row['name']}, {row['precision']}",
                f"{row['processes']} × {row['threads']}",
                _digits(row["examples_per_second"]),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['times_plain']:.2f}",
                f"{row['times_plain_per_cpu_second']:.2f}",
                f"{row['share_of_peak']:.0%}",
            )
            for row in rows
        ]
        blocks += [Table(header, lines), Text(_remarks(rows, group["costs"]))]
    return markdown(blocks).rstrip()


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _remarks(rows: list[dict[str, Any]], costs: dict[str, Any]) -> str:
    named = {row["name"]: row for row in rows}
    finetuning, pkd = named["ours, fine-tuning"], named["ours, PKD"]
    longer, longer_cpu = (finetuning[rate] / pkd[rate] for rate in ("examples_per_second", "examples_per_cpu_second"))
    fastest = max((row for row in rows if "PKD" in row["name"]), key=lambda row: row["examples_per_second"])
    seconds = ", ".join(f"{title} {costs[what]['seconds']:.3f} s" for what, title in COSTS.items())
    return (
        f"A PKD epoch takes {longer:.2f} times as long as a fine-tuning epoch ({longer_cpu:.2f} by CPU time). "
        f"PKD trials are fastest as {fastest['processes']} × {fastest['threads']}.\n"
        f"What a trial does besides training: {seconds}."
    )
