"""Flags that commands share."""

import pytest

from pkd_tune.distill import make_parser as distill_parser
from pkd_tune.finetune import make_parser as finetune_parser
from pkd_tune.predict import make_parser as predict_parser
from pkd_tune.reporting.formatting import number_text
from pkd_tune.search import make_parser
from pkd_tune.tuning.space_file import find_space, load_space
from pkd_tune.workflows.distill import middle_rate


@pytest.mark.parametrize("depths", ["1 2 3", "1,2,3", "1,2 3", "1, 2, 3"])
def test_depths_are_one_list_however_they_are_separated(depths: str) -> None:
    given = make_parser().parse_args(["--task", "MRPC", "--depths", *depths.split()])
    assert given.depths == [1, 2, 3]


def test_a_list_that_is_given_twice_is_one_list() -> None:
    flags = ["--task", "MRPC", "--depths", "1", "--set", "training.epochs=8", "space.alpha=0.5", "--depths", "2,3"]
    given = make_parser().parse_args([*flags, "--set", "search.trials=6"])
    assert given.depths == [1, 2, 3]
    assert given.set == ["training.epochs=8", "space.alpha=0.5", "search.trials=6"]
    assert make_parser().parse_args(["--task", "MRPC"]).depths is None
    files = predict_parser().parse_args("--task t --model m --file a.csv --file b.csv".split())
    assert [path.name for path in files.file] == ["a.csv", "b.csv"]


def test_help_names_the_values_of_the_shipped_spaces() -> None:
    space, demo = load_space(find_space("default")), load_space(find_space("demo"))
    searching, fine_tuning, distilling = (
        {action.dest: str(action.help) for action in parser._actions}
        for parser in (make_parser(), finetune_parser(), distill_parser())
    )
    for name, value in (
        ("epochs", space.training.epochs),
        ("batch_size", space.training.batch_size),
        ("max_length", space.max_length),
        ("trials", space.trials),
        ("seeds", space.seeds),
        ("sampler", space.sampler),
    ):
        assert f"(default: the space's, usually {value})" in searching[name]
    assert {each.epochs for each in space.teacher} == {space.training.epochs}
    rates = " ".join(number_text(each.learning_rate) for each in space.teacher)
    assert f"(default: those of the default space: {rates})" in fine_tuning["learning_rate"]
    ours, demos = (number_text(middle_rate(each)) for each in (space, demo))
    assert f"{ours}; {demos} with --demo" in distilling["learning_rate"]
