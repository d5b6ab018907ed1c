"""Search policies, asked and told without a clock."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from recordings import recording, table

from pkd_tune.benchmark.policies import POLICIES, STAGED_TRIALS, scales_of, staged_grid, variant
from pkd_tune.benchmark.recorded import Table, Training
from pkd_tune.benchmark.simulation import Job, Policy, Seen, simulate
from pkd_tune.tuning import sampling
from pkd_tune.tuning.space import Float

ALPHAS, BETAS, TEMPERATURES, RATES = (0.2, 0.5, 0.7), (1, 10, 100, 500, 1000), (5, 10, 20), (1e-5, 2e-5, 4e-5, 8e-5)


def score_of(alpha: float, temperature: float, rate: float) -> float:
    """The best setting is alpha 0.5, temperature 10 and rate 4e-5."""
    return 90 - 10 * abs(alpha - 0.5) - 0.5 * abs(temperature - 10) - 1e5 * abs(rate - 4e-5)


GRID = table(
    *(
        recording(60, 65, score_of(a, t, r), method="kd", alpha=a, temperature=t, learning_rate=r)
        for a, t, r in itertools.product(ALPHAS, TEMPERATURES, RATES)
    ),
    *(
        recording(
            *(score_of(a, t, r) - to_come for to_come in (20, 5, 0)),
            alpha=a,
            beta=b,
            temperature=t,
            learning_rate=r,
            normalize=n,
        )
        for a, b, t, r, n in itertools.product(ALPHAS, BETAS, TEMPERATURES, RATES, (False, True))
    ),
)


def watch(policy: Policy) -> tuple[Policy, list[Job], list[tuple[int, int]]]:
    """Returns a policy that notes what it asks for, and where its jobs end."""
    jobs: list[Job] = []
    ends: list[tuple[int, int]] = []

    def ask() -> Job | None:
        if (job := policy.ask()) is not None:
            jobs.append(job)
        return job

    def end(job: Job, seen: Seen) -> None:
        ends.append((job.trial, seen.evaluation))
        policy.end(job, seen)

    return Policy(ask=ask, report=policy.report, end=end), jobs, ends


def run(
    make: Callable[[Table, int, Path], Policy], folder: Path, *, slots: int = 4, epochs: float = 30, of: Table = GRID
) -> tuple[list[Job], list[tuple[int, int]], Table]:
    policy, jobs, ends = watch(make(of, 3, folder))
    simulate(of, 0, policy, slots, [epochs], random.Random(0))
    return jobs, ends, of


def test_the_staged_grid_is_the_papers(tmp_path: Path) -> None:
    jobs, ends, _ = run(staged_grid, tmp_path, slots=8, epochs=1000)
    asked = [GRID.recordings[job.recording] for job in jobs]
    assert [one.method for one in asked] == ["kd"] * 27 + ["pkd"] * 24
    assert len(ends) == STAGED_TRIALS == 51
    assert {one.settings["learning_rate"] for one in asked[:27]} == {1e-5, 4e-5, 8e-5}
    second = [one.settings for one in asked[27:]]
    assert {(settings["alpha"], settings["temperature"]) for settings in second} == {(0.5, 10)}
    assert {settings["beta"] for settings in second} == {1, 10, 500, 1000}
    assert len({tuple(settings.items()) for settings in second}) == 24


def test_its_second_stage_waits_for_all_of_the_first(tmp_path: Path) -> None:
    policy = staged_grid(GRID, 0, tmp_path)
    first = [job for _ in range(27) if (job := policy.ask()) is not None]
    assert policy.ask() is None
    for number, job in enumerate(first):
        assert policy.ask() is None, number
        policy.report(job, Seen(3, 80.0 + number, 1.5, False, True))
        policy.end(job, Seen(3, 80.0 + number, 1.5, False, True))
    second, last = policy.ask(), GRID.recordings[first[-1].recording].settings
    assert second is not None
    assert GRID.recordings[second.recording].settings["alpha"] == last["alpha"]


def test_hyperband_halves_each_bracket_and_continues_trials(tmp_path: Path) -> None:
    """Three evaluations and a reduction of 3: brackets of 3 trials that begin with one evaluation, and of 2 whole."""
    jobs, ends, _ = run(POLICIES["hyperband"], tmp_path, slots=1, epochs=6.1)
    assert [(job.begin, job.end) for job in jobs[:6]] == [(0, 1)] * 3 + [(1, 3)] + [(0, 3)] * 2
    assert [evaluation for _, evaluation in ends[:6]] == [1, 1, 1, 3, 3, 3]
    assert jobs[3].trial in {job.trial for job in jobs[:3]}


def test_asha_stops_what_lies_below_the_upper_quarter(tmp_path: Path) -> None:
    falling = table(*(recording(90 - i, 50, 50, x=float(i)) for i in range(10)))
    policy = POLICIES["OptunaSearch + ASHA"](falling, 0, tmp_path)
    stopped = []
    for score in (80.0, 70.0, 90.0, 84.0, 91.0):
        job = policy.ask()
        assert job is not None
        stopped.append(policy.report(job, Seen(1, score, 0.5, False, False)))
        assert not policy.report(job, Seen(2, score, 1.0, False, False))  # rungs are evaluations 1, 4, 16
        policy.end(job, Seen(2, score, 1.0, False, False))
    assert stopped == [False, True, False, True, False]


@pytest.mark.parametrize("name", ["random", "tpe without stopping", "OptunaSearch + ASHA", "hyperband", "ours"])
def test_a_search_repeats_with_its_seed(name: str, tmp_path: Path) -> None:
    first, again = (run(POLICIES[name], tmp_path, epochs=12)[:2] for _ in range(2))
    assert first == again
    assert len(first[0]) >= 8


def test_ours_stops_trials_and_the_other_does_not(tmp_path: Path) -> None:
    _, ends, _ = run(POLICIES["ours"], tmp_path, epochs=24)
    assert 3 in {evaluation for _, evaluation in ends} > {3}
    _, ends, _ = run(POLICIES["tpe without stopping"], tmp_path, epochs=12)
    assert {evaluation for _, evaluation in ends} == {3}


@pytest.mark.parametrize("first", [59 / 119, 0.5, 32 / 63])
def test_our_rungs_are_those_of_a_search_where_no_step_is_at_half_an_epoch(tmp_path: Path, first: float) -> None:
    """As in the recorded tables, whose first evaluations are a step before or after it."""
    epochs = (first, 1.0, 1 + first, 2.0)
    trainings = (Training(epochs=epochs, scores=(70.0,) * 4, degenerate=(False,) * 4),) * 2
    recorded = table(*(replace(recording(70, alpha=i / 10), trainings=trainings) for i in range(9)))
    policy = POLICIES["ours"](recorded, 0, tmp_path)

    def stopped(*scores: float) -> list[bool]:
        job = policy.ask()
        assert job is not None
        seen = [Seen(i, score, epochs[i - 1], False, i == 4) for i, score in enumerate(scores, start=1)]
        stops = [policy.report(job, each) for each in seen]
        policy.end(job, seen[-1])
        return stops

    for _ in range(sampling.WARM_UP_TRIALS):
        assert not any(stopped(70, 70, 70, 70))
    assert stopped(80, 60, 60) == [False, False, True]
    assert stopped(60) == [True]


def test_a_study_beside_another_tries_its_best_settings(tmp_path: Path) -> None:
    """What vanilla KD found best, with what it lacks left to the sampler, once it has three complete trials."""

    def of_pkd_like_kd(*assignments: str) -> int:
        jobs, *_ = run(variant(assignments), tmp_path, slots=1, epochs=24)
        asked = [GRID.recordings[job.recording] for job in jobs]
        of_kd = [each.settings for each in asked if each.method == "kd"]
        assert len(of_kd) >= 5
        of_pkd = [{name: each.settings[name] for name in of_kd[0]} for each in asked if each.method == "pkd"]
        return sum(settings in of_kd for settings in of_pkd)

    assert of_pkd_like_kd("transfer=true") > of_pkd_like_kd("transfer=false")
    with pytest.raises(ValueError, match="transfer=1: there are true and false"):
        variant(["transfer=1"])


def test_studies_of_several_depths_may_learn_from_each_other(tmp_path: Path) -> None:
    rates = tuple(1e-5 * 1.1**i for i in range(60))
    two = table(
        *(
            recording(60, 80 - abs(place - 40), 80 - abs(place - 40), method="kd", depth=depth, learning_rate=rate)
            for depth in (2, 3)
            for place, rate in enumerate(rates)
        )
    )

    def tries_the_best_of_the_first_three(assignment: str) -> bool:
        jobs, _, _ = run(variant([assignment]), tmp_path, slots=1, epochs=18, of=two)
        asked = [two.recordings[job.recording] for job in jobs]
        first = [each for each in asked if each.depth == 2][:3]
        best = max(first, key=lambda each: each.trainings[0].best).settings
        return best in [each.settings for each in asked if each.depth == 3]

    assert tries_the_best_of_the_first_three("transfer=true")
    assert not tries_the_best_of_the_first_three("transfer=false")


def test_every_recorded_value_has_its_cell() -> None:
    scales = scales_of(GRID)
    rate = scales.parameters["learning_rate"]
    assert isinstance(rate, Float)
    assert rate.log
    assert rate.low == pytest.approx(1e-5 / 2**0.5)
    assert rate.high == pytest.approx(8e-5 * 2**0.5)
    alpha = scales.parameters["alpha"]
    assert isinstance(alpha, Float)
    assert (alpha.low, alpha.high) == pytest.approx((0.05, 0.8))
    assert not alpha.log
    wanted = {"alpha": 0.36, "beta": 31, "temperature": 14.2, "learning_rate": 1.3e-5, "normalize": True}
    assert GRID.recordings[scales.recording(wanted)].settings == {
        **{"alpha": 0.5, "beta": 10, "temperature": 20, "learning_rate": 1e-5, "normalize": True}
    }


def test_a_missing_setting_is_replaced_by_its_neighbour() -> None:
    part = table(*(recording(1, x=x, y=y) for x in (1.0, 2.0, 3.0) for y in (1.0, 2.0, 3.0) if (x, y) != (1.0, 1.0)))
    found = part.recordings[scales_of(part).recording({"x": 0.9, "y": 1.2})].settings
    assert found in ({"x": 1.0, "y": 2.0}, {"x": 2.0, "y": 1.0})


def test_constants_of_our_search_can_be_compared(tmp_path: Path) -> None:
    before = sampling.WARM_UP_TRIALS
    _, strict, _ = run(variant(["WARM_UP_TRIALS=1"]), tmp_path, slots=1, epochs=12)
    _, lax, _ = run(variant(["WARM_UP_TRIALS=1000"]), tmp_path, slots=1, epochs=12)
    assert before == sampling.WARM_UP_TRIALS
    assert {evaluation for _, evaluation in lax} == {3}
    assert {evaluation for _, evaluation in strict} > {3}


def test_few_trials_run_without_a_score_where_that_is_limited(tmp_path: Path) -> None:
    policy = variant(["max_pending=2"])(GRID, 0, tmp_path)
    first = policy.ask()
    assert first is not None
    assert policy.ask() is not None
    assert policy.ask() is None
    policy.report(first, Seen(1, 60.0, 0.5, False, False))
    assert policy.ask() is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [("NO_SUCH=3", "has no number NO_SUCH"), ("sampler=best", "there are tpe, gp"), ("best", "neither a policy nor")],
)
def test_an_unknown_variant_is_named(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        variant([given])
