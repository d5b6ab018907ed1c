"""The files of trials (weights, training states and predictions) in a folder or at a URI that all nodes reach."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow
from pyarrow import fs

from pkd_tune.config import UserError
from pkd_tune.files import CHECKPOINTS, atomic_path
from pkd_tune.tuning.temporary import temporary_folder

REMEDY = "give a folder or URI that all nodes see"
"""Remedy for a folder or URI that cannot be used."""


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """A folder of files that all nodes see, or a URI with a folder for copies of what is being written or read."""

    folder: Path
    """The folder, or that of this process's copies."""
    uri: str | None = None
    """Where the files are, such as `s3://bucket/runs`; None: in the folder."""

    def with_cache_dir(self, folder: Path) -> "ArtifactStore":
        """Returns the store for a process that keeps its copies of files at a URI in another folder."""
        return self if self.uri is None else ArtifactStore(folder, self.uri)

    def path(self, name: str) -> Path:
        """Returns the path of a file, or of its copy, whether it exists or not."""
        return self.folder / name

    def fetch(self, name: str) -> Path:
        """Returns the path of a file; where there is a URI, after downloading it.

        A file that is not at the URI does not exist afterwards: an old copy is removed.
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
        """Makes a file that was written here visible to all nodes: where there is a URI, moves it there."""
        if self.uri is not None:
            try:
                system, there = self._remote(name)
                system.create_dir(there.rpartition("/")[0], recursive=True)
                fs.copy_files(str(self.path(name)), there, destination_filesystem=system)
            finally:
                self.evict(name)

    def evict(self, name: str) -> None:
        """Removes the copy of a file; does nothing where there is no URI."""
        if self.uri is not None:
            self.path(name).unlink(missing_ok=True)

    def evict_all(self) -> None:
        """Removes all copies and their folder; does nothing where there is no URI."""
        if self.uri is not None and self.folder.exists():
            shutil.rmtree(self.folder)

    def delete(self, name: str) -> None:
        """Deletes a file, and its copy."""
        self.path(name).unlink(missing_ok=True)
        if self.uri is not None:
            system, there = self._remote(name)
            if system.get_file_info(there).type is fs.FileType.File:
                system.delete_file(there)

    def names(self) -> set[str]:
        """Returns the names of all files, copies included."""
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
    """Checks that a URI can hold files: writes a small one, reads it back and deletes it.

    Args:
        uri: What was given as --storage.

    Raises:
        UserError: When it cannot.
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
            raise UserError(f"--storage {uri}: files cannot be kept there ({reason}); {REMEDY}") from error
    if not kept:
        raise UserError(f"--storage {uri}: a file written there cannot be read back; {REMEDY}")


def location_of_run(run_dir: Path, storage: str | None, run_id: str) -> str:
    """Returns the folder or URI of a run's files.

    Args:
        run_dir: The run's folder.
        storage: Value of --storage: another folder, or a URI, which holds the files of many runs; None: the
            run's folder.
        run_id: Distinguishes runs of the same task and name; stays the same when a run continues.
    """
    if storage is None:
        return str(run_dir)
    storage = storage if "://" in storage else str(Path(storage).resolve())
    return _below(storage, run_dir.parent.name, f"{run_dir.name}-{run_id}")


@contextmanager
def open_artifacts(location: str) -> Iterator[ArtifactStore]:
    """Yields the store of the run that has this folder or URI for itself.

    For a URI, a temporary folder is made for this process's copies, and removed at the end.
    """
    checkpoints = _below(location, CHECKPOINTS)
    if "://" not in location:
        yield ArtifactStore(Path(checkpoints))
        return
    with temporary_folder(Path(tempfile.gettempdir())) as copies:
        yield ArtifactStore(copies / CHECKPOINTS, checkpoints)


def _below(location: str, *names: str) -> str:
    """Returns a path below a folder or URI; the query of a URI stays at its end."""
    if "://" not in location:
        return str(Path(location, *names))
    root, mark, options = location.partition("?")
    return "/".join([root.rstrip("/"), *names]) + mark + options
