from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from pkd_tune.benchmark.interleaving import Workload, family_entries, make_entries
from pkd_tune.benchmark.results import as_text, families_summary, families_text, needed_flops, summary
from pkd_tune.data.batches import Batch
from pkd_tune.encoders.modeling import run


def test_needed_flops_of_one_layer_by_hand() -> None:
    """One example of 3 tokens, width 4, one head of 4, inner size 8."""
    query, key, output, value = 2 * 4 * 4, 2 * 4 * 4, 2 * 4 * 4, 2 * 4 * 4
    scores, gathered = 2 * 3 * 4, 2 * 3 * 4
    feed_forward, pooler, classifier = 2 * (2 * 4 * 8), 2 * 4 * 4, 2 * 4 * 2
    forward = query + key + scores + gathered + value + output + feed_forward + pooler + classifier
    assert needed_flops([3], depth=1, width=4, inner=8, heads=1) == 3 * forward == 1056


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_needed_flops_are_those_of_a_training_step_without_padding(workload: Workload, depth: int) -> None:
    model = BertForSequenceClassification(BertConfig(**workload.model, num_hidden_layers=depth)).train()
    ids = torch.randint(1, 60, (3, 7))
    nothing = torch.zeros(3, dtype=torch.long)
    batch = Batch(nothing, ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool), nothing)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(run(model, batch).logits_BC, nothing).backward()
    assert counter.get_total_flops() == needed_flops([7] * 3, depth, width=24, inner=48, heads=2)


def test_medians_ratios_and_shares(workload: Workload) -> None:
    workload = replace(workload, lengths=[10, 20], threads=2)
    entries = {2: make_entries(workload, (1, 2))}
    seconds = {  # of two examples, in three rounds
        "plain loop": [[2.0], [1.0], [9.0]],
        "pkd_tune, fine-tuning": [[0.5], [0.4], [0.4]],
        "pkd_tune, KD": [[0.5], [0.5], [0.5]],
        "pkd_tune, PKD": [[0.5], [0.5], [0.5]],
        "pkd_tune, PKD, 1 trial": [[1.0], [1.0], [1.0]],
        "pkd_tune, PKD, 2 trials": [[0.5, 1.0], [0.5, 1.0], [0.5, 0.5]],
    }
    answers = {
        name: [[{"seconds": s, "cpu_seconds": s / 2} for s in run] for run in runs] for name, runs in seconds.items()
    }
    answers["peak"] = [[{"fp32": rate, "bf16": 3.0}] for rate in (1e9, 2e9, 3e9)]
    answers["overheads"] = [[{"evaluation": s, "checkpoint": 2 * s, "reset": 3 * s}] for s in (0.1, 0.2, 0.3)]
    numbers = summary(entries, {2: answers}, [0.01, 0.03, 0.02])
    (group,) = numbers["depths"]
    rows = {row["name"]: row for row in group["training"]}
    assert {name: row["examples_per_second"] for name, row in rows.items()} == {
        "plain loop": 1,
        "pkd_tune, fine-tuning": 5,
        "pkd_tune, KD": 4,
        "pkd_tune, PKD": 4,
        "pkd_tune, PKD, 1 trial": 2,
        "pkd_tune, PKD, 2 trials": 6,
    }
    assert rows["pkd_tune, PKD, 2 trials"]["times_plain"] == 6
    assert rows["pkd_tune, PKD, 1 trial"]["examples_per_cpu_second"] == 4
    assert rows["pkd_tune, PKD"]["tokens_per_second"] == 60
    needed = needed_flops([10, 20], 2, 24, 48, 2)
    assert rows["pkd_tune, PKD"]["share_of_peak"] == pytest.approx(4 * needed / 2 / 2e9)
    on_two = [
        replace(entry, workloads=tuple(replace(w, device="cuda", gpu=i) for i, w in enumerate(entry.workloads)))
        for entry in entries[2]
    ]
    (group,) = summary({2: on_two}, {2: answers}, [0.01, 0.03, 0.02])["depths"]
    shares = {row["name"]: row["share_of_peak"] for row in group["training"]}
    assert shares["pkd_tune, PKD, 2 trials"] == pytest.approx(6 * needed / 2 / (2 * 2e9))  # each GPU has a peak
    assert {what: cost["seconds"] for what, cost in group["overheads"].items()} == {
        "evaluation": 0.2,
        "checkpoint": 0.4,
        "reset": pytest.approx(0.6),
        "report": 0.02,
    }
    assert numbers["peaks"]["bf16"]["supported"] is False
    text = as_text({"machine": "M", "model": "B", "data": "D", "repeats": 3, **numbers})
    assert "M. B. D. Medians of 3 runs." in text
    assert "fp32 2.0 GFLOP/s, bf16 0.0 GFLOP/s (emulated)" in text
    assert "| pkd_tune, PKD, 2 trials, fp32 | 2 × 1 | 6.0 | 90 | 6.00 | 2.67 | 0% |" in text
    assert "A PKD epoch takes 1.25 times as long as a fine-tuning epoch (1.25 by CPU time)." in text
    assert "highest PKD throughput is at 2 × 1" in text
    assert "scoring the dev split 0.200 s" in text


def test_captured_steps_are_compared_with_eager_ones_on_a_gpu(workload: Workload) -> None:
    entries = {2: make_entries(replace(workload, device="cuda"), (1,))}
    answers = {entry.name: [[{"seconds": 2.0, "cpu_seconds": 2.0}]] for entry in entries[2]}
    answers["pkd_tune, PKD"] = [[{"seconds": 0.5, "cpu_seconds": 0.5}]]
    answers["peak"] = [[{"fp32": 1e9, "bf16": 2e9}]]
    answers["overheads"] = [[{"evaluation": 1.0, "checkpoint": 1.0, "reset": 1.0}]]
    text = as_text({"machine": "M", "model": "B", "data": "D", "repeats": 1, **summary(entries, {2: answers}, [0.1])})
    assert "| pkd_tune, PKD, eager steps, fp32 | 1 × 1 | 4.0 |" in text
    assert "Captured PKD steps are 4.00 times as fast as eager ones." in text


def test_a_row_names_its_precision_once(workload: Workload) -> None:
    entries = {2: make_entries(replace(workload, precision="bf16"), (1,))}
    training = {"seconds": 1.0, "cpu_seconds": 1.0}
    answers = {entry.name: [[training]] for entry in entries[2]}
    answers["peak"] = [[{"fp32": 1e9, "bf16": 2e9}]]
    answers["overheads"] = [[{"evaluation": 1.0, "checkpoint": 1.0, "reset": 1.0}]]
    text = as_text({"machine": "M", "model": "B", "data": "D", "repeats": 1, **summary(entries, {2: answers}, [0.1])})
    assert "| plain loop, fp32 |" in text
    assert "| plain loop, bf16 |" in text
    assert "| pkd_tune, KD, bf16 |" in text


def test_families_are_compared_with_their_plain_loop_and_with_bert(workload: Workload) -> None:
    entries = family_entries(replace(workload, lengths=[10, 20]), ("bert", "deberta-v2"))
    seconds = {"plain loop": 2.0, "BERT, fast": 0.5, "general": 1.0}
    answers = {
        family: {
            entry.name: [[{"seconds": 9.0, "cpu_seconds": seconds[entry.name] * by}] for by in (1, 3, 1)]
            for entry in found
        }
        for family, found in entries.items()
    }
    numbers = families_summary(entries, answers)
    bert, deberta = numbers["families"]
    assert list(bert["ways"]) == ["fast", "general"]
    assert bert["ways"]["fast"] == {"examples_per_second": 4, "times_plain": 4, "slower_than_bert": 1}
    assert deberta["ways"] == {"general": {"examples_per_second": 2, "times_plain": 2, "slower_than_bert": 2}}
    text = families_text({"machine": "M", "model": "3 layers", "data": "D", "repeats": 3, **numbers})
    assert "| DeBERTa-v2/v3 | general | 1.0 | 2.0 | 2.00 | 2.0 |" in text
