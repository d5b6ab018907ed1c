"""Uploads an exported folder to the Hugging Face hub."""

import shlex
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from pkd_tune.config import UserError
from pkd_tune.data.hub import HubRemedies, hub_failure

_BEFORE_EXPORT = HubRemedies(
    refused="log in (hf auth login) with a token that may write there",
    busy="give the same command again in some minutes",
    broken="give the same command again",
)
"""Nothing is written yet."""

_AFTER_EXPORT = HubRemedies(
    refused="log in (hf auth login) with a token that may write there",
    missing="make the repository again",
    busy="wait some minutes",
    its_error="wait some minutes",
    broken="check the connection",
)
"""Then the export is uploaded by another command: this one would refuse its folder, which is not empty any more."""


def push_problem(repository: str) -> str | None:
    """Returns in one line why nothing can be pushed to a repository, as far as is known without asking the hub.

    Args:
        repository: `OWNER/NAME`.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError:
        return f"--push {repository}: give OWNER/NAME, letters, digits and - _ . only"
    if repository.count("/") != 1:
        return f"--push {repository}: give OWNER/NAME"
    if constants.HF_HUB_OFFLINE:
        return f"--push {repository}: HF_HUB_OFFLINE=1 is set; unset it, or leave out --push"
    if get_token() is None:
        return f"--push {repository}: no token of the Hugging Face hub; log in (hf auth login), or set HF_TOKEN"
    return None


def prepare_repository(repository: str, *, public: bool) -> None:
    """Makes a model repository on the hub unless it is there, so that what refuses a push is known before an export.

    Args:
        repository: `OWNER/NAME`.
        public: Whether everybody may see it.

    Raises:
        UserError: When the hub refuses, is out of reach, or the repository is there with the other visibility.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        private = bool(api.model_info(repository).private)
    except Exception as error:
        if (failure := hub_failure(error, _BEFORE_EXPORT)) is None:
            raise
        raise UserError(f"--push {repository}: the Hugging Face hub {failure}") from error
    if private is public:
        is_now = "private; leave out --public" if public else "public; give --public"
        raise UserError(f"--push {repository}: is there and {is_now}, or give another name")


def push_folder(folder: Path, repository: str) -> str:
    """Uploads a folder as one commit, and returns the address of the repository.

    Args:
        folder: A model folder; all files in it are uploaded.
        repository: From `prepare_repository()`.

    Raises:
        UserError: When the hub refuses or is out of reach; the folder stays.
    """
    try:
        HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"Upload of {folder.name} by pkd_tune"
        )
    except Exception as error:
        if (failure := hub_failure(error, _AFTER_EXPORT)) is None:
            raise
        upload = shlex.join(["hf", "upload", repository, str(folder)])
        raise UserError(
            f"--push {repository}: the Hugging Face hub {failure}, and upload the finished export: {upload}"
        ) from error
    return f"{constants.ENDPOINT}/{repository}"
