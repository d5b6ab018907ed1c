"""Whether the Hugging Face hub can be reached, and pretrained models from a folder, the hub, or its local cache.

Nothing here waits for retries: where the hub is out of reach the process goes offline before any library tries it.
"""

import functools
import os
import ssl
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from huggingface_hub import constants

from pkd_tune.config import UserError

# Never *.bin: PyTorch's pickles run code when they are loaded.
_MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "*.safetensors",
)


def hub_reachable(timeout_s: float = 3.0) -> bool:
    """Whether something answers at the hub's address, asked once per process and address.

    False without asking where HF_HUB_OFFLINE is set. HF_ENDPOINT and the usual proxy variables are honoured.

    Args:
        timeout_s: Longest wait, in seconds, name lookup included.
    """
    if constants.is_offline_mode():
        return False
    return _answers(constants.ENDPOINT, timeout_s)


@functools.cache
def _answers(address: str, timeout_s: float) -> bool:
    answered = threading.Event()
    done = threading.Event()

    def ask() -> None:
        # Only whether anyone answers matters: nothing that is received is used, and the library that downloads
        # later checks certificates with its own list, which may be another one than this machine's.
        context = ssl._create_unverified_context()
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=timeout_s, context=context)
            answered.set()
        except urllib.error.HTTPError:
            answered.set()  # An error page is an answer.
        except (OSError, HTTPException):
            pass  # Nobody there: `answered` stays unset, and that is the result.
        finally:
            done.set()

    # A thread, because the time limit of a connection does not cover the name lookup, which can take half a minute.
    threading.Thread(target=ask, daemon=True).start()
    done.wait(timeout_s)
    return answered.is_set()


def go_offline() -> None:
    """Makes every Hugging Face library in this process and its children use its local cache, without one request.

    The environment variable reaches libraries that are not imported yet and child processes; huggingface_hub, which
    all of them ask at each request, read it when it was imported and so is told as well.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def dataset_cached(repository: str, name: str) -> bool:
    """Whether the `datasets` library has this configuration of a hub dataset ready in its cache."""
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    # <owner>___<dataset>/<configuration>/<version>/<hash>/ is how the library lays its cache out.
    return any((cache / repository.replace("/", "___") / name).glob("*/*/dataset_info.json"))


def find_pretrained(name: str, data_dir: Path) -> Path:
    """The local folder of a pretrained model: config, tokenizer and safetensors weights.

    Looks for the folder `name`, then <data_dir>/models/pretrained/<name>, then on the hub (or, where that is out of
    reach, in the hub's local cache).

    Args:
        name: A folder, or a model's name on the hub ('bert-base-uncased', 'owner/model').
        data_dir: The folder given as --data-dir.

    Raises:
        UserError: It is nowhere to be found, or what is there is not a model.
    """
    for folder in (Path(name), data_dir / "models" / "pretrained" / name):
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise UserError(f"{folder} has no config.json, so it is not a pretrained model's folder")
            return folder
    if _looks_like_path(name):
        raise UserError(f"{name}: this folder does not exist, so no pretrained model can be read from it")
    return _download(name, data_dir)


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "~", "./", "../")) or name in (".", "..") or name.count("/") > 1


def _download(name: str, data_dir: Path) -> Path:
    online = hub_reachable()
    if not online:
        go_offline()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    elsewhere = f"put its folder at {data_dir / 'models' / 'pretrained' / name} (see --data-dir), or try --demo"
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_MODEL_FILES)))
    except HFValidationError as error:
        raise UserError(f"pretrained model {name!r} is neither a folder nor a name the hub could have") from error
    except GatedRepoError as error:
        raise UserError(f"pretrained model {name!r} needs a login on the Hugging Face hub; {elsewhere}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"the Hugging Face hub has no model {name!r}; {elsewhere}") from error
    except LocalEntryNotFoundError as error:
        raise UserError(f"{_out_of_reach(name)}; {elsewhere}") from error
    if not any(folder.glob("*.safetensors")):
        if not online:  # What is in the cache was fetched for its tokenizer or config alone.
            raise UserError(f"{_out_of_reach(name)}; {elsewhere}")
        raise UserError(f"pretrained model {name!r} has no *.safetensors weights, and pickled ones are not loaded")
    return folder


def _out_of_reach(name: str) -> str:
    return f"pretrained model {name!r} is not on this machine and the Hugging Face hub is out of reach"
