import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from requests_of import search_request

from pkd_tune.config import SearchConfig, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.batch_source import resident_bytes
from pkd_tune.distillation.student import compute_teacher_outputs
from pkd_tune.tuning import cluster
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.space import Choice, Int
from pkd_tune.workflows import capacity
from pkd_tune.workflows.capacity import (
    check_disk,
    cpu_bytes,
    limit_concurrency,
    meta_teacher_outputs,
    per_gpu,
)
from pkd_tune.workflows.gpu_check import TrialMemory
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
    """Of a BERT of 6 layers, 384 wide, students of up to 3 held 1.4 GB on average in a search on MRPC, 1.9 at most."""
    small, whole, base = (
        cpu_bytes(with_shape(request_.config, tmp_path / f"{depth} of {layers}", width, layers, depth))
        for width, layers, depth in ((384, 6, 3), (384, 6, 6), (768, 12, 6))
    )
    assert 1.4e9 < small < 1.9e9
    assert 1.7e9 < whole < 2.2e9
    assert 3.3e9 < base < 5e9


def test_trials_take_the_cores_that_others_leave(request_: SearchRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda: 10**12)
    assert limit_concurrency(request_, EIGHT, plans(40)) == EIGHT
    assert limit_concurrency(request_, EIGHT, plans(3)) == Resources(cpu_trials=3, threads=2)
    confirming = replace(request_, config=replace(request_.config, seeds=4))
    assert limit_concurrency(confirming, EIGHT, plans(3)) == Resources(cpu_trials=4, threads=2)
    of_cluster = replace(request_, options=replace(request_.options, address="auto"))
    assert limit_concurrency(of_cluster, EIGHT, plans(3)) == EIGHT  # whose memory this machine does not know


def test_a_config_that_says_little_is_a_bert_base(request_: SearchRequest, tmp_path: Path) -> None:
    whole = with_shape(request_.config, tmp_path / "whole", 768, 12, 6)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "bert"}')
    bare = replace(whole, data=replace(whole.data, student_dir=tmp_path / "bare"))
    assert cpu_bytes(bare) == cpu_bytes(whole)


def test_no_more_trials_run_at_once_than_memory_has_room_for(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(capacity, "free_bytes", lambda: 2 * cpu_bytes(request_.config) + 1)
    assert limit_concurrency(request_, EIGHT, plans(40)) == Resources(cpu_trials=2, threads=4)
    assert "memory has room for 2 trials at once" in caplog.text
    monkeypatch.setattr(capacity, "free_bytes", lambda: 1)
    assert limit_concurrency(request_, EIGHT, plans(40)).count == 1


def test_where_memory_is_short_only_the_embeddings_of_used_tokens_count(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a vocabulary like XLM-RoBERTa's, of which a task has a small part."""
    config = with_shape(request_.config, tmp_path / "wide", 768, 12, 6)
    path = tmp_path / "wide" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 250_002}))
    whole, used = cpu_bytes(config), cpu_bytes(config, tokens=20_000)
    assert used < 0.7 * whole
    monkeypatch.setattr(capacity, "cpu_bytes", lambda config, starts, tokens=250_002: 10 if tokens > 1000 else 5)
    monkeypatch.setattr(capacity, "free_bytes", lambda: 20)
    assert limit_concurrency(request_, EIGHT, plans(40)).count == 4


def test_a_gpu_takes_as_many_trials_as_it_has_memory_and_cores_for() -> None:
    assert per_gpu(free=80_000_000_000, peak=11_400_000_000, data=0, cores=16) == 4  # six would fit: four are enough
    assert per_gpu(free=24_000_000_000, peak=6_600_000_000, data=0, cores=16) == 3
    assert per_gpu(free=80_000_000_000, peak=1_000_000_000, data=0, cores=2) == 2
    assert per_gpu(free=8_000_000_000, peak=9_000_000_000, data=0, cores=8) == 1


def on_gpus(
    request: SearchRequest, monkeypatch: pytest.MonkeyPatch, *, gpus: int, cores: int = 128, host: int = 3 * 10**9
) -> Callable[..., Resources]:
    """Returns what fits the resources of a machine with GPUs that have room for four trials or so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(capacity, "usable_cores", lambda: cores)
    monkeypatch.setattr(capacity, "free_bytes", lambda: 200 * 10**9)
    monkeypatch.setattr(capacity, "gpu_names", lambda: ["H200"] * 8)
    monkeypatch.setattr(capacity, "why_not_captured", lambda config, gpu: None)
    memory = TrialMemory(gpu=5 * 10**9, host=host, gpu_free=79 * 10**9, host_free=10**12)
    monkeypatch.setattr(capacity, "measure_trial", lambda config, captured, gpu: memory)
    return lambda quota, **options: limit_concurrency(
        replace(request, options=replace(request.options, **options)), Resources(gpus=gpus), plans(quota)
    )


def test_trials_spread_over_gpus_before_they_share_them(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray fills one GPU before it uses the next."""
    fit = on_gpus(request_, monkeypatch, gpus=8)
    per = {quota: fit(quota).trials_per_gpu for quota in (4, 8, 12, 16, 24, 40, 200)}
    assert per == {4: 1, 8: 1, 12: 1, 16: 2, 24: 3, 40: 4, 200: 4}
    assert fit(40, trials_per_gpu=2).trials_per_gpu == 2
    assert fit(8, trials_per_gpu=2).trials_per_gpu == 1


def test_cores_and_memory_of_the_machine_are_shared_by_the_gpus_in_use(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many more GPUs there are."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert on_gpus(request_, monkeypatch, gpus=2, cores=8)(40).trials_per_gpu == 4
    assert on_gpus(request_, monkeypatch, gpus=8, cores=16)(40).trials_per_gpu == 2
    assert on_gpus(request_, monkeypatch, gpus=8, cores=4)(40).trials_per_gpu == 1
    assert on_gpus(request_, monkeypatch, gpus=8, host=12 * 10**9)(40).count == 16
    assert on_gpus(request_, monkeypatch, gpus=8, host=40 * 10**9)(40) == Resources(gpus=5)


def test_the_smallest_gpu_of_a_machine_decides_how_many_trials_share_each(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of each kind is measured, and captured steps are compared there, among the GPUs in use."""
    caplog.set_level("INFO", "pkd_tune")
    fit = on_gpus(request_, monkeypatch, gpus=3)
    free, seen = [79, 79, 12, 24], list[int]()

    def measure(config: SearchConfig, captured: bool, gpu: int) -> TrialMemory:
        seen.append(gpu)
        return TrialMemory(gpu=5 * 10**9, host=3 * 10**9, gpu_free=free[gpu] * 10**9, host_free=10**12)

    monkeypatch.setattr(capacity, "gpu_names", lambda: ["H200", "H200", "RTX 3060", "RTX 3090"])
    monkeypatch.setattr(capacity, "measure_trial", measure)
    monkeypatch.setattr(capacity, "why_not_captured", lambda config, gpu: f"it differs on {gpu}" if gpu == 2 else None)
    fitted = fit(40)
    assert (fitted.trials_per_gpu, fitted.eager, seen) == (2, "it differs on 2", [0, 2])
    assert "have room for 4 trials on H200, 2 trials on RTX 3060; the smallest decides for all" in caplog.text


def test_a_gpu_whose_memory_cannot_be_measured_takes_one_trial(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(config: SearchConfig, captured: bool, gpu: int) -> TrialMemory:
        raise TimeoutError("nothing was found out in 600 seconds")

    fit = on_gpus(request_, monkeypatch, gpus=2)
    monkeypatch.setattr(capacity, "measure_trial", fail)
    assert fit(40) == Resources(gpus=2)
    assert "could not be measured (TimeoutError: nothing was found out in 600 seconds)" in caplog.text


def test_memory_is_measured_with_the_largest_batch_that_a_trial_may_have(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = on_gpus(request_, monkeypatch, gpus=1)
    seen: list[int] = []

    def measure(config: SearchConfig, captured: bool, gpu: int) -> TrialMemory:
        seen.append(config.student_training.batch_size)
        return TrialMemory(gpu=5 * 10**9, host=3 * 10**9, gpu_free=79 * 10**9, host_free=10**12)

    monkeypatch.setattr(capacity, "measure_trial", measure)
    fit(4)
    request_.parameters["batch_size"] = Choice((16, 128, 64))
    fit(4)
    request_.parameters["batch_size"] = Int(16, 256, log=True)
    fit(4)
    assert seen == [request_.config.student_training.batch_size, 128, 256]


def test_steps_are_eager_where_captured_ones_differ_or_that_was_asked_for(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fit = on_gpus(request_, monkeypatch, gpus=1)
    assert fit(4).record["eager"] is None
    assert fit(4, cuda_graphs=False).record["eager"] == "--no-cuda-graphs"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    monkeypatch.setattr(capacity, "why_not_captured", lambda config, gpu: "loss total of step 3 differs")
    assert fit(4).record["eager"] == "loss total of step 3 differs"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "training steps are not captured as CUDA graphs, which is slower: loss total of step 3 differs"
    ]


@pytest.mark.slow
def test_the_smallest_gpu_of_a_cluster_decides_how_many_trials_share_each(
    request_: SearchRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two nodes with GPUs of two kinds, which Ray is told of, and what would be measured there."""
    from ray.cluster_utils import Cluster

    caplog.set_level("INFO")
    little = {"include_dashboard": False, "object_store_memory": 2**27}
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **little})
    try:
        for kind, gpus in (("LARGE", 4), ("SMALL", 2)):
            machines.add_node(
                num_cpus=16, num_gpus=gpus, resources={f"accelerator_type:{kind}": 1}, object_store_memory=2**27
            )
        with cluster.connected_cluster(machines.address, tmp_path / "log"):
            small = next(node.id for node in cluster.nodes() if node.kind == "SMALL")

            def measured(config: SearchConfig, captured: bool) -> TrialMemory:
                import ray

                free = 24 if ray.get_runtime_context().get_node_id() == small else 79
                return TrialMemory(gpu=7 * 10**9, host=10**9, gpu_free=free * 10**9, host_free=10**12)

            def compared(config: SearchConfig) -> str | None:
                import ray

                return "loss differs" if ray.get_runtime_context().get_node_id() == small else None

            monkeypatch.setattr(capacity, "measure_on_gpu", measured)
            monkeypatch.setattr(capacity, "compare_on_gpu", compared)
            of_cluster = cluster.cluster_resources(None, None)
            here = replace(request_, options=replace(request_.options, address=machines.address))
            work: list[dict[str, str]] = []
            fitted = limit_concurrency(here, of_cluster, plans(40), work)
            monkeypatch.undo()  # there is no GPU to measure on
            alone = limit_concurrency(here, of_cluster, plans(40))
    finally:
        machines.shutdown()
    assert (fitted.gpus, fitted.trials_per_gpu, fitted.eager) == (6, 3, "loss differs")
    assert [each["job"] for each in work] == 2 * ["comparison of captured steps"] + 2 * ["memory of a trial"]
    assert all(each["node"] for each in work)
    for text in ("note: the GPUs differ, and have room for", "4 trials on LARGE", "3 trials on SMALL"):
        assert text in caplog.text
    assert (alone.gpus, alone.trials_per_gpu) == (6, 1)
    assert "the memory of a trial could not be measured (" in caplog.text


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
    to_come = meta_teacher_outputs(config, len(split))
    for name in ("logits_NC", "cls_NLH", "row_of_example_N"):
        one, other = getattr(said, name), getattr(to_come, name)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert resident_bytes(split, said) == resident_bytes(split, to_come)


def test_what_teachers_took_is_given_back_before_trials_begin(
    request_: SearchRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that trained them goes on beside the trials, and keeps what it does not give back."""
    said = request_.config.data.data_dir / "teacher_cache"
    computed_by_then: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: computed_by_then.append(len([*said.rglob("*.safetensors")])))
    prepare(request_, EIGHT, tmp_path, {})
    assert computed_by_then[-1] == len([*said.rglob("*.safetensors")]) >= 2  # of train and dev


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
