"""Tasks of one's own: what is found in a task file, a folder and a hub dataset, and every mistake in them."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tickets import QUEUES, TASK_FILE, ticket_rows, write_csv, write_tickets

from pkd_tune.config import Task, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import check_source, load_raw, source_notes
from pkd_tune.data.task import find_task, task_of_record
from pkd_tune.files import json_value


def problems_of(name: str | Path) -> list[str]:
    """Returns what is said of a task, whether its description or its data is wrong."""
    try:
        return check_source(find_task(str(name)), Path("data"))
    except UserError as error:
        return list(error.problems)


def test_a_task_file_says_everything(tmp_path: Path) -> None:
    task = find_task(str(write_tickets(tmp_path)))
    assert (task.name, task.title, task.text, task.labels) == (
        "tickets",
        "tickets",
        ("subject", "body"),
        ("01", *QUEUES[:6]),
    )
    assert (task.metrics, task.scored) == (("macro_f1", "accuracy"), ("macro_f1",))
    assert not task.submitted
    raw = load_raw(task, tmp_path / "data")
    assert {name: len(split) for name, split in raw.items()} == {"train": 210, "dev": 70}
    first = ticket_rows(1)[0]
    assert (raw["train"].sentence1[0], raw["train"].sentence2 and raw["train"].sentence2[0]) == first[:2]
    assert [task.labels[int(label)] for label in raw["dev"].labels or ()] == [row[2] for row in ticket_rows(70)]
    assert check_source(task, tmp_path / "data") == source_notes(task, raw) == []


def test_listed_classes_keep_their_order(tmp_path: Path) -> None:
    listed = ", ".join(f'"{queue}"' for queue in QUEUES)
    task = find_task(str(write_tickets(tmp_path, task_file=f'{TASK_FILE}labels = [{listed}]\nscore = "mean"\n')))
    assert task.labels == QUEUES
    assert task.scored == task.metrics


def test_a_folder_needs_no_description(tmp_path: Path) -> None:
    rows = [(body, str(i % 12)) for i, (_, body, _) in enumerate(ticket_rows(240))]
    write_csv(tmp_path / "mail" / "train.csv", rows, ("text", "label"))
    write_csv(tmp_path / "mail" / "test.csv", [row[:1] for row in rows[:5]], ("text",))
    task = find_task(str(tmp_path / "mail"))
    assert (task.name, task.text) == ("mail", ("text",))
    assert task.labels == tuple(map(str, range(12)))  # by size, not 0, 1, 10
    assert [(split.name, split.labelled) for split in task.splits] == [("train", True), ("dev", True), ("test", False)]
    raw = load_raw(task, tmp_path)
    assert {name: len(split) for name, split in raw.items()} == {"train": 216, "dev": 24, "test": 5}
    assert set(Counter(raw["dev"].labels).values()) == {2}
    assert raw["test"].labels is None
    (note,) = source_notes(task, raw)
    assert note == "mail has no dev split: 24 examples of train, a tenth, are held out for it"


def test_a_class_with_a_single_example_stays_in_train(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t" / "train.csv",
        [(f"text {i}", "ab"[i % 2]) for i in range(40)] + [("alone", "c")],
        ("text", "label"),
    )
    raw = load_raw(find_task(str(tmp_path / "t")), tmp_path)
    assert sorted(raw["dev"].labels or ()) == [0, 0, 1, 1]
    assert Counter(raw["train"].labels)[2] == 1
    assert not {*raw["dev"].sentence1} & {*raw["train"].sentence1}


@pytest.mark.parametrize("described", [True, False])
def test_validation_is_dev(tmp_path: Path, described: bool) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(40)]
    write_csv(tmp_path / "t" / "train.csv", rows, ("text", "label"))
    write_csv(tmp_path / "t" / "validation.csv", rows[:4], ("text", "label"))
    task_file = tmp_path / "t" / "t.toml"
    task_file.write_text('[data]\ntrain = "train.csv"\nvalidation = "validation.csv"\n')
    task = find_task(str(task_file if described else task_file.parent))
    assert {name: len(split) for name, split in load_raw(task, tmp_path).items()} == {"train": 40, "dev": 4}


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_csv(tmp_path / "home" / "train.csv", [(f"text {i}", "ab"[i % 2]) for i in range(40)], ("text", "label"))
    (tmp_path / "t.toml").write_text('[data]\ntrain = "~/train.csv"\n')
    assert len(load_raw(find_task(str(tmp_path / "t.toml")), tmp_path)["train"]) == 36


def test_a_regression_has_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "t" / "train.csv", [(f"text {i}", str(i / 7)) for i in range(40)], ("text", "stars"))
    (tmp_path / "t" / "stars.toml").write_text('[data]\ntrain = "train.csv"\nlabel = "stars"\nkind = "regression"\n')
    task = find_task(str(tmp_path / "t" / "stars.toml"))
    assert (task.name, task.regression, task.labels, task.metrics) == ("stars", True, (), ("pearson", "spearman"))
    raw = load_raw(task, tmp_path)
    assert len(raw["dev"]) == 4
    assert sum(raw["train"].labels or ()) + sum(raw["dev"].labels or ()) == pytest.approx(sum(range(40)) / 7, rel=1e-6)


def write_dataset(folder: Path, splits: dict[str, dict[str, list[object]]], config: str = "default") -> Path:
    """Writes a dataset repository as the hub has them: Parquet files below data/, and a README with their splits."""
    files = ""
    for split, columns in splits.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / config / f"{split}-00000-of-00001.parquet")
        files += f"\n  - split: {split}\n    path: {config}/{split}-*"
    readme = folder / "README.md"
    before = readme.read_text() if readme.exists() else "---\nconfigs:\n---\n"
    readme.write_text(before.removesuffix("---\n") + f"- config_name: {config}\n  data_files:{files}\n---\n")
    return folder


def mails(count: int) -> dict[str, list[object]]:
    return {
        "text": [f"text {i}" for i in range(count)],
        "label": [("spam", "ham", "news")[i % 3] for i in range(count)],
    }


def test_a_hub_dataset_needs_no_description(tmp_path: Path, dataset_cache: Path) -> None:
    unlabelled: dict[str, list[object]] = {"text": ["a", "b"], "label": [None, None]}
    folder = write_dataset(tmp_path / "mails", {"train": mails(30), "validation": mails(6), "test": unlabelled})
    task = find_task(f"hub:{folder}")
    assert (task.name, task.labels) == ("mails", ("ham", "news", "spam"))
    assert [(split.name, split.labelled) for split in task.splits] == [("train", True), ("dev", True), ("test", False)]
    raw = load_raw(task, tmp_path)
    assert raw["dev"].labels == [2, 0, 1, 2, 0, 1]
    assert check_source(task, tmp_path) == []


def test_class_ids_of_a_hub_dataset_become_names_in_any_order(tmp_path: Path, dataset_cache: Path) -> None:
    """Also where one lacks its label, which is said."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows: dict[str, list[object]] = {"text": [f"text {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    for labels, said in ((rows["label"], None), ([None, *rows["label"][1:]], "'label' is empty")):
        folder = tmp_path / f"reviews-{said is None}"
        folder.mkdir()
        datasets.Dataset.from_dict({**rows, "label": labels}, features=features).to_parquet(folder / "train.parquet")
        task_file = tmp_path / "reviews.toml"
        task_file.write_text(f'[data]\ndataset = "{folder.name}"\nlabels = ["pos", "neg"]\n')
        if said is not None:
            assert any(said in problem for problem in problems_of(task_file))
            continue
        task = find_task(str(task_file))
        raw = load_raw(task, tmp_path)
        assert task.labels == ("pos", "neg")
        texts = {
            text: label
            for split in raw.values()
            for text, label in zip(split.sentence1, split.labels or (), strict=True)
        }
        assert texts == {f"text {i}": 1 - i % 2 for i in range(40)}


def test_configurations_and_splits_of_a_hub_dataset_are_listed(tmp_path: Path, dataset_cache: Path) -> None:
    odd = write_dataset(tmp_path / "odd", {"train_a": mails(6), "train_b": mails(6)})
    (problem,) = problems_of(f"hub:{odd}")
    assert "has the splits train_a, train_b; name that for train" in problem
    two = write_dataset(tmp_path / "two", {"train": mails(6)}, "small")
    write_dataset(two, {"train": mails(9)}, "large")
    (problem,) = problems_of(f"hub:{two}")
    assert "has several configurations: small, large; name one in a task file" in problem
    task_file = tmp_path / "mails.toml"
    task_file.write_text('[data]\ndataset = "two"\nconfig = "large"\n')
    assert len(load_raw(find_task(str(task_file)), tmp_path)["train"]) == 6  # of nine, three are held out


def test_everything_wrong_in_a_task_file_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text('naem = "x"\n[data]\ntrian = "train.csv"\nlabels = ["a", "a"]\nmetrics = ["f2"]\ntext = []\n')
    assert sorted(problems_of(path)) == sorted(
        [
            f"{path}: unknown key 'trian' in [data]; did you mean train?",
            f"{path}: text in [data] must be the name of a column, or a list of one or two, but got []",
            f"{path}: labels in [data] must be a list of 2 to 1000 different classes, strings or whole numbers, but "
            'got ["a", "a"]',
            f"{path}: metrics in [data] must be a list of different metrics of accuracy, f1, macro_f1, matthews, "
            'pearson, spearman, but got ["f2"]',
            f"{path}: unknown table or key 'naem'; did you mean name?",
        ]
    )
    path.write_text('[data]\nkind = "regression"\nmetrics = ["accuracy"]\nconfig = "x"\n')
    assert len(problems_of(path)) == 3


GOOD = [(f"text {i}", "ab"[i % 2]) for i in range(20)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("x",)], ["train.csv: no column 'label', only 'text'"]),
        ([(*row, "x") for row in GOOD] + [(" ", "a", "x")], ["train.csv:22: 'text' is empty"]),
        ([*GOOD, ("text", "")], ["train.csv:22: 'label' is empty; every example needs a label"]),
        ([*GOOD, ("text", " ")], ["train.csv:22: 'label' is empty; every example needs a label"]),
        (
            [*GOOD, ("text", "a "), ("text", "A"), ("text", "b\t")],
            [
                "train.csv: 'label' has 'A' and 'a' and 'a ', which differ only in case or surrounding spaces",
                "train.csv: 'label' has 'b' and 'b\\t', which differ",
            ],
        ),
        ([(text, "a") for text, _ in GOOD], ["train.csv: every example has the label 'a'"]),
    ],
    ids=["column", "text", "label", "blank", "spelling", "class"],
)
def test_wrong_rows_are_one_line_each(tmp_path: Path, rows: list[tuple[str, ...]], said: list[str]) -> None:
    header = ("text", "label", "other")[: len(rows[0])]
    write_csv(tmp_path / "t" / "train.csv", rows, header)
    found = problems_of(tmp_path / "t")
    assert len(found) == len(said)
    assert all(f"{tmp_path / 't'}/{line}" in problem for line, problem in zip(said, found, strict=True))


@pytest.mark.parametrize(("label", "labelled"), [(" ", False), ("a", True), ("-1", True)])
def test_a_test_file_is_labelled_where_a_label_is_not_blank(tmp_path: Path, label: str, labelled: bool) -> None:
    """-1 is a class here, and no placeholder."""
    classes = {"a": "a", "b": "-1"}
    write_csv(tmp_path / "t" / "train.csv", [(text, classes[each]) for text, each in GOOD], ("text", "label"))
    write_csv(tmp_path / "t" / "test.csv", [("x", label), ("y", label)], ("text", "label"))
    task = find_task(str(tmp_path / "t"))
    assert task.split("test").labelled == labelled
    assert check_source(task, tmp_path) == []


def test_a_task_file_may_begin_with_a_byte_order_mark_and_lists_no_blank_class(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", GOOD, ("text", "label"))
    (tmp_path / "t.toml").write_text('[data]\ntrain = "train.csv"\nlabels = ["a", "b"]\n', encoding="utf-8-sig")
    assert find_task(str(tmp_path / "t.toml")).labels == ("a", "b")
    (tmp_path / "t.toml").write_text('[data]\ntrain = "train.csv"\nlabels = ["a", " "]\n')
    with pytest.raises(UserError, match="labels in \\[data\\]"):
        find_task(str(tmp_path / "t.toml"))


def test_a_label_of_half_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    lines = [json.dumps({"text": text, "label": label}) for text, label in (*GOOD, ("x", "a\ud83d"))]
    (tmp_path / "t" / "train.jsonl").write_text("\n".join(lines))
    (problem,) = problems_of(tmp_path / "t")
    assert problem.endswith("train.jsonl:21: 'label' is no valid Unicode: half of a character, as of an emoji")


def test_classes_that_differ_in_case_may_be_listed(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "train.csv", [(text, {"a": "us", "b": "US"}[label]) for text, label in GOOD], ("text", "label")
    )
    (tmp_path / "t.toml").write_text('[data]\ntrain = "train.csv"\nlabels = ["us", "US"]\n')
    assert find_task(str(tmp_path / "t.toml")).labels == ("us", "US")


def test_labels_of_dev_must_be_classes_of_train_and_two_of_them(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t" / "train.csv",
        [(text, {"a": "billing", "b": "bug"}[label]) for text, label in GOOD],
        ("text", "label"),
    )
    dev = write_csv(tmp_path / "t" / "dev.csv", [("x", "bug"), ("y", "biling"), ("z", "7")], ("text", "label"))
    assert problems_of(tmp_path / "t") == [
        f"{dev}:3: 'label' is 'biling', which is not a class; did you mean 'billing'?",
        f"{dev}:4: 'label' is '7', which is not a class; there are 'billing', 'bug'",
    ]
    write_csv(dev, [("x", "bug")], ("text", "label"))
    (problem,) = problems_of(tmp_path / "t")
    assert problem == "t dev: every example has the label 'bug'; there must be at least two"


def test_train_and_dev_need_their_labels(tmp_path: Path) -> None:
    task_file = write_tickets(tmp_path)
    write_csv(tmp_path / "dev.csv", ticket_rows(3), ("subject", "body", "Queue"))
    assert problems_of(task_file) == [f"{tmp_path / 'dev.csv'}: no column 'queue', only 'subject', 'body', 'Queue'"]
    write_csv(tmp_path / "dev.csv", [(*row[:2], "") for row in ticket_rows(2)])
    assert [problem.partition(": ")[2] for problem in problems_of(task_file)] == [
        "'queue' is empty; every example needs a label",
        "'queue' is empty; every example needs a label",
    ]
    task_file.write_text(TASK_FILE.replace("dev =", "# dev =") + 'kind = "regression"\n')
    write_csv(tmp_path / "train.csv", [(*row[:2], "") for row in ticket_rows(1)])
    assert problems_of(task_file) == [f"{tmp_path / 'train.csv'}:2: 'queue' is empty, but must be a finite number"]


def test_half_a_character_is_named(tmp_path: Path) -> None:
    """As in a text that was cut in an emoji, which JSON can hold and UTF-8 cannot."""
    task_file = write_tickets(tmp_path, task_file=TASK_FILE.replace("train.csv", "train.jsonl"))
    rows = [dict(zip(("subject", "body", "queue"), row, strict=True)) for row in ticket_rows(14)]
    rows[2]["body"] = "cut \ud83d"
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (problem,) = problems_of(task_file)
    assert problem.startswith(f"{tmp_path / 'train.jsonl'}:3: 'body' is no valid Unicode")


def test_mixed_and_wrong_types_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y", "label": 3}\n')
    (problem,) = problems_of(folder)
    assert problem == f"{folder}/train.jsonl:2: 'label' has strings and numbers, 'a' and 3; use one of them"
    (folder / "train.jsonl").write_text(
        '{"text": "x", "label": 1}\n{"text": 5, "label": 3}\n{"text": 6, "label": 2.5}\n'
    )
    (problem,) = problems_of(folder)
    assert problem.startswith(f"{folder}/train.jsonl:3: 'label' is 2.5; classes are strings or whole numbers")
    (folder / "train.jsonl").write_text('{"text": "x", "label": 1}\n{"text": 5, "label": 3}\n' * 6)
    (problem,) = problems_of(folder)
    assert problem == f"{folder}/train.jsonl:2: 'text' is 5; texts must be strings"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "1_0", "many", ""])
def test_labels_of_a_regression_are_finite(tmp_path: Path, value: str) -> None:
    train = write_csv(tmp_path / "train.csv", [("x", "1.5"), ("y", value), *[("z", "2")] * 9], ("text", "label"))
    (tmp_path / "t.toml").write_text('[data]\ntrain = "train.csv"\nkind = "regression"\n')
    (problem,) = problems_of(tmp_path / "t.toml")
    assert problem.startswith(f"{train}:3: 'label' is {repr(value) if value else 'empty'}, but must be a finite number")


def test_names_of_tasks(tmp_path: Path) -> None:
    write_tickets(tmp_path / "t", task_file=TASK_FILE.replace("tickets", "sst2"))
    (problem,) = problems_of(tmp_path / "t" / "tickets.toml")
    assert "sst2 is the name of a GLUE task" in problem
    assert "has no train.csv" in problems_of(tmp_path)[0]
    assert "cannot be read" in problems_of(tmp_path / "none.toml")[0]
    write_tickets(tmp_path / "u", task_file=TASK_FILE.replace('"tickets"', '"a/b"'))
    assert "the name 'a/b' must be letters" in problems_of(tmp_path / "u" / "tickets.toml")[0]


@pytest.mark.parametrize(
    ("before", "after", "column"),
    [
        ('["subject", "body"]', '["subject", "queue"]', "queue"),
        ('["subject", "body"]\nlabel = "queue"', '"label"', "label"),
        ('text = ["subject", "body"]\nlabel = "queue"', 'label = "text"', "text"),
    ],
)
def test_a_model_does_not_read_the_answer(tmp_path: Path, before: str, after: str, column: str) -> None:
    assert before in TASK_FILE
    task_file = write_tickets(tmp_path, task_file=TASK_FILE.replace(before, after))
    write_csv(tmp_path / "train.csv", ticket_rows(14), ("subject", "body", column))
    (problem,) = problems_of(task_file)
    assert problem == (
        f"{task_file}: the column {column!r} cannot be a text and the label, which a model would then read; name "
        "others in a task file: text = [...] and label = ..."
    )


def test_f1_needs_two_classes(tmp_path: Path) -> None:
    (problem,) = problems_of(write_tickets(tmp_path, task_file=TASK_FILE + 'metrics = ["f1"]\n'))
    assert problem.endswith("the metric f1 is of the second of two classes; for 7 give macro_f1")


def test_a_task_is_what_its_record_says(tmp_path: Path) -> None:
    def again(task: Task) -> Task:
        return task_of_record(json.loads(json.dumps(task, default=json_value)))

    for task in (*TASKS.values(), find_task(str(write_tickets(tmp_path)))):
        assert again(task) == task


def test_one_of_two_texts_may_be_empty(tmp_path: Path) -> None:
    task_file = write_tickets(tmp_path)
    dev = write_csv(tmp_path / "dev.csv", [("", "body", "bug"), ("subject", "", "01"), ("", " ", "01")])
    assert problems_of(task_file) == [f"{dev}:4: 'subject' and 'body' are empty"]
