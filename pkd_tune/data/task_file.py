"""Tasks of one's own: described in a TOML file, or by a folder or a hub dataset whose columns have the usual names.

    name = "tickets"
    [data]
    train = "train.csv"
    dev = "dev.csv"
    text = ["subject", "body"]
    label = "queue"

`docs/your-data.md` explains each key. Classes that are not listed are those of train, so that train is read here.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError

from pkd_tune.config import HubDataset, Kind, Metric, Task, TaskSplit, UserError
from pkd_tune.data.examples import class_text, label_problems, missing_columns
from pkd_tune.data.hub import class_names, has_dataset, hub_table, open_dataset
from pkd_tune.data.tables import ENDINGS, Table, read_table
from pkd_tune.data.toml_file import Location, StrictTable, message, must_be, read_toml
from pkd_tune.files import expanded

MAX_CLASSES = 1000

CLASS_METRICS: tuple[Metric, ...] = ("accuracy", "f1", "macro_f1", "matthews")
VALUE_METRICS: tuple[Metric, ...] = ("pearson", "spearman")

HUB_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}
"""What the splits of a hub dataset, and the files of a folder, may be called where a task file does not name them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A task as its user describes it; what is not said is found in the data."""

    name: str
    source: str
    """What messages call it: the path of its file, or the flag."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File, or split of the hub dataset, of each part that is named."""
    folder: Path | None = None
    """Folder of the files; None for a hub dataset."""
    hub: HubDataset | None = None
    text: tuple[str, ...] | None = None
    """Text columns; None: `text`, and `text_pair` if there is one."""
    label: str = "label"
    kind: Kind = "classification"
    labels: tuple[str, ...] | None = None
    """Classes in order; None: those of train, sorted."""
    metrics: tuple[Metric, ...] | None = None
    score: Literal["first", "mean"] = "first"


def describe_file(path: Path) -> Description:
    """Returns what a TOML file says of a task.

    Raises:
        UserError: With every problem in the file.
    """
    content = read_toml(path, "task file")
    table = content.get("data")
    if isinstance(table, dict) and "validation" in table and "dev" not in table:
        table["dev"] = table.pop("validation")
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise UserError(
            *(f"{path}: {message(found, _where, _known_keys)}" for found in error.errors(include_url=False))
        ) from error
    if problems := [f"{path}: {problem}" for problem in _cross_field_errors(file)]:
        raise UserError(*problems)
    data, folder = file.data, path.resolve().parent
    hub = None
    if data.dataset is not None:
        local = folder / expanded(data.dataset)
        hub = HubDataset(repository=str(local) if local.is_dir() else data.dataset, config=data.config)
    named = {"train": data.train, "dev": data.dev, "test": data.test}
    return Description(
        name=file.name or path.stem,
        source=str(path),
        files={part: str(expanded(name)) for part, name in named.items() if name is not None},
        folder=folder if hub is None else None,
        hub=hub,
        text=None if data.text is None else (data.text,) if isinstance(data.text, str) else tuple(data.text),
        label=data.label,
        kind=data.kind,
        labels=None if data.labels is None else tuple(map(str, data.labels)),
        metrics=None if data.metrics is None else tuple(data.metrics),
        score=data.score,
    )


def describe_folder(folder: Path) -> Description:
    """Returns the description of a folder with train.csv and perhaps dev.csv (or validation.csv) and test.csv, or files
    of another kind.

    Raises:
        UserError: There is no train file, or several of one part.
    """
    files: dict[str, str] = {}
    for part in HUB_NAMES:
        names = [f"{name}{ending}" for name in HUB_NAMES[part] for ending in ENDINGS]
        found = [name for name in names if (folder / name).is_file()]
        if len(found) > 1:
            raise UserError(f"--task {folder}: has {' and '.join(found)}; keep one, or name it in a task file")
        if found:
            files[part] = found[0]
    if "train" not in files:
        raise UserError(
            f"--task {folder}: has no train.csv (or {', '.join(f'train{ending}' for ending in ENDINGS[1:])}); "
            "give a folder with one, or a task file"
        )
    folder = folder.resolve()
    return Description(name=folder.name, source=f"--task {folder}", files=files, folder=folder)


def describe_hub(repository: str) -> Description:
    """Returns the description of a hub dataset, 'owner/name', or of a local folder that is laid out as one."""
    if (local := expanded(repository)).is_dir():
        repository = str(local.resolve())
    name = repository.rstrip("/").rpartition("/")[2]
    return Description(name=name, source=f"--task hub:{repository}", hub=HubDataset(repository=repository))


def task_of_data(described: Description) -> Task:
    """Returns the task of a description; what it does not say is found in its data.

    Raises:
        UserError: With every problem.
    """
    _check_name(described)
    sources = _tables(described)
    train = sources["train"][1]
    text = _text_columns(described, train)
    if missing := missing_columns(train, [*text, described.label]):
        hint = (
            "" if described.text else f"; name the columns in a task file: text = [...] and label = {described.label!r}"
        )
        raise UserError(*(f"{line}{hint}" for line in missing))
    labels = () if described.kind == "regression" else described.labels or _classes(described, train, sources)
    # Train and dev have labels; where a column of them is missing or empty, reading their examples says so.
    splits = [
        TaskSplit(part=part, file=name, labelled=part != "test" or is_labelled(table, described.label, labels))
        if described.hub is None
        else TaskSplit(part=part, hub=name, labelled=part != "test" or is_labelled(table, described.label, labels))
        for part in ("train", "dev", "test")
        for name, table in ([sources[part]] if part in sources else [])
    ]
    if "dev" not in sources:
        splits.insert(1, TaskSplit(part="dev"))
    return _task(described, text, labels, tuple(splits))


def task_of_model(described: Description, classes: Sequence[str], table: Table) -> Task:
    """Returns the task of a description without splits and without reading its data, which may be elsewhere.

    Args:
        described: The description.
        classes: Those of a model that was trained for it, where the description does not list them.
        table: One to be predicted, which says whether an example has one text or two where the description does not.

    Raises:
        UserError: The name or the metrics do not fit.
    """
    _check_name(described)
    if described.hub is None:  # as where they are found in train, whatever order the model has
        classes = sorted(classes, key=_sort_key)
    labels = () if described.kind == "regression" else described.labels or tuple(classes)
    return _task(described, _text_columns(described, table), labels, ())


def _check_name(described: Description) -> None:
    if not _NAME.fullmatch(described.name):
        raise UserError(
            f"{described.source}: the name {described.name!r} must be letters, digits, '.', '_' and '-', at most 64 "
            'of them; give another in a task file: name = "..."'
        )


def _text_columns(described: Description, table: Table) -> tuple[str, ...]:
    """Returns the columns of the texts.

    Raises:
        UserError: That of the labels is among them.
    """
    text = described.text or (("text", "text_pair") if "text_pair" in table.names else ("text",))
    if described.label in text:
        raise UserError(
            f"{described.source}: the column {described.label!r} cannot be a text and the label, which a model would "
            "then read; name others in a task file: text = [...] and label = ..."
        )
    return text


def _task(
    described: Description, text: tuple[str, ...], labels: tuple[str, ...], splits: tuple[TaskSplit, ...]
) -> Task:
    metrics = described.metrics or (VALUE_METRICS if described.kind == "regression" else ("macro_f1", "accuracy"))
    if "f1" in metrics and len(labels) != 2:
        raise UserError(
            f"{described.source}: the metric f1 is of the second of two classes; for {len(labels)} give macro_f1"
        )
    return Task(
        name=described.name,
        kind=described.kind,
        text=text,
        label=described.label,
        labels=labels,
        raw_labels=labels,
        folder=described.folder,
        hub=described.hub,
        splits=splits,
        metrics=metrics,
        score=described.score,
    )


def _tables(described: Description) -> dict[str, tuple[str, Table]]:
    """Returns the file or hub split of each part, and its columns of text and labels."""
    wanted = [described.label]
    if described.hub is None:
        assert described.folder is not None
        return {part: (name, read_table(described.folder / name, wanted)) for part, name in described.files.items()}
    if not has_dataset(described.hub):
        raise UserError(
            f"{described.source}: {described.hub.repository} is not on this machine, and the Hugging Face hub is out "
            "of reach; give files"
        )
    dataset = open_dataset(described.hub)
    found = {}
    for part, usual in HUB_NAMES.items():
        named = described.files.get(part)
        names = [name for name in ([named] if named else usual) if name in dataset]
        if len(names) == 1:
            found[part] = (names[0], hub_table(dataset, described.hub, names[0], wanted))
        elif names or named or part == "train":
            raise UserError(
                f"{described.source}: {described.hub.repository} has the splits {', '.join(dataset)}; name that for "
                f'{part} in [data] of a task file: {part} = "..."'
            )
    return found


def _classes(described: Description, train: Table, sources: Mapping[str, tuple[str, Table]]) -> tuple[str, ...]:
    """Returns the classes of train: in the order of their ids where they have some, else sorted."""
    if described.hub is not None:
        names = class_names(open_dataset(described.hub)[sources["train"][0]], described.label)
        if names is not None:
            return _checked_classes(described, train, list(names))
    if problems := label_problems(train, described.label):
        raise UserError(*problems)
    values = set(train.columns[described.label])
    _check_spelling(described, train, values)
    return _checked_classes(described, train, [str(value) for value in sorted(values, key=_sort_key)])


def _check_spelling(described: Description, train: Table, values: Collection[Any]) -> None:
    """Refuses classes that are the same but for case and surrounding spaces, unless a task file lists them."""
    spellings: dict[str, list[str]] = {}
    for text in sorted(map(str, values)):
        spellings.setdefault(text.strip().casefold(), []).append(text)
    if alike := [found for found in spellings.values() if len(found) > 1]:
        raise UserError(
            *(
                f"{train.source}: {described.label!r} has {' and '.join(map(repr, found))}, which differ only in case "
                "or surrounding spaces; write them alike, or list the classes in a task file: labels = [...]"
                for found in alike
            )
        )


def _sort_key(value: Any) -> tuple[int, str]:
    """Orders whole numbers by size, also as strings, and other strings after them."""
    text = class_text(value) or ""
    number = re.fullmatch(r"-?\d{1,18}", text)
    return (int(text), text) if number else (10**18, text)


def _checked_classes(described: Description, train: Table, names: Sequence[str]) -> tuple[str, ...]:
    if len(names) < 2:
        raise UserError(
            f"{train.source}: every example has the label {names[0]!r} in {described.label!r}; a task needs two classes"
        )
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{train.source}: {described.label!r} has {len(names):,} different labels, more than {MAX_CLASSES:,}; is "
            'it the right column, or does it hold numbers (kind = "regression")?'
        )
    return tuple(names)


def is_labelled(table: Table, label: str, classes: Sequence[str] = ()) -> bool:
    """Returns whether any example has a label; -1 is the placeholder of the hub, unless it is one of the classes."""
    none = (None, "") if "-1" in classes else (None, "", -1, "-1")
    values = table.columns.get(label, ())
    return any((value.strip() if isinstance(value, str) else value) not in none for value in values)


# The rules of a file.


def _distinct(values: list[Any]) -> list[Any]:
    if len({str(value) for value in values}) < len(values):
        raise ValueError
    return values


Text = Annotated[str, Field(min_length=1), must_be("a string")]
Columns = Annotated[
    Text | Annotated[list[Text], Field(min_length=1, max_length=2), AfterValidator(_distinct)],
    must_be("the name of a column, or a list of one or two"),
]
Classes = Annotated[
    list[Annotated[str, Field(pattern=r"\S")] | int],
    Field(min_length=2, max_length=MAX_CLASSES),
    AfterValidator(_distinct),
    must_be(f"a list of 2 to {MAX_CLASSES} different classes, strings or whole numbers"),
]
Metrics = Annotated[
    list[Metric],
    Field(min_length=1),
    AfterValidator(_distinct),
    must_be(f"a list of different metrics of {', '.join(get_args(Metric))}"),
]


class _Data(StrictTable):
    train: Text | None = None
    dev: Text | None = None
    test: Text | None = None
    dataset: Text | None = None
    config: Text | None = None
    text: Columns | None = None
    label: Text = "label"
    kind: Annotated[Kind, must_be('"classification" or "regression"')] = "classification"
    labels: Classes | None = None
    metrics: Metrics | None = None
    score: Annotated[Literal["first", "mean"], must_be('"first" or "mean"')] = "first"


class _File(StrictTable):
    name: Text | None = None
    data: _Data


def _cross_field_errors(file: _File) -> list[str]:
    """Returns what is wrong between keys."""
    data, found = file.data, []
    if data.dataset is None and data.train is None:
        found.append("train in [data] is missing: give a file, or dataset for one on the Hugging Face hub")
    if data.config is not None and data.dataset is None:
        found.append("config in [data] belongs to dataset, which is missing")
    if data.kind == "regression" and data.labels is not None:
        found.append("labels in [data] are classes, which a regression has not; leave them out")
    fitting = VALUE_METRICS if data.kind == "regression" else CLASS_METRICS
    wrong = [name for name in data.metrics or () if name not in fitting]
    if wrong:
        found.append(f"metrics in [data]: {wrong[0]} is not for {data.kind}; give some of {', '.join(fitting)}")
    return found


def _where(location: Location) -> str:
    """Returns a location in words: `label in [data]`."""
    table, *keys = location
    if table != "data":
        return str(table)
    return f"{keys[0]} in [data]" if keys else "[data]"


def _known_keys(location: Location) -> list[str]:
    return list(_Data.model_fields if location else _File.model_fields)
