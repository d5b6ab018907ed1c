"""Interleaved runs in real worker processes."""

from dataclasses import replace

import pytest

from pkd_tune.benchmark.interleaving import EAGER, Entry, Workload, family_entries, make_entries, run_interleaved


@pytest.mark.slow
def test_runs_are_interleaved_and_entries_share_processes(workload: Workload) -> None:
    trial = replace(workload, repeats=4)
    entries = [
        Entry(name="one", workloads=(trial,), first_process=0),
        Entry(name="both", workloads=(trial, replace(trial, kind="plain")), first_process=0),
    ]
    shown: list[str] = []
    answers = run_interleaved(entries, 2, shown.append)
    assert shown == ["one", "both", "one", "both"]
    assert [len(run) for run in answers["one"]] == [1, 1]
    assert [len(run) for run in answers["both"]] == [2, 2]
    assert all(answer["seconds"] > 0 for runs in answers.values() for run in runs for answer in run)


@pytest.mark.slow
def test_a_process_that_ends_early_is_an_error(workload: Workload, capfd: pytest.CaptureFixture[str]) -> None:
    impossible = replace(workload, model={**workload.model, "num_attention_heads": 5})
    with pytest.raises(RuntimeError, match="exit code 1"):
        run_interleaved([Entry(name="x", workloads=(impossible,), first_process=0)], 1, lambda name: None)
    assert "not a multiple of the number of attention heads" in " ".join(capfd.readouterr().err.split())


def test_entries_on_a_cpu(workload: Workload) -> None:
    entries = {entry.name: entry for entry in make_entries(replace(workload, threads=2), (1, 2))}
    assert list(entries) == [
        "plain loop",
        "pkd_tune, fine-tuning",
        "pkd_tune, KD",
        "pkd_tune, PKD",
        "peak",
        "overheads",
        "pkd_tune, PKD, 1 trial",
        "pkd_tune, PKD, 2 trials",
    ]
    assert [entry.workloads[0].threads for entry in entries.values()] == [2, 2, 2, 2, 2, 1, 1, 1]
    assert entries["pkd_tune, PKD, 1 trial"].processes == range(6, 7)
    assert entries["pkd_tune, PKD, 2 trials"].processes == range(6, 8)
    assert (
        entries["pkd_tune, PKD, 2 trials"].workloads[0].repeats == 2 * workload.repeats
    )  # the first process is in both
    long = replace(workload, lengths=[10] * 64)
    assert [len(entry.workloads[0].lengths) for entry in make_entries(long, (1,))[:2]] == [16, 64]


def test_entries_where_bf16_is_supported(workload: Workload) -> None:
    entries = make_entries(replace(workload, precision="bf16", device="cuda", threads=8), (1, 2), gpus=2)
    assert [(entry.name, entry.workloads[0].precision) for entry in entries[:3]] == [
        ("plain loop", "fp32"),
        ("plain loop, bf16", "bf16"),
        ("pkd_tune, fine-tuning", "bf16"),
    ]
    assert [(each.gpu, each.threads) for each in entries[-1].workloads] == [(0, 8), (1, 8)]


def test_trials_that_are_more_than_the_gpus_share_them_in_turn(workload: Workload) -> None:
    on_gpu = replace(workload, device="cuda")
    for gpus, last in ((1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (8, [0, 1, 2, 3])):
        entries = {entry.name: entry for entry in make_entries(on_gpu, (1, 2, 4), gpus)}
        used = "1 GPU" if gpus == 1 else f"{min(gpus, 4)} GPUs"
        assert [each.gpu for each in entries[f"pkd_tune, PKD, 4 trials on {used}"].workloads] == last
        assert [each.gpu for each in entries["pkd_tune, PKD, 1 trial on 1 GPU"].workloads] == [0]


def test_pkd_with_eager_steps_is_an_entry_on_a_gpu_alone(workload: Workload) -> None:
    entries = {entry.name: entry.workloads[0] for entry in make_entries(replace(workload, device="cuda"), (1,))}
    assert entries[EAGER] == replace(entries["pkd_tune, PKD"], captured=False)
    assert all(each.captured for name, each in entries.items() if name != EAGER)
    assert EAGER not in [entry.name for entry in make_entries(workload, (1,))]


def test_entries_of_families(workload: Workload) -> None:
    entries = family_entries(workload, ("bert", "electra", "modernbert"))
    assert {family: [entry.name for entry in found] for family, found in entries.items()} == {
        "bert": ["plain loop", "BERT, fast", "general"],
        "electra": ["plain loop", "BERT, fast", "fast", "general"],
        "modernbert": ["plain loop", "BERT, fast", "general"],
    }
    plain, reference, fast, general = (entry.workloads[0] for entry in entries["electra"])
    assert [each.family for each in (plain, reference, fast, general)] == ["electra", "bert", "electra", "electra"]
    assert [each.general for each in (reference, fast, general)] == [False, False, True]
