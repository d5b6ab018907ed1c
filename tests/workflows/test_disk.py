import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pkd_tune.config import UserError
from pkd_tune.workflows.capacity import check_disk


def test_what_a_run_has_already_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, best = tmp_path / "checkpoints", tmp_path / "best"  # on one disk
    check_disk({run: 1000, best: 1000})
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as change:
        change.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 10**9))
        check_disk({run: 10**9, best: 10**9})
        totals = {run: 3 * 10**9, best: 10**9}
        with pytest.raises(
            UserError, match=rf"{run}: .* need 4.0 GB more .* 2.0 GB are free; give --storage, or --out"
        ):
            check_disk(totals)
        for folder, held in ((run, 10**9 + 1), (best / "3-layer", 10**9)):
            folder.mkdir(parents=True)
            with (folder / "weights").open("wb") as file:
                file.truncate(held)
        check_disk(totals)
        with pytest.raises(UserError, match=r"need 3.0 GB more"):
            check_disk({run: 4 * 10**9, best: 0})  # what best/ holds is of no use to the other


def test_each_disk_has_room_of_its_own(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    room = shutil.disk_usage(tmp_path).free // 2
    with pytest.raises(UserError, match="/dev/shm/best"):
        check_disk({tmp_path / "run": room, memory / "best": 2 * shutil.disk_usage(memory).free})
