import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emulated_graphs import emulated_graphs
from requests_of import search_request

from pkd_tune.config import SearchConfig, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.batch_source import resident_bytes
from pkd_tune.distillation.memory import release_memory
from pkd_tune.distillation.student import ModelPool, compute_teacher_outputs
from pkd_tune.distillation.train_step import TrainStep
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.workflows import capacity
from pkd_tune.workflows.capacity import (
    SEARCH_BYTES,
    check_disk,
    cpu_bytes,
    fitting,
    free_bytes,
    measured_per_gpu,
    outputs_to_come,
    per_gpu,
    train_as_a_trial,
)
from pkd_tune.workflows.request import SearchRequest
from pkd_tune.workflows.search import prepare

EIGHT = Resources(cpu_trials=8)


@pytest.fixture
def request_(tiny_data: Path, tiny_space: Path, tmp_path: Path) -> SearchRequest:
    flags = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny", "--depths", "1"]
    flags += ["--space", str(tiny_space), "--out", str(tmp_path / "results")]
    return search_request(*flags)


def plans(quota: int) -> list[StudyPlan]:
    return [StudyPlan(study_key=StudyKey(1, "pkd"), quota=quota, parameters={})]


def with_shape(config: SearchConfig, folder: Path, width: int, layers: int, depth: int) -> SearchConfig:
    folder.mkdir()
    sizes = {"vocab_size": 30522, "max_position_embeddings": 512, "hidden_size": width, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps({**sizes, "model_type": "bert", "intermediate_size": 4 * width}))
    return replace(config, data=replace(config.data, student_dir=folder), depths=(1, depth))


def test_a_trial_needs_what_was_measured_and_a_larger_model_more(request_: SearchRequest, tmp_path: Path) -> None:
    """Of a BERT of 6 layers, 384 wide, a student of 3 was seen to hold 1.3 GB, and one of all 6, 1.4 GB."""
    small, whole, base = (
        cpu_bytes(with_shape(request_.config, tmp_path / f"{depth} of {layers}", width, layers, depth))
        for width, layers, depth in ((384, 6, 3), (384, 6, 6), (768, 12, 6))
    )
    assert 1.2e9 < small < 1.5e9
    assert 1.4e9 < whole < 1.7e9
    assert 3e9 < base < 4.5e9


def test_trials_take_the_cores_that_others_leave(request_: SearchRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda: 10**12)
    assert fitting(request_, EIGHT, plans(40)) == EIGHT
    assert fitting(request_, EIGHT, plans(3)) == Resources(cpu_trials=3, threads=2)
    confirming = replace(request_, config=replace(request_.config, seeds=4))
    assert fitting(confirming, EIGHT, plans(3)) == Resources(cpu_trials=4, threads=2)
    cluster = replace(request_, options=replace(request_.options, address="auto"))
    assert fitting(cluster, EIGHT, plans(3)) == EIGHT  # whose memory this machine does not know


def test_a_config_that_says_little_is_a_bert_base(request_: SearchRequest, tmp_path: Path) -> None:
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
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(capacity, "free_bytes", lambda: 2 * cpu_bytes(request_.config) + 1)
    assert fitting(request_, EIGHT, plans(40)) == Resources(cpu_trials=2, threads=4)
    assert "memory has room for 2 trials at once" in caplog.text
    monkeypatch.setattr(capacity, "free_bytes", lambda: 1)
    assert fitting(request_, EIGHT, plans(40)).count == 1


def test_a_gpu_takes_as_many_trials_as_it_has_memory_and_cores_for() -> None:
    assert per_gpu(free=80_000_000_000, peak=11_400_000_000, data=0, cores=16) == 4  # six would fit: four are enough
    assert per_gpu(free=24_000_000_000, peak=6_600_000_000, data=0, cores=16) == 3
    assert per_gpu(free=80_000_000_000, peak=1_000_000_000, data=0, cores=2) == 2
    assert per_gpu(free=8_000_000_000, peak=9_000_000_000, data=0, cores=8) == 1


def test_examples_count_for_the_trials_that_keep_them_on_the_gpu() -> None:
    assert per_gpu(free=24_000_000_000, peak=6_600_000_000, data=1_000_000_000, cores=16) == 2  # three would keep 3 GB
    assert per_gpu(free=24_000_000_000, peak=6_600_000_000, data=2_500_000_000, cores=16) == 3  # too much to keep
    assert per_gpu(free=24_000_000_000, peak=18_000_000_000, data=5_000_000_000, cores=16) == 1


def test_what_the_teacher_will_say_is_known_in_advance(request_: SearchRequest) -> None:
    """Against what it says, once it was asked."""
    config = request_.config
    data = config.data
    split = load_features(TASKS["MRPC"], data.data_dir, data.student_dir, data.max_length)["train"]
    teacher = prepare(request_, EIGHT, request_.out, {})
    said = compute_teacher_outputs(data, teacher.folder, teacher.key, torch.device("cpu"))["train"]
    to_come = outputs_to_come(config, len(split))
    for name in ("logits_NC", "cls_NLH", "row_of_example_N"):
        one, other = getattr(said, name), getattr(to_come, name)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert resident_bytes(split, said) == resident_bytes(split, to_come)


def test_a_trial_is_measured_with_captured_steps_and_an_eager_one_beside_them(request_: SearchRequest) -> None:
    """In a task that has less than a batch of its longest examples."""
    config = replace(request_.config, depths=(1,))
    data, size = config.data, config.student_training.batch_size
    splits = load_features(TASKS["MRPC"], data.data_dir, data.student_dir, data.max_length)
    lengths = splits["train"].lengths
    assert (lengths == lengths.max()).sum() < size
    student = cut_to_layers(load_classifier(data.student_dir, TASKS["MRPC"].labels, seed=0), (1,))
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # that of a CPU waits for the seed of its generator
    train_step = TrainStep(student, graphs=emulated_graphs())
    shapes: list[tuple[int, ...]] = []
    student.bert.embeddings.word_embeddings.register_forward_pre_hook(
        lambda module, inputs: shapes.append(tuple(inputs[0].shape)) if module.training else None
    )
    model_pool = ModelPool({(1, False): train_step}, graphs=train_step.graphs)
    train_as_a_trial(config, splits, torch.device("cpu"), model_pool)
    length = -(-int(lengths.max()) // train_step.length_multiple) * train_step.length_multiple
    assert len(train_step.graph_inputs()) == 1
    assert sorted(shapes) == [(size - 1, length)] * 2 + [(size, length)] * 2  # replays run no Python


def test_what_teachers_took_is_given_back_before_trials_begin(
    request_: SearchRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that trained them goes on beside the trials, and keeps what it does not give back."""
    said = request_.config.data.data_dir / "teacher_cache"
    computed_by_then: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: computed_by_then.append(len([*said.rglob("*.safetensors")])))
    prepare(request_, EIGHT, tmp_path, {})
    assert computed_by_then[-1] == len([*said.rglob("*.safetensors")]) >= 2  # of train and dev


@pytest.mark.gpu
def test_measuring_leaves_a_gpu_to_the_trials(request_: SearchRequest) -> None:
    data = request_.config.data
    splits = load_features(TASKS["MRPC"], data.data_dir, data.student_dir, data.max_length)
    release_memory()
    held = torch.cuda.memory_reserved()
    assert measured_per_gpu(request_.config, splits, cores=3) == 3
    assert torch.cuda.memory_reserved() - held < 50_000_000  # workspaces of its libraries


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
