"""Synthetic but plausible training runs, one after the other, as rows of a run's tables."""

import itertools
import math
import random
import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

SPACE: dict[str, dict[str, Any]] = {
    "alpha": {"low": 0.2, "high": 0.9, "log": False, "int": False},
    "beta": {"low": 1.0, "high": 1000.0, "log": True, "int": False},
    "temperature": {"low": 2.0, "high": 20.0, "log": True, "int": False},
    "learning_rate": {"low": 1e-5, "high": 3e-4, "log": True, "int": False},
    "strategy": {"values": ["skip", "last"]},
    "normalize": {"values": [True, False]},
    "init": {"values": ["pretrained"]},
    "epochs": {"values": [4]},
}
GRID: dict[str, dict[str, Any]] = {
    **SPACE,
    "alpha": {"values": [0.2, 0.5, 0.7]},
    "beta": {"values": [10, 100, 500, 1000]},
    "temperature": {"values": [5, 10, 20]},
    "learning_rate": {"values": [1e-5, 2e-5, 5e-5]},
    "strategy": {"values": ["skip"]},
}
"""The space of paper.toml."""
METRICS = {
    "MRPC": {"f1": 4.5, "accuracy": -4.5},
    "RTE": {"accuracy": 0.0},
    "CoLA": {"matthews": 0.0},
    "STS-B": {"pearson": 0.4, "spearman": -0.4},
    "MNLI": {"accuracy": -0.2, "accuracy_mm": 0.2},
}
"""How far each metric of a task lies from their mean, the score."""
EXAMPLES = {"MRPC": 408, "RTE": 277, "CoLA": 1043, "STS-B": 1500, "MNLI": 19_647}
TEACHER_SCORE = {"MRPC": 85.5, "RTE": 66.0, "CoLA": 55.0, "STS-B": 88.0, "MNLI": 83.5}
GAIN = {"finetuned": 0.0, "kd": 0.06, "pkd": 0.10, "pkd-skip": 0.10, "pkd-last": 0.08}
MAJORITY = 60.0
EPOCHS, EVALUATIONS_PER_EPOCH = 4, 2
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Maker:
    """Draws training runs one after the other and records their rows."""

    def __init__(self, draws: random.Random, task: str, teacher_layers: int, *, early_stopping: bool = True) -> None:
        self.draws, self.task, self.teacher_layers = draws, task, teacher_layers
        self.early_stopping = early_stopping
        self.now = STARTED
        self.trials: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []

    def draw(self, method: str) -> dict[str, Any]:
        """Draws settings from the space."""
        settings: dict[str, Any] = {}
        for name, spec in SPACE.items():
            if "values" in spec:
                several = len(spec["values"]) > 1
                settings[name] = self.draws.choice(spec["values"]) if several else spec["values"][0]
            elif spec["log"]:
                settings[name] = math.exp(self.draws.uniform(math.log(spec["low"]), math.log(spec["high"])))
            else:
                settings[name] = self.draws.uniform(spec["low"], spec["high"])
        if method in ("kd", "finetuned"):
            settings["beta"] = 0.0
        if method == "finetuned":
            settings["alpha"] = 0.0
        if method in ("pkd-skip", "pkd-last"):
            settings["strategy"] = method.removeprefix("pkd-")
        return settings

    def grid(self, method: str, kept: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns all settings of the grid that have the kept values, in random order."""
        values = {name: [kept[name]] if name in kept else spec["values"] for name, spec in GRID.items()}
        if method == "kd":
            values |= {"beta": [0.0], "normalize": [True]}
        points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
        return self.draws.sample(points, len(points))

    def metrics(self, score: float) -> dict[str, float]:
        return {name: score + offset for name, offset in METRICS[self.task].items()}

    def train(
        self, depth: int, method: str, stage: str, number: int, seed: int, settings: dict[str, Any], forced: str = ""
    ) -> float:
        """Adds a training and its evaluations; returns its best score."""
        span = TEACHER_SCORE[self.task] - MAJORITY
        share = 1 - math.exp(-2.2 * depth / self.teacher_layers) + GAIN[method]
        share -= 0.25 * abs(math.log10(settings["learning_rate"] / 6e-5)) + 0.05 * (settings["strategy"] == "last")
        ceiling = MAJORITY + span * max(0.05, min(share, 0.98))
        scores: list[float] = []
        state = "complete"
        for evaluation in range(1, EPOCHS * EVALUATIONS_PER_EPOCH + 1):
            epoch = evaluation / EVALUATIONS_PER_EPOCH
            noise = self.draws.gauss(0, 0.7)
            scores.append(MAJORITY + (ceiling - MAJORITY) * (1 - math.exp(-epoch)) + noise)
            key = {"depth": depth, "method": method, "stage": stage, "trial": number}
            self.evaluations.append(
                {
                    **key,
                    "evaluation": evaluation,
                    "epoch": epoch,
                    "score": scores[-1],
                    **self._details(key, epoch, settings),
                }
            )
            if forced and evaluation == 3:
                state = forced
                break
            at_rung = self.early_stopping and stage == "search" and evaluation in (2, 4)
            if at_rung and self._falls_behind(key, evaluation, scores[-1]):
                state = "stopped early"
                break
        best = max(scores)
        seconds = round(len(scores) * (4 + 2 * depth) + self.draws.uniform(0, 2), 1)
        self.trials.append(
            {
                **{"depth": depth, "method": method, "stage": stage, "trial": number, "seed": seed, "state": state},
                "score": best,
                **self.metrics(best),
                "best_epoch": (scores.index(best) + 1) / EVALUATIONS_PER_EPOCH,
                "evaluations": len(scores),
                "epochs_trained": len(scores) / EVALUATIONS_PER_EPOCH,
                "started": self.now.isoformat(timespec="seconds"),
                "seconds": seconds,
                **settings,
                "error": "the loss was not finite" if state == "failed" else None,
            }
        )
        self.now += timedelta(seconds=seconds)
        return best

    def student(self, depth: int, method: str, seeds: int) -> dict[str, Any] | None:
        """Confirms the best complete trial and returns what summary.json holds of it; None without one."""
        tried = [row for row in self.trials if (row["depth"], row["method"]) == (depth, method)]
        complete = [row for row in tried if row["state"] == "complete"]
        if not complete:
            return None
        best = max(complete, key=lambda row: row["score"])
        settings = {name: best[name] for name in SPACE}
        scores = [self.train(depth, method, "confirm", i, 1000 + i, settings) for i in range(seeds)]
        skip = [i * self.teacher_layers // depth for i in range(1, depth)]
        last = [i + self.teacher_layers - depth for i in range(1, depth)]
        return {
            "layers": depth,
            "method": method,
            "trial": best["trial"],
            "search_score": best["score"],
            "trials_ended": sum(row["state"] != "interrupted" for row in tried),
            "epoch": best["best_epoch"],
            "settings": settings,
            "imitated_layers": []
            if method in ("kd", "finetuned")
            else (skip if settings["strategy"] == "skip" else last),
            "confirmed": self._confirmed(scores) if scores else None,
            "against": [],
            "folder": f"best/{depth}-layer" + ("" if method == "pkd" else f"-{method}"),
            "metrics": {**self.metrics(best["score"]), "score": best["score"]},
            **self._size(depth),
        }

    def teacher(self, name: str) -> dict[str, Any]:
        """Returns what summary.json holds of the teacher."""
        score = TEACHER_SCORE[self.task]
        return {
            "name": name,
            "layers": self.teacher_layers,
            "finetuned_here": True,
            "examples": EXAMPLES[self.task],
            "majority": {**self.metrics(MAJORITY), "score": MAJORITY},
            "baseline": "mean label" if self.task == "STS-B" else "most frequent class",
            "metrics": {**self.metrics(score), "score": score},
            **self._size(self.teacher_layers),
        }

    def _size(self, depth: int) -> dict[str, float]:
        parameters = 12_000_000 + 1_774_464 * depth
        return {"parameters": parameters, "size_mb": 4 * parameters / 1e6, "latency_ms": 0.6 + 1.5 * depth}

    def _confirmed(self, scores: list[float]) -> dict[str, Any]:
        sd = statistics.stdev(scores) if len(scores) > 1 else None
        mean = statistics.mean(scores)
        spreads = {name: {"mean": value, "sd": sd} for name, value in self.metrics(mean).items()}
        seeds = [1000 + i for i in range(len(scores))]
        return {"seeds": seeds, "scores": scores, "mean": mean, "sd": sd, "metrics": spreads}

    def _falls_behind(self, key: dict[str, Any], evaluation: int, score: float) -> bool:
        complete = {
            row["trial"]
            for row in self.trials
            if row["state"] == "complete" and all(row[name] == key[name] for name in ("depth", "method", "stage"))
        }
        others = [
            row["score"]
            for row in self.evaluations
            if row["trial"] in complete
            and row["evaluation"] == evaluation
            and all(row[name] == key[name] for name in ("depth", "method", "stage"))
        ]
        return len(others) >= 2 and score < statistics.quantiles(others, n=4)[0]

    def _details(self, key: dict[str, Any], epoch: float, settings: dict[str, Any]) -> dict[str, Any]:
        """Returns what an evaluation records beside its score."""
        taught = key["method"] != "finetuned"
        patient = key["method"].startswith("pkd")
        ce = 0.25 + 0.45 * math.exp(-epoch / 1.5) + self.draws.uniform(0, 0.02)
        kd = (0.05 + 0.8 * math.exp(-epoch)) if taught else 0.0
        pt = (0.0004 + 0.004 * math.exp(-epoch)) if patient else 0.0
        cosines = {
            f"cosine_{i}": (0.92 if patient else 0.35) * (1 - 0.5 * math.exp(-epoch)) - 0.04 * i
            for i in range(1, key["depth"])
        }
        return {
            "loss_total": (1 - settings["alpha"]) * ce + settings["alpha"] * kd + settings["beta"] * pt,
            **{"loss_ce": ce, "loss_kd": kd, "loss_pt": pt},
            "gradient_norm": 0.5 + 3 * math.exp(-epoch),
            "learning_rate": settings["learning_rate"] * (1 - epoch / (EPOCHS + 0.01)),
            "agreement": None
            if self.task == "STS-B"
            else 60 + (28 + 4 * patient if taught else 22) * (1 - math.exp(-epoch)),
            **cosines,
            "degenerate": False,
            "seconds": 5.0,
        }
