"""Notes on ranges that a run's trials show to be wrong."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from recorded_run import write_run

from pkd_tune.reporting.document import markdown
from pkd_tune.reporting.ranges import MIN_TRIALS, range_notes
from pkd_tune.reporting.run import Run, read_run
from pkd_tune.reporting.run_details import run_details
from pkd_tune.reporting.run_report import results
from pkd_tune.tuning.space import Float
from pkd_tune.tuning.space_file import find_space, load_space

RATES = (1e-5, 2e-5, 4e-5, 6e-5, 8e-5, 1.4e-4, 2e-4)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = write_run(tmp_path_factory.mktemp("run") / "MRPC" / "minilm", depths=(3,), methods=("pkd",))
    return read_run(folder)


def with_trials(run: Run, learnt: tuple[float, ...], rates: tuple[float, ...] = RATES) -> Run:
    """Returns the run with a trial for each learning rate, most of which predict one class at both evaluations."""
    key = {"depth": 3, "method": "pkd", "stage": "search"}
    trials = [{**key, "trial": i, "state": "complete", "learning_rate": rate} for i, rate in enumerate(rates)]
    rows = [
        {**key, "trial": i, "evaluation": step, "degenerate": step == 1 or rate not in learnt}
        for i, rate in enumerate(rates)
        for step in (1, 2)
    ]
    return replace(run, trials=pd.DataFrame(trials), evaluations=pd.DataFrame(rows), students=[])


def best_with(run: Run, **settings: Any) -> Run:
    (student,) = run.students
    middle = {"alpha": 0.5, "beta": 30.0, "temperature": 6.0, "learning_rate": 6e-5}
    return replace(run, students=[{**student, "settings": {**student["settings"], **middle, **settings}}])


def test_learning_rates_of_which_only_the_highest_teach_anything(recorded: Run) -> None:
    (note,) = range_notes(with_trials(recorded, learnt=(1.4e-4, 2e-4)))
    assert note == (
        "3 layers: 5 of 7 trials predicted the same class for every example to their end; all others had a learning "
        "rate of 1.4e-4 or more, at the upper end of its range. Search further: "
        '`--new --set "space.learning_rate={low = 1e-5, high = 9e-4, log = true}"`.'
    )
    flag = note.split('--set "')[1].split('"`')[0]
    assert load_space(find_space("default"), [flag]).parameters["learning_rate"] == Float(1e-5, 9e-4, log=True)


@pytest.mark.parametrize(
    ("learnt", "rates"),
    [
        ((), RATES),  # nothing was learnt: it may be anything
        ((2e-5, 2e-4), RATES),  # not one end
        ((6e-5, 8e-5, 1.4e-4, 2e-4), RATES),  # most learnt
        ((2e-4,), RATES[-4:]),  # too few trials to say
    ],
)
def test_other_trials_say_nothing_of_the_range(
    recorded: Run, learnt: tuple[float, ...], rates: tuple[float, ...]
) -> None:
    assert range_notes(with_trials(recorded, learnt, rates)) == []


def test_lowest_rates_and_fixed_ones(recorded: Run) -> None:
    run = with_trials(recorded, learnt=(1e-5, 2e-5))
    (note,) = range_notes(run)
    assert "a learning rate of 2e-5 or less, at the lower end of its range" in note
    assert "{low = 3.33e-6, high = 3e-4, log = true}" in note
    space = {**run.record["space"], "learning_rate": {"values": list(RATES)}}
    assert range_notes(replace(run, record={**run.record, "space": space})) == []


def test_a_best_value_at_an_end_of_its_range_is_told_once_with_a_wider_one(recorded: Run) -> None:
    assert range_notes(best_with(recorded)) == []
    (note,) = range_notes(best_with(recorded, temperature=19.5))
    assert note == (
        "temperature: the best value of PKD, 3 layers (19.5) lies at the upper end of its range, so there may be "
        'better ones beyond. Search further: `--new --set "space.temperature={low = 2, high = 60, log = true}"`.'
    )
    run = best_with(recorded, alpha=0.9)  # on a scale that is not logarithmic, and ends at 1
    (note,) = range_notes(run)
    assert '"space.alpha={low = 0.2, high = 1}"' in note
    ends = {**run.record["space"], "alpha": {"low": 0.2, "high": 1.0, "log": False, "int": False}}
    run = replace(best_with(recorded, alpha=1.0), record={**run.record, "space": ends})
    assert range_notes(run) == []  # there is nothing beyond
    stuck = with_trials(recorded, learnt=(1.4e-4, 2e-4))
    both = replace(stuck, students=best_with(recorded, learning_rate=2.95e-4).students)
    assert len(range_notes(both)) == 1


def test_the_report_has_the_notes(recorded: Run) -> None:
    run = best_with(recorded, temperature=19.5)
    assert f"- {range_notes(run)[0]}" in markdown(results(run))


def test_what_is_proposed_can_be_searched(recorded: Run) -> None:
    for name, value in {"alpha": 0.2, "beta": 1.0, "temperature": 2.0, "learning_rate": 3e-4}.items():
        (note,) = range_notes(best_with(recorded, **{name: value}))
        load_space(find_space("default"), [note.split('--set "')[1].split('"`')[0]])


@pytest.mark.parametrize("name", ["learning_rate", "temperature", "beta"])
def test_a_range_that_is_not_logarithmic_is_widened_to_what_is_allowed(recorded: Run, name: str) -> None:
    run = best_with(recorded, **{name: 1.0})
    space = {**run.record["space"], name: {"low": 1.0, "high": 10.0, "log": False, "int": False}}
    (note,) = range_notes(replace(run, record={**run.record, "space": space}))
    low = load_space(find_space("default"), [note.split('--set "')[1].split('"`')[0]]).parameters[name]
    assert low == Float(0 if name == "beta" else 0.333, 10, log=False)


def test_whole_numbers_on_a_logarithmic_scale_begin_at_1(recorded: Run) -> None:
    for low, notes in ((1, 0), (2, 1)):
        whole = {"low": low, "high": 16, "log": True, "int": True}
        run = best_with(recorded, temperature=low)
        found = range_notes(replace(run, record={**run.record, "space": {**run.record["space"], "temperature": whole}}))
        assert len(found) == notes
    assert "temperature={low = 1, high = 16, log = true, int = true}" in found[0]


def test_nothing_is_said_of_a_range_that_is_searched_under_a_condition(recorded: Run) -> None:
    """The value may be the one for otherwise."""
    run = best_with(recorded, beta=1.0)
    assert len(range_notes(run)) == 1
    beta = {**run.record["space"]["beta"], "when": {"strategy": "skip"}, "otherwise": 1}
    assert range_notes(replace(run, record={**run.record, "space": {**run.record["space"], "beta": beta}})) == []


def test_nothing_is_said_of_the_settings_of_a_student_at_the_baseline(recorded: Run) -> None:
    at_the_end = best_with(recorded, learning_rate=2e-5)
    space = {**recorded.record["space"], "learning_rate": {"low": 2e-5, "high": 1e-3, "log": True, "int": False}}
    at_the_end = replace(at_the_end, record={**recorded.record, "space": space})
    assert len(range_notes(at_the_end)) == 1
    assert recorded.teacher is not None
    (student,) = at_the_end.students
    assert range_notes(replace(at_the_end, students=[{**student, "metrics": recorded.teacher["majority"]}])) == []


def test_nothing_is_said_of_the_best_of_a_few_trials(recorded: Run) -> None:
    at_the_end = best_with(recorded, temperature=19.5)
    of_search = recorded.of_stage("search")
    ended = of_search[of_search["state"].isin(("complete", "stopped early"))].index
    for count, notes in ((MIN_TRIALS, 1), (MIN_TRIALS - 1, 0)):
        few = recorded.trials.drop(ended[count:])
        assert len(range_notes(replace(at_the_end, trials=few))) == notes


def with_teacher(run: Run, scores: dict[float, float]) -> Run:
    """Returns the run with a teacher that was fine-tuned with each learning rate, and reached these scores."""
    assert run.teacher is not None
    trainings = [{**run.search["teacher_trainings"][0], "learning_rate": rate} for rate in scores]
    record = {**run.record, "search": {**run.search, "teacher_trainings": trainings}}
    return replace(run, record=record, teacher={**run.teacher, "training_scores": list(scores.values())})


def test_a_teacher_that_is_best_at_an_end_of_its_learning_rates(recorded: Run) -> None:
    run = best_with(recorded)
    highest = with_teacher(run, {2e-5: 76.0, 5e-5: 80.5, 1e-4: 84.7})
    (note,) = range_notes(highest)
    assert note == (
        "The teacher scored best, 84.7, at the highest of its learning rates, 1e-4, so there may be better ones "
        'beyond. Search further: `--new --set "teacher.learning_rates=[2e-5, 5e-5, 1e-4, 2e-4]"`.'
    )
    space = load_space(find_space("default"), [note.split('--set "')[1].split('"`')[0]])
    assert [training.learning_rate for training in space.teacher] == [2e-5, 5e-5, 1e-4, 2e-4]
    (note,) = range_notes(with_teacher(run, {2e-5: 84.7, 5e-5: 80.5, 1e-4: 80.5}))
    assert "at the lowest of its learning rates, 2e-5" in note
    assert "[1e-5, 2e-5, 5e-5, 1e-4]" in note
    facts = markdown(run_details(highest))
    assert (
        "fine-tuned for 4 epochs at learning rates 2e-5 (76.0), 5e-5 (80.5) and 1e-4 (84.7); the best was kept" in facts
    )


@pytest.mark.parametrize(
    "scores",
    [
        {2e-5: 76.0, 5e-5: 84.7, 1e-4: 80.5},  # in the middle
        {2e-5: 76.0, 5e-5: 82.8, 1e-4: 84.7},  # hardly better than the middle
        {5e-5: 76.0, 1e-4: 84.7},  # one of two
    ],
)
def test_nothing_is_said_of_other_teachers(recorded: Run, scores: dict[float, float]) -> None:
    assert range_notes(with_teacher(best_with(recorded), scores)) == []
