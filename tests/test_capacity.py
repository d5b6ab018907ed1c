import json
from dataclasses import replace
from pathlib import Path

import pytest

from pkd_tune import capacity
from pkd_tune.capacity import SEARCH_BYTES, cpu_bytes, fitting, free_bytes, per_gpu
from pkd_tune.config import SearchConfig
from pkd_tune.request import Request
from pkd_tune.search import make_parser, resolve
from pkd_tune.tuning.arms import Arm, Plan
from pkd_tune.tuning.slots import Slots

EIGHT = Slots(device="cpu", count=8)


@pytest.fixture
def request_(tiny_data: Path, tiny_space: Path, tmp_path: Path) -> Request:
    flags = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny", "--depths", "1"]
    flags += ["--space", str(tiny_space), "--out", str(tmp_path / "results")]
    return resolve(make_parser().parse_args(flags), flags)


def plans(quota: int) -> list[Plan]:
    return [Plan(arm=Arm(1, "pkd"), quota=quota, parameters={})]


def with_shape(config: SearchConfig, folder: Path, width: int, layers: int, depth: int) -> SearchConfig:
    folder.mkdir()
    shape = {"vocab_size": 30522, "max_position_embeddings": 512, "hidden_size": width, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps({**shape, "intermediate_size": 4 * width}))
    return replace(config, data=replace(config.data, student_dir=folder), depths=(1, depth))


def test_a_trial_needs_what_was_measured_and_a_larger_model_more(request_: Request, tmp_path: Path) -> None:
    """Of a BERT of 6 layers, 384 wide, a student of 3 was seen to hold 1.3 GB, and one of all 6, 1.4 GB."""
    small, whole, base = (
        cpu_bytes(with_shape(request_.config, tmp_path / f"{depth} of {layers}", width, layers, depth))
        for width, layers, depth in ((384, 6, 3), (384, 6, 6), (768, 12, 6))
    )
    assert 1.2e9 < small < 1.5e9
    assert 1.4e9 < whole < 1.7e9
    assert 3e9 < base < 4.5e9


def test_trials_take_the_cores_that_others_leave(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda: 10**12)
    assert fitting(request_, EIGHT, plans(40)) == EIGHT
    assert fitting(request_, EIGHT, plans(3)) == Slots(device="cpu", count=3, threads=2)
    confirming = replace(request_, config=replace(request_.config, seeds=4))
    assert fitting(confirming, EIGHT, plans(3)) == Slots(device="cpu", count=4, threads=2)
    cluster = replace(request_, address="auto")
    assert fitting(cluster, EIGHT, plans(3)) == EIGHT  # whose memory this machine does not know


def test_a_config_that_says_little_is_a_bert_base(request_: Request, tmp_path: Path) -> None:
    whole = with_shape(request_.config, tmp_path / "whole", 768, 12, 6)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "bert"}')
    bare = replace(whole, data=replace(whole.data, student_dir=tmp_path / "bare"))
    assert cpu_bytes(bare) == cpu_bytes(whole)


def test_what_a_container_has_left_counts(tmp_path: Path) -> None:
    """Of its limit, what programs in it use is taken, and what it holds of files is not."""
    for name, files in {
        "none": {"memory.max": "max\n", "memory.current": "3000\n"},
        "second": {
            "memory.max": "4000000000\n",
            "memory.current": "1000000000\n",
            "memory.stat": "anon 700000000\nactive_file 100000000\ninactive_file 200000000\n",
        },
        "first": {
            "memory.limit_in_bytes": "4000000000\n",
            "memory.usage_in_bytes": "1000000000\n",
            "memory.stat": "active_file 1\ninactive_file 2\ntotal_active_file 0\ntotal_inactive_file 300000000\n",
        },
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    free = free_bytes([tmp_path / "none", tmp_path / "missing"])
    for version in ("first", "second"):
        assert free > free_bytes([tmp_path / version]) == 0.9 * 3_300_000_000 - SEARCH_BYTES


def test_no_more_trials_run_at_once_than_memory_has_room_for(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda: 2 * cpu_bytes(request_.config) + 1)
    assert fitting(request_, EIGHT, plans(40)) == Slots(device="cpu", count=2, threads=4)
    assert "memory has room for 2 trials at once" in capsys.readouterr().err
    monkeypatch.setattr(capacity, "free_bytes", lambda: 1)
    assert fitting(request_, EIGHT, plans(40)).count == 1


def test_a_gpu_takes_as_many_trials_as_it_has_memory_and_cores_for() -> None:
    assert per_gpu(total=80_000_000_000, peak=11_400_000_000, cores=16) == 4  # six would fit, but four are enough
    assert per_gpu(total=24_000_000_000, peak=6_600_000_000, cores=16) == 3
    assert per_gpu(total=80_000_000_000, peak=1_000_000_000, cores=2) == 2
    assert per_gpu(total=8_000_000_000, peak=9_000_000_000, cores=8) == 1
