"""Results of a benchmark: medians, ratios of medians, shares of the machine's peak, and the tables of them."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from pkd_tune.benchmark.interleaving import EAGER, FAST, GENERAL, PLAIN, REFERENCE, Answer, Entry, Workload
from pkd_tune.encoders.families import FAMILIES
from pkd_tune.reporting.document import Table, Text, markdown
from pkd_tune.reporting.formatting import plural

CLASSES = 2
OVERHEADS = {
    "evaluation": "scoring the dev split",
    "checkpoint": "writing a training state",
    "reset": "starting and ending a trial",
    "report": "reporting to Ray",
}
"""What a trial does besides training steps, and its name in tables."""

Answers = Mapping[str, list[list[Answer]]]
"""For each entry name, the answers of its processes in every run."""


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
    entries: Mapping[int, Sequence[Entry]], answers: Mapping[int, Answers], report_seconds: list[float]
) -> dict[str, Any]:
    """Returns the numbers of a benchmark and every measurement they come from.

    Args:
        entries: The entries of each depth, the plain loop in fp32 first.
        answers: From `run_interleaved()`, for each depth.
        report_seconds: How long each report blocked a trial.
    """
    own_precision = next(iter(entries.values()))[-1].workloads[0].precision
    measured = {
        precision: [run[0][precision] for of_depth in answers.values() for run in of_depth["peak"]]
        for precision in ("fp32", "bf16")
    }
    peaks = {
        precision: {
            "flops_per_second": median(rates),
            "supported": precision in ("fp32", own_precision),
            "measured": rates,
        }
        for precision, rates in measured.items()
    }
    return {
        "peaks": peaks,
        "depths": [
            {
                "depth": depth,
                "training": _training(of_depth, answers[depth], peaks),
                "overheads": _overheads(answers[depth], report_seconds),
            }
            for depth, of_depth in entries.items()
        ],
    }


def _training(entries: Sequence[Entry], answers: Answers, peaks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    plain = plain_cpu = 0.0
    for entry in entries:
        workload, runs = entry.workloads[0], answers[entry.name]
        if workload.kind in ("peak", "overheads"):
            continue
        examples = len(workload.lengths)
        rates = [sum(examples / answer["seconds"] for answer in run) for run in runs]
        cpu_rates = [examples * len(run) / sum(answer["cpu_seconds"] for answer in run) for run in runs]
        plain, plain_cpu = plain or median(rates), plain_cpu or median(cpu_rates)
        flops = _flops_per_example(workload)
        devices = len({each.gpu for each in entry.workloads}) if workload.device == "cuda" else 1
        rows.append(
            {
                "name": entry.name,
                "precision": workload.precision,
                "processes": len(entry.workloads),
                "threads": workload.threads,
                "examples_per_second": median(rates),
                "tokens_per_second": median(rates) * float(np.mean(workload.lengths)),
                "times_plain": median(rates) / plain,
                "examples_per_cpu_second": median(cpu_rates),
                "times_plain_per_cpu_second": median(cpu_rates) / plain_cpu,
                "needed_flops_per_example": flops,
                "share_of_peak": median(rates) * flops / (devices * peaks[workload.precision]["flops_per_second"]),
                "measured_examples_per_second": rates,
                "measured_examples_per_cpu_second": cpu_rates,
            }
        )
    return rows


def _flops_per_example(workload: Workload) -> float:
    width, inner, heads = (workload.model[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    return needed_flops(workload.lengths, workload.depth, width, inner, heads) / len(workload.lengths)


def _overheads(answers: Answers, report_seconds: list[float]) -> dict[str, Any]:
    measured = {what: [run[0][what] for run in answers["overheads"]] for what in OVERHEADS if what != "report"}
    return {
        what: {"seconds": median(seconds), "measured": seconds}
        for what, seconds in {**measured, "report": report_seconds}.items()
    }


def as_text(record: Mapping[str, Any]) -> str:
    """Returns the tables of a benchmark: the machine's peak, then training speed and overheads for each depth."""
    products = ", ".join(
        f"{precision} {_digits(peak['flops_per_second'] / 1e9)} GFLOP/s" + ("" if peak["supported"] else " (emulated)")
        for precision, peak in record["peaks"].items()
    )
    runs = plural(record["repeats"], "run")
    blocks: list[Text | Table] = [
        Text(f"{record['machine']}. {record['model']}. {record['data']}. Medians of {runs}."),
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
            "× plain (CPU time)",
            "of peak",
        )
        lines = [
            (
                row["name"] if row["name"].endswith(row["precision"]) else f"{row['name']}, {row['precision']}",
                f"{row['processes']} × {row['threads']}",
                _digits(row["examples_per_second"]),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['times_plain']:.2f}",
                f"{row['times_plain_per_cpu_second']:.2f}",
                f"{row['share_of_peak']:.0%}",
            )
            for row in rows
        ]
        blocks += [Table(header, lines), Text(_remarks(rows, group["overheads"]))]
    return markdown(blocks).rstrip()


def families_summary(entries: Mapping[str, Sequence[Entry]], answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Returns the numbers of a comparison of families and every measurement they come from.

    Throughput is in examples per second of CPU time on a CPU, which hardly depends on other load, else of time.

    Args:
        entries: From `interleaving.family_entries()`.
        answers: From `run_interleaved()`, for each family.
    """
    families = []
    for family, of_family in entries.items():
        clock = "cpu_seconds" if of_family[0].workloads[0].device == "cpu" else "seconds"
        measured = {
            entry.name: [len(entry.workloads[0].lengths) / run[0][clock] for run in answers[family][entry.name]]
            for entry in of_family
        }
        rates = {name: median(found) for name, found in measured.items()}
        if family == "bert":
            rates[FAST] = rates[REFERENCE]
        families.append(
            {
                "family": family,
                "plain": rates[PLAIN],
                "ways": {
                    way: {
                        "examples_per_second": rates[way],
                        "times_plain": rates[way] / rates[PLAIN],
                        "slower_than_bert": rates[REFERENCE] / rates[way],
                    }
                    for way in (FAST, GENERAL)
                    if way in rates
                },
                "clock": clock,
                "measured": measured,
            }
        )
    return {"families": families}


def families_text(record: Mapping[str, Any]) -> str:
    """Returns the table of a comparison of families: a row for each family and forward pass."""
    clock = "CPU second" if record["families"][0]["clock"] == "cpu_seconds" else "second"
    rows = [
        (
            FAMILIES[found["family"]].title,
            way,
            _digits(found["plain"]),
            _digits(numbers["examples_per_second"]),
            f"{numbers['times_plain']:.2f}",
            f"{numbers['slower_than_bert']:.1f}",
        )
        for found in record["families"]
        for way, numbers in found["ways"].items()
    ]
    header = (
        "family",
        "forward pass",
        f"plain loop, examples per {clock}",
        f"PKD, examples per {clock}",
        "× plain",
        "× slower than BERT, fast",
    )
    runs = plural(record["repeats"], "run")
    text = f"{record['machine']}. {record['model']}. {record['data']}. Medians of {runs}."
    return markdown([Text(text), Table(header, rows)]).rstrip()


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _remarks(rows: list[dict[str, Any]], overheads: dict[str, Any]) -> str:
    named = {row["name"]: row for row in rows}
    finetuning, pkd = named["pkd_tune, fine-tuning"], named["pkd_tune, PKD"]
    longer, longer_cpu = (finetuning[rate] / pkd[rate] for rate in ("examples_per_second", "examples_per_cpu_second"))
    fastest = max((row for row in rows if "PKD" in row["name"]), key=lambda row: row["examples_per_second"])
    graphs = ""
    if EAGER in named:
        times = pkd["examples_per_second"] / named[EAGER]["examples_per_second"]
        graphs = f"Captured PKD steps are {times:.2f} times as fast as eager ones. "
    seconds = ", ".join(f"{title} {overheads[what]['seconds']:.3f} s" for what, title in OVERHEADS.items())
    return (
        f"A PKD epoch takes {longer:.2f} times as long as a fine-tuning epoch ({longer_cpu:.2f} by CPU time). "
        f"{graphs}"
        f"The highest PKD throughput is at {fastest['processes']} × {fastest['threads']} (processes × threads).\n"
        f"Overheads of a trial: {seconds}."
    )
