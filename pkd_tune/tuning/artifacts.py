"""The files of trials: weights, states and predictions, where every node can reach them."""

import hashlib
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow
from pyarrow import fs

from pkd_tune.config import UserError
from pkd_tune.files import CHECKPOINTS, atomic_path

REMEDY = "give a folder or URI that all nodes see"
"""What to do about a place that does not serve."""


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """A folder of files; where they lie at a URI, the folder only has those that are being written or read here."""

    folder: Path
    """Where this process finds and leaves the files."""
    uri: str | None = None
    """Where other nodes get them from, as `s3://bucket/runs`; None: they see the folder itself."""

    def path(self, name: str) -> Path:
        """Returns where a file lies on this machine, or would."""
        return self.folder / name

    def fetch(self, name: str) -> Path:
        """Returns where a file lies on this machine, after getting the latest from the URI, where there is one.

        What is not at the URI is not here either: a copy of what was deleted there is removed.
        """
        path = self.path(name)
        if self.uri is not None:
            path.unlink(missing_ok=True)
            system, there = self._remote(name)
            if system.get_file_info(there).type is fs.FileType.File:
                with atomic_path(path) as temporary:
                    fs.copy_files(there, str(temporary), source_filesystem=system)
        return path

    def publish(self, name: str) -> None:
        """Lets other nodes see a file that was written here; where there is a URI, it moves there."""
        if self.uri is not None:
            try:
                system, there = self._remote(name)
                system.create_dir(there.rpartition("/")[0], recursive=True)
                fs.copy_files(str(self.path(name)), there, destination_filesystem=system)
            finally:
                self.forget(name)

    def forget(self, name: str) -> None:
        """Removes this machine's copy of a file, where the file itself lies at a URI."""
        if self.uri is not None:
            self.path(name).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Removes this machine's copies of all files, where the files themselves lie at a URI."""
        if self.uri is not None and self.folder.exists():
            shutil.rmtree(self.folder)

    def delete(self, name: str) -> None:
        """Removes a file here and at the URI, where it is there."""
        self.path(name).unlink(missing_ok=True)
        if self.uri is not None:
            system, there = self._remote(name)
            if system.get_file_info(there).type is fs.FileType.File:
                system.delete_file(there)

    def names(self) -> set[str]:
        """Returns the names of all files, here and at the URI."""
        names = {path.name for path in self.folder.iterdir() if path.is_file()} if self.folder.is_dir() else set()
        if self.uri is not None:
            system, there = self._remote("")
            selector = fs.FileSelector(there.rstrip("/"), allow_not_found=True)
            names |= {info.base_name for info in system.get_file_info(selector) if info.type is fs.FileType.File}
        return names

    def _remote(self, name: str) -> tuple[fs.FileSystem, str]:
        system, root = fs.FileSystem.from_uri(self.uri)
        return system, f"{root.rstrip('/')}/{name}"


def check_uri(uri: str) -> None:
    """Makes sure that files can be kept at a URI: writes a small one there, gets it back and deletes it.

    Args:
        uri: What was given as --storage.

    Raises:
        UserError: With the reason why not.
    """
    name = f".pkd_tune-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        artifacts = ArtifactStore(Path(folder), uri)
        try:
            artifacts.path(name).touch()
            artifacts.publish(name)
            kept = artifacts.fetch(name).exists()
            artifacts.delete(name)
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--storage {uri}: no files can be kept there ({reason}); {REMEDY}") from error
    if not kept:
        raise UserError(f"--storage {uri}: what is written there is gone again; {REMEDY}")


def location_of_run(run_dir: Path, storage: str | None, run_id: str) -> str:
    """Returns the folder or URI that a run has for itself.

    Args:
        run_dir: The run's folder.
        storage: What was given as --storage: another folder, or a URI, which holds the files of many runs; None: the
            run's folder is the place.
        run_id: Tells apart the runs of one task and name, wherever their folders lie; a run keeps it.
    """
    if storage is None:
        return str(run_dir)
    storage = storage if "://" in storage else str(Path(storage).resolve())
    return _below(storage, run_dir.parent.name, f"{run_dir.name}-{run_id}")


def open_artifacts(location: str) -> ArtifactStore:
    """Returns the store of the run that has this place for itself."""
    checkpoints = _below(location, CHECKPOINTS)
    if "://" not in location:
        return ArtifactStore(Path(checkpoints))
    key = hashlib.sha256(checkpoints.encode()).hexdigest()[:12]
    return ArtifactStore(Path(tempfile.gettempdir()) / f"pkd_tune-{key}", checkpoints)


def _below(location: str, *names: str) -> str:
    """Returns what lies below a folder or URI; the options that a URI ends with stay its end."""
    if "://" not in location:
        return str(Path(location, *names))
    root, mark, options = location.partition("?")
    return "/".join([root.rstrip("/"), *names]) + mark + options
