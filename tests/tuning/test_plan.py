from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import finish

from pkd_tune.config import DataConfig, SearchConfig, SearchStage, TrainingConfig, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.tuning.plan import StudyKey, finetuned_share, plan_studies
from pkd_tune.tuning.space import Choice, Condition, contains, distribution
from pkd_tune.tuning.space_file import find_space, load_space
from pkd_tune.tuning.studies import Studies

DATA = DataConfig(task=TASKS["RTE"], data_dir=Path("d"), teacher_dir=Path("t"), student_dir=Path("t"))
DEFAULT, PAPER = (load_space(find_space(name)) for name in ("default", "paper"))

TRAINED: dict[str, Any] = {"init": "pretrained", "epochs": 4}
PUBLISHED: dict[str, Any] = {"alpha": 0.5, "learning_rate": 2e-5, "temperature": 10, "normalize": True}


def search(*methods: Any, **more: Any) -> SearchConfig:
    stages = tuple(method if isinstance(method, SearchStage) else SearchStage(method=method) for method in methods)
    return SearchConfig(
        data=DATA,
        teacher_trainings=(),
        student_training=TrainingConfig(),
        **{"depths": (3, 6), "stages": stages, "trials": 5, "control_trials": 3, "finetuned_trials": 3, **more},
    )


def test_a_regression_has_no_temperature_to_search() -> None:
    data = replace(DATA, task=TASKS["STS-B"])
    plans = plan_studies(
        replace(search("kd", "pkd", sampler="grid", control_trials=99, trials=None), data=data), PAPER.parameters
    )
    assert all(plan.parameters["temperature"] == Choice((1.0,)) for plan in plans)
    assert [plan.quota for plan in plans[:2]] == [9, 9]


def test_known_settings_are_tried_as_the_space_trains() -> None:
    """Theirs is the pretrained start, which default.toml does not search; a space that has it takes it."""
    known: Any = [("pkd", 3, {**PUBLISHED, "beta": 100.0, "strategy": "last"})]
    for inits, expected in (((), "teacher-skip"), (("teacher", "pretrained"), "pretrained"), (("teacher",), "teacher")):
        parameters = {**DEFAULT.parameters, **({"init": Choice(inits)} if inits else {})}
        (plan,) = plan_studies(search("pkd", depths=(3,), trials=4), parameters, known, TRAINED)
        assert [settings["init"] for settings in plan.first] == [expected]


def test_a_student_of_one_layer_is_not_searched_for_what_layers_imitate() -> None:
    known: Any = [("pkd", 3, {**PUBLISHED, "beta": 100.0, "strategy": "last"})]
    one, three = plan_studies(search("pkd", depths=(1, 3), trials=4), DEFAULT.parameters, known, TRAINED)
    assert {name for name in one.parameters if one.parameters[name] != three.parameters[name]} == {
        "beta",
        "strategy",
        "normalize",
    }
    assert one.parameters["beta"] == Choice((0.0,))
    assert [(each["beta"], each["alpha"]) for each in (*one.first, *three.first)] == [(0.0, 0.5), (100.0, 0.5)]
    grid = plan_studies(search(*PAPER.stages, depths=(1, 3), trials=None, sampler="grid"), PAPER.parameters)
    assert [plan.quota for plan in grid] == [27, 27, 3, 24]


@pytest.mark.parametrize(
    ("space", "idle"),
    [
        ({"alpha": Choice((0,))}, {"temperature"}),
        ({"beta": Choice((0.0,))}, {"strategy", "normalize"}),
        ({"alpha": Choice((0.0,), Condition((("strategy", "skip"),), 0.5))}, set()),
        ({"alpha": Choice((0.0, 0.5))}, set()),
    ],
)
def test_what_belongs_to_a_term_of_weight_0_is_not_searched(space: dict[str, Any], idle: set[str]) -> None:
    parameters = {**DEFAULT.parameters, **space}
    (plan,) = plan_studies(search("pkd", depths=(3,)), parameters)
    changed = {name for name in parameters if plan.parameters[name] != parameters[name]}
    assert changed == idle
    assert all(distribution(plan.parameters[name]) is None for name in idle)


def test_methods_and_depths_have_their_shares() -> None:
    plans = plan_studies(search("pkd", "kd", "finetuned"), DEFAULT.parameters)
    assert {plan.study_key.name: plan.quota for plan in plans} == {
        **{"3-layer-pkd": 3, "6-layer-pkd": 2, "3-layer-kd": 2, "6-layer-kd": 1},
        **{"3-layer-finetuned": 2, "6-layer-finetuned": 1},
    }


def test_fine_tuning_has_fewer_trials_as_it_has_less_to_search() -> None:
    def share(control_trials: int | None, depths: int, *overrides: str, regression: bool = False) -> int | None:
        space = load_space(find_space("default"), overrides)
        return finetuned_share(control_trials, space.parameters, depths, regression=regression)

    assert share(24, 2) == 12  # learning rate and init, where KD has alpha and temperature too
    assert share(25, 2) == 13
    assert share(4, 3) == 3  # one for each depth
    assert share(24, 2, regression=True) == 16  # without a temperature
    assert share(24, 2, "space.init=teacher") == 8
    assert share(24, 2, "space.alpha=0.5", "space.temperature=10") == 24
    assert share(0, 2) == 0
    assert share(None, 2) is None


def test_a_study_learns_from_its_method_at_other_depths_and_from_what_distils_beside_it() -> None:
    def siblings(**more: Any) -> dict[str, list[str]]:
        plans = plan_studies(search("pkd", "kd", "finetuned", **{"depths": (2, 3, 6), **more}), DEFAULT.parameters)
        return {plan.study_key.name: [key.name for key in plan.siblings] for plan in plans}

    found = siblings()
    assert found["3-layer-pkd"] == ["2-layer-pkd", "6-layer-pkd", "3-layer-kd"]
    assert found["6-layer-kd"] == ["3-layer-kd", "2-layer-kd", "6-layer-pkd"]
    assert found["2-layer-finetuned"] == ["3-layer-finetuned", "6-layer-finetuned"]
    for alone in ({"transfer": False}, {"sampler": "random"}):
        assert set(map(len, siblings(**alone).values())) == {0}
    staged = plan_studies(search(*PAPER.stages, trials=None, sampler="tpe"), PAPER.parameters)
    assert [plan.siblings for plan in staged if plan.keep] == [(), ()]


def test_only_pkd_has_ablations_and_one_layer_no_patience_term_to_leave_out() -> None:
    plans = plan_studies(search("pkd", "pkd-last", "kd", "finetuned", depths=(1, 3)), DEFAULT.parameters)
    assert {plan.study_key.name: plan.ablations for plan in plans if plan.ablations} == {
        **{"1-layer-pkd": ("finetuned",), "3-layer-pkd": ("kd", "finetuned")},
        **{"1-layer-pkd-last": ("finetuned",), "3-layer-pkd-last": ("kd", "finetuned")},
    }


def test_a_method_fixes_what_its_loss_leaves_out() -> None:
    plans = {
        plan.study_key.method: plan.parameters
        for plan in plan_studies(search("pkd-last", "kd", "finetuned"), DEFAULT.parameters)
    }
    assert plans["pkd-last"]["strategy"] == Choice(("last",))
    assert plans["pkd-last"]["beta"] == DEFAULT.parameters["beta"]
    assert plans["kd"]["beta"] == Choice((0.0,))
    assert plans["kd"]["alpha"] == DEFAULT.parameters["alpha"]
    assert plans["finetuned"]["alpha"] == plans["finetuned"]["beta"] == Choice((0.0,))
    assert plans["finetuned"]["learning_rate"] == DEFAULT.parameters["learning_rate"]


def test_the_papers_search_is_27_settings_of_kd_then_24_of_pkd_and_216_as_a_grid() -> None:
    in_turn = plan_studies(search(*PAPER.stages, trials=None, sampler="grid"), PAPER.parameters)
    assert [(plan.study_key.name, plan.quota, plan.after) for plan in in_turn] == [
        ("3-layer-kd", 27, None),
        ("6-layer-kd", 27, None),
        ("3-layer-pkd", 24, StudyKey(3, "kd")),
        ("6-layer-pkd", 24, StudyKey(6, "kd")),
    ]
    whole = plan_studies(search("pkd", trials=None, sampler="grid"), PAPER.parameters)
    assert [plan.quota for plan in whole] == [216, 216]


def test_a_grid_of_a_space_with_ranges_is_refused() -> None:
    with pytest.raises(UserError, match="--sampler grid: the space has ranges"):
        plan_studies(search("pkd", sampler="grid"), DEFAULT.parameters)


def test_known_settings_inside_the_space_come_first_with_the_own_depth_ahead() -> None:
    loss = {"temperature": 10, "beta": 100.0, "normalize": True, "strategy": "skip"}
    known: list[Any] = [
        ("pkd", 6, {"alpha": 0.7, "learning_rate": 2e-5, **loss}),
        ("pkd", 3, {"alpha": 0.5, "learning_rate": 2e-5, **loss}),
        ("pkd", 3, {"alpha": 0.5, "learning_rate": 1.0, **loss}),  # outside the space
        ("kd", 6, {"alpha": 0.7, "learning_rate": 5e-5, **loss, "beta": 0.0}),
    ]
    plans = {
        plan.study_key: plan
        for plan in plan_studies(search("pkd", "kd", "pkd-last"), DEFAULT.parameters, known, TRAINED)
    }
    assert [s["alpha"] for s in plans[StudyKey(3, "pkd")].first] == [0.5, 0.7]
    assert [s["alpha"] for s in plans[StudyKey(6, "pkd")].first] == [0.7, 0.5]
    assert [s["learning_rate"] for s in plans[StudyKey(3, "kd")].first] == [5e-5]
    assert plans[StudyKey(3, "pkd-last")].first == ()
    assert all(contains(plan.parameters, settings) for plan in plans.values() for settings in plan.first)


@pytest.mark.parametrize("alphas", [(0.0, 0.5), (0.5, 0.0)])
@pytest.mark.parametrize("winner", [0.0, 0.5])
def test_a_stage_has_the_settings_that_what_it_keeps_leaves(
    alphas: tuple[float, ...], winner: float, tmp_path: Path
) -> None:
    """The temperature is searched with an alpha of 0.5 alone, whichever alpha is listed first."""
    overrides = (
        f"space.alpha={{choices = [{alphas[0]}, {alphas[1]}]}}",
        "space.temperature={choices = [5, 10, 20], when = {alpha = 0.5}, otherwise = 1}",
        *(f"space.{name}" for name in ("beta=10", "learning_rate=1e-5", "normalize=true", 'init="teacher"')),
    )
    space = load_space(find_space("paper"), overrides)
    stages = (SearchStage(method="kd"), SearchStage(method="pkd", keep=("alpha",)))
    config = replace(search(*stages, trials=None, sampler="grid"), depths=(3,))
    studies = Studies(tmp_path / "study.log", plan_studies(config, space.parameters), sampler="grid")
    tried = []
    while (asked := studies.ask()) is not None:
        trial_id, settings, _ = asked
        finish(studies, trial_id, 90.0 if settings["alpha"] == winner else 50.0)
        if trial_id.study_key.method == "pkd":
            tried.append(settings["temperature"])
    assert sorted(tried) == ([5, 10, 20] if winner else [1])
