"""The studies of a search: who gets its turn, what survives a restart, and what is confirmed."""

import itertools
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import get_note
from studies import FLAT, PARAMETERS, ask, finish, opened, plan, report, run_all, seen

from pkd_tune.config import Method
from pkd_tune.tuning.journal import ENDED, REPEATS, open_journal
from pkd_tune.tuning.plan import StudyKey, StudyPlan, TrialId
from pkd_tune.tuning.sampling import WARM_UP_TRIALS
from pkd_tune.tuning.space import Choice, Float, Int, Parameters, Settings, for_method
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.time_limit import TimeLimit
from pkd_tune.tuning.trial_tables import counts, evaluation_rows, most_common_failure, trial_rows


def test_studies_are_interleaved_until_all_have_their_quota(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 3), plan(2, 2), plan(2, 1, "kd"))
    asked = [ask(studies) for _ in range(6)]
    assert [a.study_key.name for a, _ in asked] == [
        *("1-layer-pkd", "2-layer-pkd", "2-layer-kd"),
        *("1-layer-pkd", "2-layer-pkd", "1-layer-pkd"),
    ]
    assert len({trial_id for trial_id, _ in asked}) == 6
    assert all(settings.keys() == {"alpha", "temperature"} for _, settings in asked)
    assert studies.ask() is None
    assert not studies.idle()


def test_the_best_trial_is_judged_by_its_best_evaluation(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(2, 3))
    for scores in ((70.0, 71.0), (60.0, 80.0, 65.0), (79.0, 79.5)):
        finish(studies, ask(studies)[0], *scores)
    study_key = StudyKey(2, "pkd")
    assert [trial.number for trial in studies.ranking(study_key)] == [1, 2, 0]
    best = studies.best(study_key)
    assert best is not None
    assert best.value == 80.0
    assert studies.settings(study_key, best) == {"alpha": best.params["alpha"], "temperature": 10}
    row = trial_rows(studies)[1]
    assert (row["score"], row["f1"], row["best_epoch"], row["epochs_trained"], row["evaluations"]) == (
        80.0,
        80.0,
        1.0,
        1.5,
        3,
    )
    assert [row["score"] for row in evaluation_rows(studies)] == [70.0, 71.0, 60.0, 80.0, 65.0, 79.0, 79.5]
    assert evaluation_rows(studies)[0]["loss_kd"] == 0.5
    assert evaluation_rows(studies)[0]["agreement"] == 90.0


def test_depths_are_judged_apart_and_each_has_its_winner(tmp_path: Path) -> None:
    """The shallow one is always worse, and still gets its quota."""
    studies = opened(tmp_path, plan(1, 8), plan(2, 8), sampler="random")
    for i in range(16):
        trial_id, _ = ask(studies)
        base = 60.0 if trial_id.study_key.depth == 1 else 90.0
        stopped = report(studies, trial_id, base + i % 3, base + i % 3)
        (studies.stop if any(stopped) else studies.complete)(trial_id)
    for depth in (1, 2):
        assert len(studies.trials(StudyKey(depth, "pkd"))) == 8
        assert studies.best(StudyKey(depth, "pkd")) is not None
    assert studies.ask() is None


def test_a_failed_trial_keeps_its_reason_and_uses_its_quota(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 1))
    trial_id, _ = ask(studies)
    studies.fail(trial_id, "the loss was not finite at step 3 of 9")
    assert studies.ask() is None
    assert studies.best(StudyKey(1, "pkd")) is None
    (row,) = trial_rows(studies)
    assert (row["state"], row["error"]) == ("failed", "the loss was not finite at step 3 of 9")
    assert row["score"] is None
    assert most_common_failure(studies) == "the loss was not finite at step 3 of 9"


def test_what_a_dead_driver_left_running_goes_on_under_its_own_number(tmp_path: Path) -> None:
    dead = opened(tmp_path, plan(1, 3))
    first, _ = ask(dead)
    finish(dead, first, 70.0)
    second, settings = ask(dead)
    report(dead, second, 65.0, 66.0)

    studies = opened(tmp_path, plan(1, 3))
    assert trial_rows(studies)[1]["state"] == "interrupted"
    assert (studies.remaining(), studies.total()) == (2, 3)
    again, same = ask(studies)
    assert (again, same) == (second, settings)
    assert report(studies, again, 1.0, 2.0, 67.0) == [False] * 3  # the first two were recorded before it died
    studies.complete(again)
    assert [row["score"] for row in evaluation_rows(studies)] == [70.0, 65.0, 66.0, 67.0]
    last, fresh = ask(studies)
    assert fresh != settings
    finish(studies, last, 64.0)
    assert studies.ask() is None
    assert [row["state"] for row in trial_rows(studies)] == ["complete"] * 3
    assert [row["trial"] for row in trial_rows(studies)] == [0, 1, 2]

    # A larger total adds trials with settings of their own.
    more = opened(tmp_path, plan(1, 4))
    added, settings = ask(more)
    assert added.number == 3
    assert all(row["alpha"] != pytest.approx(settings["alpha"]) for row in trial_rows(more)[:-1])
    assert more.ask() is None


def test_a_death_before_any_value_was_chosen_costs_nothing(tmp_path: Path) -> None:
    dead = opened(tmp_path, plan(1, 1))
    dead._studies[StudyKey(1, "pkd"), "search"].ask()
    studies = opened(tmp_path, plan(1, 1))
    trial_id, settings = ask(studies)
    assert (trial_id.number, settings["temperature"]) == (0, 10)
    assert 0.2 <= settings["alpha"] <= 0.9
    assert studies.ask() is None


def test_a_stage_waits_and_keeps_the_best_values_of_the_one_before(tmp_path: Path) -> None:
    kd = plan(1, 2, "kd", FLAT)
    pkd = plan(1, 2, "pkd", {**FLAT, "beta": Choice((10, 100))}, after=kd.study_key, keep=("alpha", "temperature"))
    studies = opened(tmp_path, kd, pkd)
    first, second = ask(studies), ask(studies)
    assert {first[0].study_key, second[0].study_key} == {kd.study_key}
    assert studies.ask() is None  # both are running: whose values are to be kept?
    finish(studies, first[0], 60.0)
    assert studies.ask() is None
    finish(studies, second[0], 70.0)
    third, settings = ask(studies)
    assert third.study_key == pkd.study_key
    assert {name: settings[name] for name in pkd.keep} == second[1]
    assert ask(studies)[1]["beta"] != settings["beta"]


def test_what_was_kept_of_another_winner_stays_what_it_was(tmp_path: Path) -> None:
    def open_with(quota: int) -> Studies:
        kd = plan(1, quota, "kd", FLAT)
        beta = {**FLAT, "beta": Choice((10, 100))}
        return opened(
            tmp_path, kd, plan(1, 2, "pkd", beta, after=kd.study_key, keep=("alpha", "temperature")), seeds=(7,)
        )

    studies = open_with(1)
    kept = ask(studies)[1]
    finish(studies, TrialId(StudyKey(1, "kd"), "search", 0), 60.0)
    first, settings = ask(studies)
    assert {name: settings[name] for name in kept} == kept
    finish(studies, first, 90.0)
    dead, left = ask(studies)

    more = open_with(2)
    assert ask(more) == (dead, left)  # what a dead process left keeps what it kept
    finish(more, dead, 50.0)
    better, changed = ask(more)
    assert (better.study_key.method, better.stage) == ("kd", "search")
    assert changed != kept
    finish(more, better, 95.0)
    rows = [row for row in trial_rows(more) if row["method"] == "pkd"]
    assert [(row["alpha"], row["temperature"]) for row in rows] == [tuple(kept.values())] * 2
    confirmations = [settings for trial_id, settings, _ in run_all(more) if trial_id.study_key == StudyKey(1, "pkd")]
    assert confirmations == [settings]


def test_what_a_process_left_that_was_killed_while_it_asked_for_a_trial(tmp_path: Path) -> None:
    """After a suggestion was marked as repeated, before it was told as failed; and before all values were chosen."""
    parameters: Parameters = {**PARAMETERS, "epochs": Int(2, 4, log=False)}
    opened(tmp_path, plan(2, 3, parameters=parameters))
    study = optuna.load_study(study_name="2-layer-pkd", storage=open_journal(tmp_path / "study.log"))
    study.ask().set_user_attr(REPEATS, True)
    half_asked = study.ask()
    half_asked.suggest_float("alpha", 0.2, 0.9)
    studies = opened(tmp_path, plan(2, 3, parameters=parameters))
    assert (studies.remaining(), studies.epochs_left()) == (3, 3 * 3.0)
    trial_id, settings = ask(studies)
    assert trial_id.number == half_asked.number
    assert settings["epochs"] in (2, 3, 4)
    studies.interrupt(trial_id)
    assert len(run_all(studies)) == 3
    assert [row["state"] for row in trial_rows(studies)] == ["complete"] * 3
    assert all(row["ended"] >= row["started"] for row in trial_rows(studies))


def test_a_file_that_was_made_again_is_known_from_then_on(tmp_path: Path) -> None:
    """On another number of cores it may differ in its last bits."""
    studies = opened(tmp_path, plan(2, 1))
    trial_id, _ = ask(studies)
    report(studies, trial_id, 70.0)
    studies.complete(trial_id, file_hash="first")
    assert studies.file_hash(trial_id) == "first"
    studies.trained_again(trial_id, "second")
    assert opened(tmp_path, plan(2, 1)).file_hash(trial_id) == "second"


def test_a_stage_that_lost_its_predecessor_is_left_out(tmp_path: Path) -> None:
    kd = plan(1, 1, "kd", FLAT)
    studies = opened(tmp_path, kd, plan(1, 2, "pkd", FLAT, after=kd.study_key, keep=("alpha",)))
    studies.fail(ask(studies)[0], "out of memory")
    assert studies.ask() is None
    assert studies.unfinished() == 0


def test_winners_are_confirmed_on_fresh_seeds_and_a_new_winner_again(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 2), seeds=(7, 8))
    one, two = ask(studies), ask(studies)
    finish(studies, one[0], 60.0)
    assert studies.ask() is None  # the search has not ended
    finish(studies, two[0], 80.0)
    asked = [studies.ask() for _ in range(2)]
    assert [(a[0].stage, a[1], a[2]) for a in asked if a] == [("confirm", two[1], 7), ("confirm", two[1], 8)]
    assert studies.ask() is None
    for i, each in enumerate(asked):
        assert each is not None
        assert report(studies, each[0], 10.0, 10.0) == [False, False]  # never stopped early
        studies.complete(each[0], {"f1": 70.0 + i, "score": 70.0 + i})
    rows = trial_rows(studies)
    assert [(row["stage"], row["seed"], row["score"]) for row in rows[2:]] == [
        ("confirm", 7, 70.0),
        ("confirm", 8, 71.0),
    ]

    more = opened(tmp_path, plan(1, 3), seeds=(7, 8))
    finish(more, ask(more)[0], 90.0)
    again = [more.ask() for _ in range(2)]
    assert [a[2] for a in again if a] == [7, 8]
    assert more.ask() is None
    confirmed = [(row["origin"], row["seed"]) for row in trial_rows(more) if row["stage"] == "confirm"]
    assert confirmed == [("trial 1", 7), ("trial 1", 8), ("trial 2", 7), ("trial 2", 8)]  # every training has its row
    assert len(more.trials(StudyKey(1, "pkd"), "confirm")) == 2  # those of the old winner are not its
    assert counts(more)["done"] + counts(more)["running"] == 5


def test_no_seed_is_confirmed_twice_whatever_a_dead_driver_left_queued(tmp_path: Path) -> None:
    run_all(opened(tmp_path, plan(1, 2)))
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    queue = optuna.load_study(study_name="1-layer-pkd confirmed", storage=storage)
    queue.enqueue_trial({"alpha": 0.3}, user_attrs={"winner": 1, "seed": 7})  # of a winner that was outdone
    queue.enqueue_trial({"alpha": 0.4}, user_attrs={"winner": 0, "seed": 7})
    studies = opened(tmp_path, plan(1, 2), seeds=(7, 8, 9))
    asked = run_all(studies)
    assert [seed for _, _, seed in asked] == [7, 8, 9]
    assert asked[0][1]["alpha"] == 0.4
    assert [row["seed"] for row in trial_rows(studies)[2:]] == [7, 8, 9]


def test_what_was_to_be_stopped_or_had_failed_is_ended_after_a_death_too(tmp_path: Path) -> None:
    dead = opened(tmp_path, plan(1, WARM_UP_TRIALS + 2))
    for _ in range(WARM_UP_TRIALS):
        finish(dead, ask(dead)[0], 70.0)
    weak, lost = ask(dead)[0], ask(dead)[0]
    assert report(dead, weak, 50.0) == [True]
    dead._running[lost].set_user_attr(ENDED, {"state": "FAIL", "reason": "out of memory"})  # as fail() does first
    studies = opened(tmp_path, plan(1, WARM_UP_TRIALS + 2))
    assert studies.ask() is None
    ends = [(row["state"], row["error"]) for row in trial_rows(studies)[-2:]]
    assert ends == [("stopped early", "not in the best third at epoch 0.5"), ("failed", "out of memory")]


def test_a_confirmation_that_was_cut_off_goes_on_with_its_seed(tmp_path: Path) -> None:
    dead = opened(tmp_path, plan(1, 1), seeds=(7,))
    settings = ask(dead)[1]
    finish(dead, TrialId(StudyKey(1, "pkd"), "search", 0), 60.0)
    assert dead.ask() is not None
    studies = opened(tmp_path, plan(1, 1), seeds=(7,))
    again = studies.ask()
    assert again is not None
    assert (again[0].stage, again[1], again[2]) == ("confirm", settings, 7)
    finish(studies, again[0], 60.0)
    assert studies.ask() is None


def test_what_has_not_ended_is_counted(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 3))
    assert (studies.remaining(), studies.unfinished(), studies.total()) == (3, 3, 3)
    trial_id, _ = ask(studies)
    assert (studies.remaining(), studies.unfinished(), studies.total()) == (2, 3, 3)
    finish(studies, trial_id, 70.0)
    assert (studies.remaining(), studies.unfinished(), studies.total()) == (2, 2, 3)
    assert opened(tmp_path, plan(1, 1)).remaining() == 0


def test_the_next_trial_waits_while_enough_of_its_study_run_without_a_score(tmp_path: Path) -> None:
    """Free slots go to other studies, and to confirmations of one that has ended."""
    studies = opened(tmp_path, plan(1, 1), plan(2, 8), plan(3, 3), seeds=(7, 8), max_pending=2)
    asked = [ask(studies)[0] for _ in range(5)]
    assert [trial_id.study_key.depth for trial_id in asked] == [1, 2, 3, 2, 3]
    assert studies.ask() is None
    finish(studies, asked[0], 70.0)
    confirming, _ = ask(studies)
    assert (confirming.study_key.depth, confirming.stage) == (1, "confirm")
    report(studies, asked[1], 60.0)
    assert ask(studies)[0] == TrialId(StudyKey(2, "pkd"), "search", 2)
    assert ask(studies)[0].stage == "confirm"
    assert studies.ask() is None
    more = [TrialId(StudyKey(2, "pkd"), "search", number) for number in range(8)]
    for trial_id in more[1:3]:  # three have a score now, so that three may run without
        report(studies, trial_id, 60.0)
    assert [ask(studies)[0] for _ in range(3)] == more[3:6]
    assert studies.ask() is None


def test_trials_do_not_wait_for_scores_that_nothing_learns_from(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 4), sampler="random", early_stopping=False, max_pending=1)
    assert [studies.ask() is None for _ in range(5)] == [False, False, False, False, True]


EPOCH: Parameters = {**PARAMETERS, "epochs": Choice((1,))}
"""Of trials of one epoch, whose time can be foreseen."""


def seconds_pass(monkeypatch: pytest.MonkeyPatch, each: float) -> None:
    """Lets the clock by which trials are timed run on by so many seconds whenever it is read."""
    clock = itertools.count(step=each)
    monkeypatch.setattr(time, "time", lambda: next(clock))


def test_a_search_ends_where_another_trial_would_leave_no_time_to_confirm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winners of all depths are confirmed, and the same search goes on with more time."""
    plans = (plan(1, 20, parameters=EPOCH), plan(2, 20, parameters=EPOCH))
    limit = TimeLimit(time.monotonic() + 1e6, slots=1)
    seconds_pass(monkeypatch, 1e5)  # a trial takes 2e5 with its two evaluations
    studies = opened(tmp_path, *plans, seeds=(7,), time_limit=limit)
    for _ in range(2):
        finish(studies, ask(studies)[0], 70.0, 71.0)
    assert ask(studies)[0].stage == "search"  # 1e6 is left, and a trial and two confirmations take 6e5
    studies = opened(tmp_path, *plans, seeds=(7,), time_limit=replace(limit, ends=time.monotonic() + 5e5))
    finish(studies, ask(studies)[0], 70.0, 71.0)  # what was interrupted
    confirmed = run_all(studies)
    assert [(trial_id.study_key.depth, trial_id.stage) for trial_id, _, _ in confirmed] == [
        (1, "confirm"),
        (2, "confirm"),
    ]
    assert studies.is_out_of_time()
    assert studies.unfinished() == 37
    assert ask(opened(tmp_path, *plans, seeds=(7,)))[0].stage == "search"


def test_nothing_is_started_after_the_time_limit_but_what_runs_stays(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 2, parameters=EPOCH))
    ask(studies)
    studies = opened(tmp_path, plan(1, 2, parameters=EPOCH), time_limit=TimeLimit(time.monotonic(), slots=1))
    assert studies.ask() is None
    assert studies.is_out_of_time()
    assert trial_rows(studies)[0]["state"] == "interrupted"
    assert studies.unfinished() == 2


def test_a_trial_that_is_longer_than_the_time_limit_is_begun_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds_pass(monkeypatch, 1e5)
    studies = opened(tmp_path, plan(1, 3, parameters=EPOCH))
    finish(studies, ask(studies)[0], 70.0)
    studies = opened(tmp_path, plan(1, 3, parameters=EPOCH), time_limit=TimeLimit(time.monotonic() + 1e3, slots=1))
    assert ask(studies)[0].number == 1
    assert studies.ask() is None


def test_a_study_that_the_time_limit_closes_before_a_trial_has_ended_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is confirmed, and the other study is."""
    seconds_pass(monkeypatch, 1e5)
    kd, alone = plan(1, 4, "kd", parameters=EPOCH), plan(1, 4, "finetuned", parameters=EPOCH)
    limit = TimeLimit(time.monotonic() + 3e5, slots=1)
    studies = opened(tmp_path, kd, alone, seeds=(7, 8), time_limit=limit)
    finish(studies, ask(studies)[0], 70.0, 71.0)
    done = run_all(studies)
    assert [(trial_id.study_key.method, trial_id.stage) for trial_id, _, _ in done] == [("kd", "confirm")] * 2
    assert studies.is_out_of_time()


def test_fine_tuning_takes_its_own_time_where_only_distillation_has_texts_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, kd = plan(1, 4, "finetuned", parameters=EPOCH), plan(1, 4, "kd", parameters=EPOCH)
    studies = opened(tmp_path, alone, kd)
    for seconds in (1e3, 1e5):  # a trial of the first takes 2e3, of the other 2e5
        seconds_pass(monkeypatch, seconds)
        finish(studies, ask(studies)[0], 70.0, 71.0)
    studies = opened(tmp_path, alone, kd, time_limit=TimeLimit(time.monotonic() + 1.5e5, slots=1))
    assert {trial_id.study_key.method for trial_id, _, _ in run_all(studies)} == {"finetuned"}


def test_stages_have_the_same_share_of_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the paper's own search, of which the second stage is what is asked about."""
    seconds_pass(monkeypatch, 1e5)  # a trial takes 2e5
    kd = plan(1, 20, "kd", parameters=EPOCH)
    pkd = plan(1, 10, "pkd", parameters=EPOCH, after=kd.study_key, keep=("temperature",))
    limit = TimeLimit(time.monotonic() + 1e7, slots=1)
    studies = opened(tmp_path, kd, pkd, seeds=(7,), time_limit=limit)
    done: Counter[tuple[str, str]] = Counter()
    while (asked := studies.ask()) is not None:
        finish(studies, asked[0], 70.0, 71.0)
        done[asked[0].study_key.method, asked[0].stage] += 1
        studies.time_limit = replace(limit, ends=limit.ends - 2e5 * done.total())
        if done.total() == 1:
            studies.time_limit = limit = replace(limit, ends=time.monotonic() + 2e5 * 18)  # 18 of 32 trainings
    assert done["kd", "confirm"] == done["pkd", "confirm"] == 1
    assert done["pkd", "search"] >= 4
    assert 8 <= done["kd", "search"] <= 12


def test_notes_say_in_words_what_a_study_is_and_its_best_so_far(tmp_path: Path) -> None:
    with_ablations = plan(2, 3, ablations=("kd", "finetuned"))
    studies = opened(tmp_path, with_ablations, seeds=(7, 8))

    def notes() -> dict[str, str]:
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
        return {
            study.study_name: get_note(study)
            for study in [
                optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
            ]
        }

    assert "Search: 3 trials are planned" in notes()["2-layer-pkd"]
    assert "Best so far" not in notes()["2-layer-pkd"]
    finish(studies, ask(studies)[0], 70.0, 80.04)
    finish(studies, ask(studies)[0], 60.0)
    assert "Students of 2 layers, trained by Patient Knowledge Distillation." in notes()["2-layer-pkd"]
    assert "Best so far: trial 0, score 80.0 at epoch 1 (f1 80.0)." in notes()["2-layer-pkd"]
    assert "Its settings: alpha 0." in notes()["2-layer-pkd"]
    assert "the best settings of `2-layer-pkd`, trained again on 2 fresh seeds" in notes()["2-layer-pkd confirmed"]
    of_ablations = notes()["2-layer-pkd ablations"]
    assert (
        "settings of `2-layer-pkd` without the patience term, and without distillation, trained again" in of_ablations
    )
    written = (tmp_path / "study.log").read_text().count("note_str")
    opened(tmp_path, with_ablations, seeds=(7, 8))
    assert (tmp_path / "study.log").read_text().count("note_str") == written  # what is there is not written again


PATIENT: Parameters = {
    "alpha": Choice((0.2, 0.5, 0.7)),
    "beta": Choice((10, 100)),
    "temperature": Choice((5, 10)),
    "learning_rate": Float(1e-5, 1e-3, log=True),
    "strategy": Choice(("skip", "last")),
    "normalize": Choice((True, False)),
}
"""Of PKD."""


def patient(depth: int, quota: int, method: Method = "pkd", parameters: Parameters = PATIENT, **more: Any) -> StudyPlan:
    return plan(depth, quota, method, for_method(parameters, method), **more)


def test_ablations_are_the_winner_without_terms_of_its_loss_on_its_seeds(tmp_path: Path) -> None:
    def plans(quota: int) -> tuple[StudyPlan, ...]:
        return patient(2, quota, ablations=("kd", "finetuned")), patient(2, 1, "kd"), patient(2, 1, "finetuned")

    studies = opened(tmp_path, *plans(1), seeds=(7, 8))
    assert studies.remaining() == studies.total() == 3 + 6 + 4
    pkd, kd, alone = (ask(studies) for _ in range(3))
    for trial_id, score in ((pkd[0], 80.0), (kd[0], 70.0)):
        finish(studies, trial_id, score)
    while (asked := studies.ask()) is not None:  # fine-tuning is searched still: it may find the same settings
        assert asked[0].stage == "confirm"
        finish(studies, asked[0], 70.0)
    finish(studies, alone[0], 60.0)
    dead = studies.ask()
    while dead is not None and dead[0].stage == "confirm":
        finish(studies, dead[0], 70.0)
        dead = studies.ask()
    assert dead is not None

    studies = opened(tmp_path, *plans(1), seeds=(7, 8))  # the first ablation was cut off
    assert studies.remaining() == 4
    asked_after = run_all(studies)
    assert asked_after[0] == dead
    assert [(trial_id.stage, seed) for trial_id, _, seed in asked_after] == [("ablation", s) for s in (7, 8, 7, 8)]
    none: Settings = {"beta": 0.0, "strategy": "skip", "normalize": False}
    for _, settings, _ in asked_after[:2]:
        assert settings == {**pkd[1], **none}
    for _, settings, _ in asked_after[2:]:
        assert settings == {**pkd[1], **none, "alpha": 0.0, "temperature": 1.0}
    assert (studies.ask(), studies.unfinished(), studies.total()) == (None, 0, 13)
    rows = [row for row in trial_rows(studies) if row["stage"] == "ablation"]
    assert [(row["method"], row["seed"], row["beta"], row["origin"]) for row in rows] == [
        *(("pkd", seed, 0.0, "trial 0 as kd") for seed in (7, 8)),
        *(("pkd", seed, 0.0, "trial 0 as finetuned") for seed in (7, 8)),
    ]

    more = opened(tmp_path, *plans(2), seeds=(7, 8))  # another winner has ablations of its own
    finish(more, ask(more)[0], 90.0)
    assert [(trial_id.stage, seed) for trial_id, _, seed in run_all(more)] == [
        *(("confirm", seed) for seed in (7, 8)),
        *(("ablation", seed) for seed in (7, 8, 7, 8)),
    ]


def test_neither_confirmations_nor_ablations_are_stopped_early(tmp_path: Path) -> None:
    quota = WARM_UP_TRIALS + 2
    plans = patient(2, quota, ablations=("kd", "finetuned")), patient(2, 1, "kd"), patient(2, 1, "finetuned")
    studies = opened(tmp_path, *plans, seeds=(7,))
    stages = []
    while (asked := studies.ask()) is not None:
        stages.append(asked[0].stage)
        scores = (80.0, 80.0, 80.0) if asked[0].stage == "search" else (10.0, 10.0, 10.0)
        assert report(studies, asked[0], *scores) == [False] * 3
        studies.complete(asked[0], None if asked[0].stage == "search" else {"f1": 10.0, "score": 10.0})
    assert stages.count("search") == quota + 2
    assert {"confirm", "ablation"} < set(stages)


def test_settings_that_are_confirmed_anyway_are_not_trained_again_as_an_ablation(tmp_path: Path) -> None:
    """All methods have one setting, and the fine-tuned student another learning rate."""
    values: Settings = {"alpha": 0.5, "beta": 10, "temperature": 5, "learning_rate": 5e-4, "strategy": "skip"}
    one: Parameters = {name: Choice((value,)) for name, value in (values | {"normalize": True}).items()}
    slow = {**one, "learning_rate": Choice((0.0001,))}
    both: Any = {"ablations": ("kd", "finetuned")}
    last = {**one, "strategy": Choice(("last",))}
    plans = [
        *(patient(2, 1, "pkd-skip", one, **both), patient(2, 1, "pkd-last", last, **both)),
        *(patient(2, 1, "kd", one), patient(2, 1, "finetuned", slow)),
        *(
            patient(1, 1, "pkd", one, ablations=("finetuned",)),
            patient(3, 1, "pkd", {**one, "alpha": Choice((0.0,))}, **both),
        ),
    ]
    studies = opened(tmp_path, *plans, seeds=(7,))
    asked = run_all(studies)
    assert [trial_id.study_key.name for trial_id, _, _ in asked if trial_id.stage == "ablation"] == [
        *("2-layer-pkd-skip", "1-layer-pkd", "3-layer-pkd"),
    ]
    where = {
        (key.name, each.method): (each.study_key.name, each.stage, each.of)
        for key in studies.plans
        for each in studies.ablations(key)
    }
    alone = ("2-layer-pkd-skip", "ablation", "finetuned")
    assert where == {
        ("2-layer-pkd-skip", "kd"): ("2-layer-kd", "confirm", None),
        ("2-layer-pkd-skip", "finetuned"): alone,
        ("2-layer-pkd-last", "kd"): ("2-layer-kd", "confirm", None),
        ("2-layer-pkd-last", "finetuned"): alone,
        ("1-layer-pkd", "finetuned"): ("1-layer-pkd", "ablation", "finetuned"),
        ("3-layer-pkd", "kd"): ("3-layer-pkd", "ablation", "kd"),  # alpha is 0: both are fine-tuning alone
        ("3-layer-pkd", "finetuned"): ("3-layer-pkd", "ablation", "kd"),
    }
    for key in studies.plans:
        for each in studies.ablations(key):
            (trial,) = studies.ablation_trials(each)
            assert (trial.user_attrs["seed"], trial.value) == (7, 71.0)


def test_the_best_settings_of_a_sibling_are_tried_once_wherever_the_search_is_continued(tmp_path: Path) -> None:
    kd, pkd = StudyKey(2, "kd"), StudyKey(2, "pkd")

    def reopened() -> Studies:
        return opened(tmp_path, patient(2, 9, siblings=(kd,)), patient(2, 9, "kd", siblings=(pkd,)))

    studies, scores = reopened(), {kd: iter((60.0, 80.0, 70.0)), pkd: iter((61.0, 62.0, 63.0))}
    settings_of_trials: dict[StudyKey, list[Settings]] = {kd: [], pkd: []}
    for trial_id, settings in [ask(studies) for _ in range(6)]:
        settings_of_trials[trial_id.study_key].append(settings)
        finish(studies, trial_id, next(scores[trial_id.study_key]))
    studies = reopened()
    found, settings = ask(studies)
    best = settings_of_trials[kd][1]
    assert found.study_key == pkd
    assert {name: settings[name] for name in ("alpha", "temperature", "learning_rate")} == {
        name: best[name] for name in ("alpha", "temperature", "learning_rate")
    }
    assert settings["beta"] in (10, 100)  # KD has none: the sampler chooses
    other, learnt = ask(studies)
    assert other.study_key == kd
    assert learnt["learning_rate"] == settings_of_trials[pkd][2]["learning_rate"]

    studies = reopened()  # whoever continues has the same trials, and no sibling is asked twice
    assert [ask(studies) for _ in range(2)] == [(found, settings), (other, learnt)]
    for trial_id in (found, other):
        finish(studies, trial_id, 90.0)
    run_all(studies)
    origins = {key: [row["origin"] for row in trial_rows(studies) if row["method"] == key.method] for key in (kd, pkd)}
    assert origins == {
        pkd: [*["sampled"] * 3, "best of 2-layer-kd", *["sampled"] * 5],
        kd: [*["sampled"] * 3, "best of 2-layer-pkd", *["sampled"] * 5],
    }


def test_a_sibling_that_learnt_nothing_or_has_hardly_begun_says_nothing(tmp_path: Path) -> None:
    kd = StudyKey(2, "kd")
    studies = opened(tmp_path, patient(2, 8, siblings=(kd,)), patient(2, 8, "kd"))
    for _ in range(8):
        trial_id, _ = ask(studies)
        studies.report(trial_id, 1, 70.0, seen(1.0, 70.0, degenerate=trial_id.study_key == kd))
        studies.complete(trial_id)
    assert {row["origin"] for row in trial_rows(studies)} == {"sampled"}
    better = next(asked for _ in range(2) if (asked := ask(studies))[0].study_key == kd)
    studies.report(better[0], 1, 75.0, seen(1.0, 75.0))
    studies.complete(better[0])
    run_all(studies)
    assert [row["origin"] for row in trial_rows(studies)].count("best of 2-layer-kd") == 1


def test_time_is_kept_for_ablations_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_pass(monkeypatch, 1e5)  # a trial takes 2e5
    searched = patient(2, 20, parameters={**PATIENT, "epochs": Choice((1,))}, ablations=("kd", "finetuned"))
    for name, seconds, stage in (("short", 7e5, "confirm"), ("long", 9e5, "search")):
        (tmp_path / name).mkdir()
        limit = TimeLimit(time.monotonic() + seconds, slots=1)
        studies = opened(tmp_path / name, searched, seeds=(7,), time_limit=limit)
        finish(studies, ask(studies)[0], 70.0, 71.0)
        assert ask(studies)[0].stage == stage  # a trial, a confirmation and two ablations take 8e5


def test_epochs_that_are_left_are_those_of_the_winner_once_there_is_one(tmp_path: Path) -> None:
    searched = patient(2, 1, parameters={**PATIENT, "epochs": Choice((2, 6))}, ablations=("kd", "finetuned"))
    studies = opened(tmp_path, searched, seeds=(7, 8))
    assert studies.epochs_left() == (1 + 2 + 4) * 4
    trial_id, settings = ask(studies)
    finish(studies, trial_id, 70.0)
    assert studies.epochs_left() == (2 + 4) * settings["epochs"]
