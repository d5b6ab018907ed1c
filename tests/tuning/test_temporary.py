"""Temporary folders: private, and gone even after their process was killed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from pkd_tune.tuning.temporary import temporary_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from pkd_tune.tuning.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "file").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_is_private_and_goes_with_its_process_or_at_the_next_start(tmp_path: Path) -> None:
    foreign = [tmp_path / "pkd-of-somebody-else", tmp_path / "pkd-file"]
    foreign[0].mkdir()
    foreign[1].touch()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    (left,) = set(tmp_path.iterdir()) - set(foreign)
    assert (left / "file").exists()
    with temporary_folder(tmp_path) as first, temporary_folder(tmp_path) as second:
        assert set(tmp_path.iterdir()) == {first, second, *foreign}
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
        assert first.stat().st_uid == os.getuid()
    assert set(tmp_path.iterdir()) == set(foreign)
