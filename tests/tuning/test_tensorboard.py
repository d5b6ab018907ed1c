"""What a search leaves for TensorBoard, read back by TensorBoard itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from pkd_tune.tuning.tensorboard import METRICS, TensorBoardLogger, scalars

SETTINGS = {
    **{"alpha": 0.5, "beta": 100.0, "temperature": 10, "learning_rate": 1e-5, "strategy": "skip", "normalize": True},
}
CONFIG = {"depth": 3, "method": "pkd", "stage": "search", "trial": 7, "seed": None, "settings": SETTINGS}


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def result(number: int, score: float) -> dict[str, Any]:
    """Returns a result as Ray hands it on, with some of what Ray adds."""
    return {
        **{"evaluation": number, "score": score, "best_score": max(score, 70.0), "gradient_norm": 1.5},
        **{"learning_rate": 1e-5, "loss": {"total": 3.0, "ce": 1.0, "kd": 1.5, "pt": 0.5}},
        **{"teacher": {"agreement": 90.0, "cosine_1": 0.75, "cosine_2": 0.5}},
        **{"pid": 17, "time_this_iter_s": 1.0, "details": "{}", "done": False, "config": CONFIG},
    }


def trial(**last: Any) -> Any:
    return SimpleNamespace(config=CONFIG, last_result=last)


def hparams(events: EventAccumulator) -> dict[str, bytes]:
    tags = events.PluginTagToContent(metadata.PLUGIN_NAME)
    return dict(tags)


def test_a_real_trial_has_our_curves_and_no_others(tiny_run: Path) -> None:
    folders = sorted(path.parent for path in (tiny_run / "ray").rglob("events.out.tfevents.*"))
    names = [f"{depth}-layer-pkd-trial-{number:04d}" for depth in (1, 3) for number in (0, 1)]
    assert [folder.name for folder in folders] == names
    evaluations = pd.read_csv(tiny_run / "evaluations.csv")
    columns = {
        **{"score": "score", "gradient_norm": "gradient_norm", "learning_rate": "learning_rate"},
        **{f"loss/{term}": f"loss_{term}" for term in ("total", "ce", "kd", "pt")},
        "teacher/agreement": "agreement",
    }
    evaluations = evaluations[evaluations["depth"] == 1]
    for number, folder in enumerate(folders[:2]):
        events, rows = read(folder), evaluations[evaluations["trial"] == number]
        assert set(events.Tags()["scalars"]) == {
            *(*columns, "best_score", "metrics/f1", "metrics/accuracy", "metrics/score"),
        }
        for tag, column in columns.items():
            assert [event.step for event in events.Scalars(tag)] == rows["evaluation"].tolist()
            assert [event.value for event in events.Scalars(tag)] == pytest.approx(rows[column].tolist(), rel=1e-6)
        assert [event.value for event in events.Scalars("best_score")] == pytest.approx(rows["score"].cummax().tolist())
        assert list((tiny_run / "ray" / folder.name).iterdir()) == list(folder.iterdir())
        assert len(list(folder.iterdir())) == 1  # none of the files that Ray's own loggers write


def test_what_is_drawn_of_a_result() -> None:
    assert dict(scalars(result(1, 60.0))) == {
        **{"score": 60.0, "best_score": 70.0, "gradient_norm": 1.5, "learning_rate": 1e-5},
        **{"loss/total": 3.0, "loss/ce": 1.0, "loss/kd": 1.5, "loss/pt": 0.5},
        **{"teacher/agreement": 90.0, "teacher/cosine_1": 0.75, "teacher/cosine_2": 0.5},
    }
    assert dict(scalars({"score": 60.0, "finished": "null"})) == {"score": 60.0}


def test_settings_are_there_before_the_trial_ends_and_its_success_after(tmp_path: Path) -> None:
    curves, running = TensorBoardLogger(tmp_path), trial()
    curves.log_trial_result(1, running, result(1, 60.0))
    tags = hparams(read(tmp_path / "3-layer-pkd-trial-0007"))
    assert set(tags) == {metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG}
    start = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG])
    settings = {"depth": 3, "method": "pkd", "stage": "search", **SETTINGS}
    assert {name: getattr(v, str(v.WhichOneof("kind"))) for name, v in start.hparams.items()} == settings
    experiment = metadata.parse_experiment_plugin_data(tags[metadata.EXPERIMENT_TAG])
    assert {info.name for info in experiment.hparam_infos} == set(settings)
    assert tuple(info.name.tag for info in experiment.metric_infos) == METRICS
    curves.log_trial_end(trial(finished="null"))
    assert metadata.SESSION_END_INFO_TAG in hparams(read(tmp_path / "3-layer-pkd-trial-0007"))


@pytest.mark.parametrize(("last", "failed"), [({"failure": "the loss was not finite"}, False), ({}, True)])
def test_a_failed_trial_is_not_called_a_success(tmp_path: Path, last: dict[str, Any], failed: bool) -> None:
    curves = TensorBoardLogger(tmp_path)
    curves.log_trial_result(1, trial(), result(1, 60.0))
    curves.log_trial_end(trial(**last), failed=failed)
    assert metadata.SESSION_END_INFO_TAG not in hparams(read(tmp_path / "3-layer-pkd-trial-0007"))


def test_a_trial_that_never_reported_leaves_nothing(tmp_path: Path) -> None:
    curves = TensorBoardLogger(tmp_path)
    curves.log_trial_result(1, trial(), {"failure": "out of memory"})
    curves.log_trial_end(trial(failure="out of memory"))
    assert list(tmp_path.iterdir()) == []


def test_evaluations_that_are_repeated_after_an_interruption_are_shown_once(tmp_path: Path) -> None:
    for numbers in ((1, 2, 3), (3, 4)):  # it was killed after the third, and went on from the second
        curves = TensorBoardLogger(tmp_path)
        for number in numbers:
            curves.log_trial_result(1, trial(), result(number, 60.0 + number))
        curves.log_trial_end(trial(finished="null"))
    events = read(tmp_path / "3-layer-pkd-trial-0007")
    assert [(event.step, event.value) for event in events.Scalars("score")] == [(1, 61), (2, 62), (3, 63), (4, 64)]
