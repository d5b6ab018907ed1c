"""One benchmark from start to end: interleaved runs of every depth, report overhead, and the record of it all."""

import logging
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pkd_tune.benchmark.interleaving import family_entries, make_entries, run_interleaved
from pkd_tune.benchmark.results import families_summary, summary
from pkd_tune.benchmark.settings import BenchSettings
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.limits import usable_cores
from pkd_tune.tuning.report_overhead import report_seconds
from pkd_tune.tuning.resources import gpu_names

logger = logging.getLogger(__name__)


def measure(settings: BenchSettings, command: str) -> dict[str, Any]:
    """Runs a benchmark and returns its record: `results.summary()`, what was measured on what, and provenance.

    Args:
        settings: From `settings.resolve()`.
        command: The command line, for the provenance.
    """
    base, repeats = settings.base, settings.base.repeats
    entries = {
        depth: make_entries(replace(base, depth=depth), settings.concurrent, settings.gpus or 1)
        for depth in settings.depths
    }
    if not settings.gpus:
        logger.info("no entry compares eager steps with captured ones: on a CPU all are eager")
    answers = {}
    total = repeats * sum(map(len, entries.values()))
    with tqdm(total=total, unit=" runs", leave=False, disable=not sys.stderr.isatty()) as bar:

        def show(name: str) -> None:
            bar.set_description_str(name)
            bar.update(1)

        for depth, of_depth in entries.items():
            logger.info(
                "%s: %d entries, %s each after a warm-up",
                plural(depth, "layer"),
                len(of_depth),
                plural(repeats, "interleaved run"),
            )
            answers[depth] = run_interleaved(of_depth, repeats, show)
    logger.info("overhead of a report, in a local Ray cluster")
    with tempfile.TemporaryDirectory() as folder:
        reports = report_seconds(4 * repeats, Path(folder))
    return {
        **_description(settings),
        "model": f"BERT, {_shape(settings)}",
        **summary(entries, answers, reports),
        "provenance": provenance(command, gpu_names()),
    }


def measure_families(settings: BenchSettings, command: str) -> dict[str, Any]:
    """Runs a benchmark of model families and returns its record, with the numbers of `results.families_summary()`."""
    base = replace(settings.base, depth=settings.depths[0])
    entries, answers = family_entries(base, settings.families), {}
    with tqdm(
        total=base.repeats * sum(map(len, entries.values())), unit=" runs", leave=False, disable=not sys.stderr.isatty()
    ) as bar:
        for family, of_family in entries.items():
            logger.info("%s: %d entries, %s each", family, len(of_family), plural(base.repeats, "interleaved run"))

            def show(name: str, family: str = family) -> None:
                bar.set_description_str(f"{family}, {name}")
                bar.update(1)

            answers[family] = run_interleaved(of_family, base.repeats, show)
    return {
        **_description(settings),
        "model": f"{plural(base.depth, 'layer')}, {_shape(settings)}",
        **families_summary(entries, answers),
        "provenance": provenance(command, gpu_names()),
    }


def _description(settings: BenchSettings) -> dict[str, Any]:
    """Returns what was measured on what."""
    base = settings.base
    device = torch.cuda.get_device_name() if base.device == "cuda" else f"CPU {platform.machine()}"
    return {
        "machine": f"{device}, {plural(usable_cores(), 'core')}, PyTorch {torch.__version__}",
        "data": f"{settings.data}, mean {np.mean(base.lengths):.1f} tokens, batch size {base.batch_size}",
        "repeats": base.repeats,
        "steps": len(base.lengths) // base.batch_size,
        "max_length": base.max_length,
        "shape": base.model,
    }


def _shape(settings: BenchSettings) -> str:
    model = settings.base.model
    return f"hidden size {model['hidden_size']}, {model['num_attention_heads']} heads, random weights"
