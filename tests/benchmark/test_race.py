"""Contestants in real processes."""

from dataclasses import replace

import pytest

from pkd_tune.benchmark.race import Entry, Work, lineup, race


def test_turns_go_round_and_entries_share_processes(work: Work) -> None:
    trial = replace(work, turns=4)
    entries = [
        Entry(name="one", works=(trial,), first_process=0),
        Entry(name="both", works=(trial, replace(trial, kind="plain")), first_process=0),
    ]
    shown: list[str] = []
    found = race(entries, 2, shown.append)
    assert shown == ["one", "both", "one", "both"]
    assert [len(turn) for turn in found["one"]] == [1, 1]
    assert [len(turn) for turn in found["both"]] == [2, 2]
    assert all(answer["seconds"] > 0 for turns in found.values() for turn in turns for answer in turn)


def test_a_process_that_ends_early_is_an_error(work: Work, capfd: pytest.CaptureFixture[str]) -> None:
    impossible = replace(work, model={**work.model, "num_attention_heads": 5})
    with pytest.raises(RuntimeError, match="exit code 1"):
        race([Entry(name="x", works=(impossible,), first_process=0)], 1, lambda name: None)
    assert "not a multiple of the number of attention heads" in " ".join(capfd.readouterr().err.split())


def test_the_lineup_on_a_cpu(work: Work) -> None:
    entries = {entry.name: entry for entry in lineup(replace(work, threads=2), (1, 2))}
    assert list(entries) == [
        "plain loop",
        "ours, fine-tuning",
        "ours, KD",
        "ours, PKD",
        "peak",
        "costs",
        "ours, PKD, 1 slot",
        "ours, PKD, 2 slots",
    ]
    assert [entry.works[0].threads for entry in entries.values()] == [2, 2, 2, 2, 2, 1, 1, 1]
    assert entries["ours, PKD, 1 slot"].processes == range(6, 7)
    assert entries["ours, PKD, 2 slots"].processes == range(6, 8)
    assert entries["ours, PKD, 2 slots"].works[0].turns == 2 * work.turns  # the first process is in both
    long = replace(work, lengths=[10] * 64)
    assert [len(entry.works[0].lengths) for entry in lineup(long, (1,))[:2]] == [16, 64]


def test_the_lineup_where_bf16_is_in_hardware(work: Work) -> None:
    entries = lineup(replace(work, precision="bf16", device="cuda", threads=8), (1, 2))
    assert [(entry.name, entry.works[0].precision) for entry in entries[:3]] == [
        ("plain loop", "fp32"),
        ("plain loop, bf16", "bf16"),
        ("ours, fine-tuning", "bf16"),
    ]
    assert [(work.gpu, work.threads) for work in entries[-1].works] == [(0, 8), (1, 8)]
