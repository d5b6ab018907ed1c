from contextlib import ExitStack
from pathlib import Path

import pytest

from pkd_tune.config import UserError
from pkd_tune.tuning.artifacts import ArtifactStore, check_uri, location_of_run, open_artifacts


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[ArtifactStore, ArtifactStore]:
    """Returns the stores of two machines that share a URI and no folder."""
    uri = f"file://{tmp_path}/far/away"
    one, two = ArtifactStore(tmp_path / "one", uri), ArtifactStore(tmp_path / "two", uri)
    one.folder.mkdir()
    return one, two


def test_what_one_node_publishes_another_fetches(nodes: tuple[ArtifactStore, ArtifactStore]) -> None:
    one, two = nodes
    one.path("weights").write_bytes(b"first")
    assert not two.fetch("weights").exists()
    one.publish("weights")
    assert two.names() == {"weights"}
    assert two.fetch("weights").read_bytes() == b"first"
    one.path("weights").write_bytes(b"second")
    one.publish("weights")
    assert two.fetch("weights").read_bytes() == b"second"


def test_what_is_deleted_is_gone_everywhere(nodes: tuple[ArtifactStore, ArtifactStore]) -> None:
    one, two = nodes
    one.path("weights").write_bytes(b"first")
    one.publish("weights")
    assert one.fetch("weights").exists()
    two.delete("weights")
    assert not one.fetch("weights").exists()  # nor what was fetched before
    assert one.names() == two.names() == set()
    two.delete("weights")  # once more does no harm


def test_copies_do_not_stay(nodes: tuple[ArtifactStore, ArtifactStore]) -> None:
    one, two = nodes
    one.path("weights").write_bytes(b"first")
    one.publish("weights")
    assert list(one.folder.iterdir()) == []
    two.fetch("weights")
    two.evict("weights")
    assert list(two.folder.iterdir()) == []
    two.fetch("weights")
    two.evict_all()
    two.evict_all()  # once more does no harm
    assert not two.folder.exists()
    assert two.fetch("weights").read_bytes() == b"first"


def test_what_cannot_be_published_does_not_stay_either(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    artifacts = ArtifactStore(tmp_path / "one", f"file://{tmp_path}/file/below")
    artifacts.folder.mkdir()
    artifacts.path("weights").write_bytes(b"first")
    with pytest.raises(OSError, match="file/below"):
        artifacts.publish("weights")
    assert list(artifacts.folder.iterdir()) == []


def test_a_uri_where_files_can_be_kept_is_left_as_it_was(tmp_path: Path) -> None:
    check_uri(f"file://{tmp_path}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("foo://bar", r"files cannot be kept there \(Unrecognized filesystem type"),
        ("file://{}/file/below", r"files cannot be kept there \(.*Not a directory"),
        ("mock:///memory", "a file written there cannot be read back"),  # it is another one each time
    ],
)
def test_a_uri_that_does_not_serve_is_one_clear_line(tmp_path: Path, uri: str, says: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--storage .*{says}.*; give a folder or URI that all nodes see") as raised:
        check_uri(uri.format(tmp_path))
    (problem,) = raised.value.problems
    assert "\n" not in problem


def test_a_shared_folder_needs_no_copies(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path)
    assert artifacts.fetch("weights") == tmp_path / "weights"
    artifacts.path("weights").write_bytes(b"first")
    artifacts.publish("weights")
    artifacts.evict("weights")
    artifacts.evict_all()
    assert artifacts.names() == {"weights"}
    artifacts.delete("weights")
    assert artifacts.names() == set()
    assert ArtifactStore(tmp_path / "nowhere").names() == set()


def test_without_storage_the_files_of_a_run_lie_in_its_folder(tmp_path: Path) -> None:
    assert location_of_run(tmp_path, None, "1f") == str(tmp_path)
    with open_artifacts(str(tmp_path)) as artifacts:
        assert artifacts == ArtifactStore(tmp_path / "checkpoints")


@pytest.mark.parametrize("storage", ["shared", "s3://bucket/runs/", "s3://bucket/runs?region=us-east-2"])
def test_every_run_has_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    """Be it of another task, name or --out; the same run finds it again, from wherever the command is given."""
    monkeypatch.chdir(tmp_path)
    runs = [Path(out, task, name) for out in "ab" for task in ("MRPC", "RTE") for name in ("minilm", "minilm-2")]
    places = [location_of_run(run, storage, f"{number:x}") for number, run in enumerate(runs)]
    with ExitStack() as stack:
        artifact_stores = [stack.enter_context(open_artifacts(location)) for location in places]
    assert len(set(places)) == len({(artifacts.folder, artifacts.uri) for artifacts in artifact_stores}) == len(runs)
    assert places[0] == location_of_run(runs[0], storage, "0")
    assert (
        places[0]
        == {
            "shared": f"{tmp_path}/shared/MRPC/minilm-0",
            "s3://bucket/runs/": "s3://bucket/runs/MRPC/minilm-0",
            "s3://bucket/runs?region=us-east-2": "s3://bucket/runs/MRPC/minilm-0?region=us-east-2",
        }[storage]
    )
