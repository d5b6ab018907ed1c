"""The Hugging Face hub and its local cache: whether it is reachable, datasets, and pretrained models.

What is on this machine is used without a request. If the hub is out of reach the process goes offline before a library
tries to connect, so nothing waits for retries.
"""

import functools
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants

from pkd_tune.config import UserError
from pkd_tune.data.task import Task
from pkd_tune.data.tsv import RawSplit
from pkd_tune.files import machine_failure, read_json

if TYPE_CHECKING:
    import datasets

# Not *.bin: loading a pickle can run code.
_MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "*.safetensors",
)


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


def hub_failure(error: BaseException | None) -> str | None:
    """Returns in one line why the hub did not give something, and the remedy; None where it was not the hub.

    Args:
        error: What a library raised, perhaps from an answer of the hub or a broken connection.
    """
    broken = None
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return f"refuses it (HTTP {status}); log in (hf auth login), and accept the licence on its page"
        if status == 404:
            return "has no such thing (HTTP 404); check the name"
        if status == 429:
            return "has had too many requests (HTTP 429); wait some minutes, or log in (hf auth login)"
        if status is not None and status >= 500:
            return f"has an error of its own (HTTP {status}); give the same command again later"
        transport = type(error).__module__.startswith(("requests.", "urllib3.", "http"))  # httpx, httpcore, http.client
        if transport or isinstance(error, ConnectionError | TimeoutError) or "Consistency check" in str(error):
            broken = f"broke off ({type(error).__name__}); the same command resumes the download"
        error = error.__cause__ or error.__context__
    return broken


def dataset_cached(repository: str, name: str) -> bool:
    """Returns whether a configuration of a hub dataset is in the cache of the `datasets` library."""
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    # The layout of the cache: <owner>___<dataset>/<configuration>/<version>/<hash>/.
    return any((cache / repository.replace("/", "___") / name).glob("*/*/dataset_info.json"))


@functools.cache
def open_dataset(task: Task, repository: str) -> "datasets.DatasetDict":
    """Returns the task's configuration of a hub dataset, from the local cache where it is there.

    Loaded once per process.

    Args:
        task: The task.
        repository: A dataset on the hub, or a local folder with the same layout.

    Raises:
        UserError: The dataset cannot be loaded, or its splits, columns or classes are not those of the task.
    """
    cached = dataset_cached(repository, task.hub_name)
    if not cached and not Path(repository).is_dir() and not hub_reachable():
        go_offline()
    import datasets

    try:
        with offline() if cached else nullcontext():
            dataset = datasets.load_dataset(repository, task.hub_name)
    except Exception as error:
        if failure := hub_failure(error):
            raise UserError(
                f"{repository}: the Hugging Face hub {failure}; or put the files below --data-dir"
            ) from error
        if machine_failure(error) or not isinstance(error, OSError | ValueError | datasets.exceptions.DatasetsError):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"{repository}: cannot load {task.hub_name!r} of this dataset: {reason}") from error
    config = f"{repository}: {task.hub_name!r}"
    for hub_split in (split.hub for split in task.splits):
        if hub_split not in dataset:
            raise UserError(f"{config} has no split {hub_split!r}, only {', '.join(dataset)}")
        columns = dataset[hub_split].column_names
        for column in (*task.hub_sentences, "label"):
            if column not in columns:
                raise UserError(f"{config} has no column {column!r} in {hub_split!r}, only {', '.join(columns)}")
        # With another order of classes, training and scoring would work and silently mean something else.
        names = getattr(dataset[hub_split].features["label"], "names", [])
        if names != list(task.labels):
            raise UserError(f"{config} has the classes {names} in {hub_split!r}, but needs {list(task.labels)}")
    return dataset


def read_dataset(task: Task, dataset: "datasets.DatasetDict") -> dict[str, RawSplit]:
    """Returns all splits of a dataset from `open_dataset` by their names in the task; test splits have no labels.

    Raises:
        UserError: A label is out of range.
    """
    raw = {}
    for split in task.splits:
        columns = [dataset[split.hub][column][:] for column in task.hub_sentences]
        # The test labels of the hub are dropped: they are placeholders of -1, except for MRPC.
        labels = None if split.layout.label is None else dataset[split.hub]["label"][:]
        low, high = task.value_range or (0, task.outputs - 1)
        for row, label in enumerate(labels or ()):
            if not low <= label <= high:
                where = f"{task.hub_name!r} from the hub: row {row} of {split.hub!r}"
                raise UserError(f"{where} has the label {label}, but must be in {low:g} to {high:g}")
        raw[split.name] = RawSplit(columns[0], columns[1] if len(columns) == 2 else None, labels)
    return raw


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
    tokenizer = any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt"))
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
        if not isinstance(error, LocalEntryNotFoundError):
            raise
        raise UserError(f"{_out_of_reach(name)}; {elsewhere}") from error
    if not any(folder.glob("*.safetensors")):
        if not online:  # the cache has only its config or tokenizer
            raise UserError(f"{_out_of_reach(name)}; {elsewhere}")
        raise UserError(f"pretrained model {name!r} has no *.safetensors weights, and pickled weights are not loaded")
    return folder


def _out_of_reach(name: str) -> str:
    return f"pretrained model {name!r} is not on this machine, and the Hugging Face hub is out of reach"
