"""The Hugging Face hub and its local cache: whether it is reachable, datasets, and pretrained models.

What is on this machine is used without a request. If the hub is out of reach the process goes offline before a library
tries to connect, so nothing waits for retries.
"""

import functools
import os
import re
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants

from pkd_tune.config import HubDataset, Task, UserError
from pkd_tune.data.examples import RawSplit, examples_of
from pkd_tune.data.tables import Table
from pkd_tune.data.tokens import TOKENIZER_FILES, TOKENIZER_MAIN_FILES, file_hash
from pkd_tune.files import machine_failure, read_json

if TYPE_CHECKING:
    import datasets

# Not *.bin: loading a pickle can run code. The model card states the licence.
_MODEL_FILES = ("config.json", *TOKENIZER_FILES, "*.safetensors", "model.safetensors.index.json", "README.md")


def hub_reachable(timeout_s: float = constants.HF_HUB_ETAG_TIMEOUT) -> bool:
    """Returns whether the hub responds; one request per process and address.

    False without a request if HF_HUB_OFFLINE is set. HF_ENDPOINT and the usual proxy variables are honoured.

    Args:
        timeout_s: Timeout in seconds, including name resolution; by default that of the library, 10 seconds unless
            HF_HUB_ETAG_TIMEOUT is set.
    """
    if constants.is_offline_mode():
        return False
    return _answers(constants.ENDPOINT, timeout_s)


@functools.cache
def _answers(address: str, timeout_s: float) -> bool:
    answered = threading.Event()
    done = threading.Event()

    def ask() -> None:
        # Nothing that is received is used, so certificates need no check here; the library that downloads later checks
        # them against its own list, which may differ from the system's.
        context = ssl._create_unverified_context()
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=timeout_s, context=context)
            answered.set()
        except urllib.error.HTTPError:
            answered.set()  # an error status is a response, too
        except (OSError, HTTPException):
            pass  # no response: `answered` stays unset
        finally:
            done.set()

    # A thread, because the timeout of a connection does not cover name resolution, which can take half a minute.
    threading.Thread(target=ask, daemon=True).start()
    done.wait(timeout_s)
    return answered.is_set()


def go_offline() -> None:
    """Makes the Hugging Face libraries in this process and its children use their local caches only.

    The environment variable is read by libraries that are not imported yet and by child processes. huggingface_hub,
    which all of them use for requests, has read it at import, so its constant is set as well.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


@contextmanager
def offline() -> Iterator[None]:
    """Makes the Hugging Face libraries of this process use their local caches only while the block runs."""
    import datasets

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRemedies:
    """What helps where the hub fails; by default, against what keeps a download from its end."""

    refused: str = "log in (hf auth login), and accept the licence on its page"
    missing: str = "check the name"
    busy: str = "wait some minutes, or log in (hf auth login)"
    its_error: str = "give the same command again later"
    broken: str = "the same command downloads what is missing"


def hub_failure(error: BaseException | None, remedies: HubRemedies = HubRemedies()) -> str | None:
    """Returns in one line what the hub did not do and why, and the remedy; None where it was not the hub.

    Args:
        error: What a library raised, perhaps from an answer of the hub or a broken connection.
        remedies: What helps, where something else than a download was asked for.
    """
    broken = None
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return f"refuses it (HTTP {status}); {remedies.refused}"
        if status == 404:
            return f"has no such thing (HTTP 404); {remedies.missing}"
        if status == 429:
            return f"has had too many requests (HTTP 429); {remedies.busy}"
        if status is not None and status >= 500:
            return f"has an error of its own (HTTP {status}); {remedies.its_error}"
        transport = type(error).__module__.startswith(("requests.", "urllib3.", "http"))  # httpx, httpcore, http.client
        if "Consistency check" in str(error):
            broken = f"gave a file of another size than it has; {remedies.broken}"
        elif transport or isinstance(error, ConnectionError | TimeoutError):
            # The library has tried five times, from where the download broke off.
            broken = f"broke off ({type(error).__name__}); {remedies.broken}"
        error = error.__cause__ or error.__context__
    return broken


def dataset_cached(dataset: HubDataset) -> bool:
    """Returns whether a hub dataset is in the cache of the `datasets` library."""
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    # The layout of the cache: <owner>___<dataset>/<configuration>/<version>/<hash>/, the dataset in snake case.
    *owner, name = dataset.repository.split("/")
    config = "*" if dataset.config is None else dataset.config
    folder = cache / "___".join([*owner, _snake_case(name)])
    return any(folder.glob(f"{config}/*/*/dataset_info.json"))


def _snake_case(name: str) -> str:
    """Returns a name as the `datasets` library spells it in its cache: `SetFit` as `set_fit`, `CR` as `cr`."""
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def has_dataset(dataset: HubDataset) -> bool:
    """Returns whether a hub dataset is a local folder, in the local cache, or on a hub that can be reached."""
    return Path(dataset.repository).is_dir() or dataset_cached(dataset) or hub_reachable()


@functools.cache
def open_dataset(dataset: HubDataset) -> "datasets.DatasetDict":
    """Returns a hub dataset with all its splits, from the local cache where it is there.

    Loaded once per process.

    Raises:
        UserError: The dataset cannot be loaded, or has several configurations of which none is named.
    """
    cached = dataset_cached(dataset)
    if not cached and not Path(dataset.repository).is_dir() and not hub_reachable():
        go_offline()
    import datasets

    try:
        with offline() if cached else nullcontext():
            if dataset.config is None:
                configs = datasets.get_dataset_config_names(dataset.repository)
                if len(configs) > 1:
                    raise UserError(
                        f"{dataset.repository} has several configurations: {', '.join(configs)}; name one in a task "
                        f'file: dataset = "{dataset.repository}" and config = "..." in [data]'
                    )
            loaded = datasets.load_dataset(dataset.repository, dataset.config)
        if cached or Path(dataset.repository).is_dir() or not (damaged := _damaged_dataset(dataset)):
            return loaded
        for folder in {Path(file["filename"]).parent for files in loaded.cache_files.values() for file in files}:
            shutil.rmtree(folder)  # made of what was damaged
        raise UserError(_other_content(dataset, damaged))
    except UserError:
        raise
    except Exception as error:
        if not cached and (damaged := _damaged_dataset(dataset)):
            raise UserError(_other_content(dataset, damaged)) from error
        if failure := hub_failure(error):
            raise UserError(
                f"{dataset.repository}: the Hugging Face hub {failure}; or put the files below --data-dir"
            ) from error
        if machine_failure(error):
            raise
        reason = " ".join(str(error).split())
        if not isinstance(error, OSError | ValueError | datasets.exceptions.DatasetsError):
            if cached or Path(dataset.repository).is_dir():
                raise
            reason = f"the Hugging Face hub gave an answer that cannot be read ({type(error).__name__}: {reason})"
        raise UserError(f"{_dataset_name(dataset)} cannot be loaded: {reason}") from error


def _other_content(dataset: HubDataset, damaged: Sequence[str]) -> str:
    return (
        f"{dataset.repository}: the Hugging Face hub gave another content than it says for {', '.join(damaged)}; the "
        "same command downloads what is missing; or put the files below --data-dir"
    )


def _damaged_dataset(dataset: HubDataset) -> list[str]:
    """Removes downloaded files of a dataset that are not what the hub says they are, and returns their names."""
    repository = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.repository.replace('/', '--')}"
    return sorted({name for snapshot in (repository / "snapshots").glob("*") for name in _damaged(snapshot)})


def open_task_dataset(task: Task) -> "datasets.DatasetDict":
    """Returns the dataset from which a task without files is taken.

    Raises:
        UserError: It cannot be loaded, or its splits, columns or classes are not those of the task.
    """
    assert task.hub is not None
    dataset, called = open_dataset(task.hub), _dataset_name(task.hub)
    for split in (split for split in task.splits if split.hub):
        if split.hub not in dataset:
            raise UserError(f"{called} has no split {split.hub!r}, only {', '.join(dataset)}")
        columns = dataset[split.hub].column_names
        for column in (*task.text, *([task.label] if split.labelled else [])):
            if column not in columns:
                raise UserError(f"{called} has no column {column!r} in {split.hub!r}, only {', '.join(columns)}")
        # A benchmark's ids are taken as they are; those of other tasks become names, in whatever order.
        names = class_names(dataset[split.hub], task.label)
        if names is not None and (names != task.labels if task.benchmark else {*names} != {*task.labels}):
            raise UserError(f"{called} has the classes {list(names)} in {split.hub!r}, but needs {list(task.labels)}")
    return dataset


def class_names(split: "datasets.Dataset", column: str) -> tuple[str, ...] | None:
    """Returns the names of the classes of a column of class ids; None where it is no such column, or not there."""
    names = getattr(split.features.get(column), "names", None)
    return None if names is None else tuple(names)


def hub_table(dataset: "datasets.DatasetDict", source: HubDataset, split: str, columns: Sequence[str]) -> Table:
    """Returns columns of a split as strings or numbers; class ids have become class names, as far as they have one."""
    found: dict[str, list[Any]] = {}
    for name in columns:
        if name in dataset[split].column_names:
            names, values = class_names(dataset[split], name), dataset[split][name][:]
            if names is not None:
                values = [_class_name(value, names) for value in values]
            found[name] = values
    return Table(f"{_dataset_name(source)}, {split!r}", tuple(dataset[split].column_names), found)


def _class_name(value: int | None, names: Sequence[str]) -> str | None:
    return None if value is None else names[value] if 0 <= value < len(names) else str(value)


def read_dataset(task: Task, dataset: "datasets.DatasetDict") -> tuple[dict[str, RawSplit], list[str]]:
    """Returns the splits of a dataset from `open_task_dataset` by their names in the task, and what is wrong with them.

    Labels of unlabelled splits are dropped: for GLUE's test splits they are placeholders of -1, except for MRPC.
    """
    assert task.hub is not None
    raw, problems = {}, []
    for split in (split for split in task.splits if split.hub):
        columns = [*task.text, *([task.label] if split.labelled else [])]
        table = hub_table(dataset, task.hub, split.hub, columns)
        texts = task.raw_labels if class_names(dataset[split.hub], task.label) is None else task.labels
        raw[split.name], wrong = examples_of(task, table, labelled=split.labelled, class_texts=texts)
        problems += wrong
    return raw, problems


def _dataset_name(dataset: HubDataset) -> str:
    return dataset.repository if dataset.config is None else f"{dataset.repository}: {dataset.config!r}"


def find_pretrained(name: str, data_dir: Path) -> Path:
    """Returns the local folder of a pretrained model: config, tokenizer and safetensors weights.

    Looks for the folder `name`, then <data_dir>/models/pretrained/<name>, then in the hub's local cache, then on the
    hub.

    Args:
        name: A folder, or the name of a model on the hub ('bert-base-uncased', 'owner/model').
        data_dir: The folder given as --data-dir.

    Raises:
        UserError: The model is not found, or the folder does not contain a model.
    """
    for folder in (Path(name), data_dir / "models" / "pretrained" / name):
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise UserError(f"{folder} has no config.json, so it is not a model folder")
            return folder
    if _looks_like_path(name):
        raise UserError(f"{name}: this folder does not exist; give the folder or the hub name of a pretrained model")
    return _download(name, data_dir)


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "~", "./", "../")) or name in (".", "..") or name.count("/") > 1


def _cached(name: str) -> Path | None:
    """Returns the folder of a model in the hub's local cache; None unless it is whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_MODEL_FILES), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    tokenizer = any((folder / file).is_file() for file in TOKENIZER_MAIN_FILES)
    index = folder / "model.safetensors.index.json"
    shards = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    whole = tokenizer and all((folder / file).is_file() for file in ("config.json", *shards))
    return folder if whole else None


def _download(name: str, data_dir: Path) -> Path:
    if (found := _cached(name)) is not None:
        return found
    online = hub_reachable()
    if not online:
        go_offline()
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    elsewhere = f"put its folder at {data_dir / 'models' / 'pretrained' / name} (see --data-dir), or try --demo"
    try:
        if online:  # otherwise snapshot_download() would hide a refusal behind half a model in the cache
            HfApi().model_info(name, revision="main", timeout=constants.HF_HUB_ETAG_TIMEOUT)
        folder = Path(snapshot_download(name, allow_patterns=list(_MODEL_FILES)))
    except HFValidationError as error:
        raise UserError(f"pretrained model {name!r} is neither a folder nor a valid model name on the hub") from error
    except GatedRepoError as error:
        raise UserError(
            f"pretrained model {name!r} needs a login on the Hugging Face hub (hf auth login); {elsewhere}"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"the Hugging Face hub has no model {name!r}; {elsewhere}") from error
    except Exception as error:
        if failure := hub_failure(error) if online else None:
            raise UserError(f"pretrained model {name!r}: the Hugging Face hub {failure}; or {elsewhere}") from error
        if isinstance(error, LocalEntryNotFoundError):
            raise UserError(f"{_out_of_reach(name)}; {elsewhere}") from error
        if not online or machine_failure(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"pretrained model {name!r}: the Hugging Face hub gave an answer that cannot be read ({reason}); give the "
            f"same command again later, or {elsewhere}"
        ) from error
    if online and (damaged := _damaged(folder)):
        raise UserError(
            f"pretrained model {name!r}: the Hugging Face hub gave another content than it says for "
            f"{', '.join(damaged)}; the same command downloads what is missing; or {elsewhere}"
        )
    if not any(folder.glob("*.safetensors")):
        if not online:  # the cache has only its config or tokenizer
            raise UserError(f"{_out_of_reach(name)}; {elsewhere}")
        raise UserError(f"pretrained model {name!r} has no *.safetensors weights, and pickled weights are not loaded")
    return folder


def _damaged(folder: Path) -> list[str]:
    """Removes downloaded files that are not what the hub says they are from its local cache, and returns their names.

    A large file in the cache is a link to one that has its SHA-256 as its name.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        stored = path.resolve()
        if stored.is_file() and re.fullmatch("[0-9a-f]{64}", stored.name) and file_hash(stored) != stored.name:
            stored.unlink()
            path.unlink()
            found.append(path.relative_to(folder).as_posix())
    return found


def _out_of_reach(name: str) -> str:
    return f"pretrained model {name!r} is not on this machine, and the Hugging Face hub is out of reach"
