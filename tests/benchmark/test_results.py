from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from pkd_tune.benchmark.race import Work, lineup
from pkd_tune.benchmark.results import as_text, needed_flops, summary
from pkd_tune.data.batches import Batch
from pkd_tune.encoders.modeling import run


def test_needed_work_of_one_layer_by_hand() -> None:
    """One example of 3 tokens, width 4, one head of 4, inner size 8."""
    query, key, output, value = 2 * 4 * 4, 2 * 4 * 4, 2 * 4 * 4, 2 * 4 * 4
    scores, gathered = 2 * 3 * 4, 2 * 3 * 4
    feed_forward, pooler, classifier = 2 * (2 * 4 * 8), 2 * 4 * 4, 2 * 4 * 2
    forward = query + key + scores + gathered + value + output + feed_forward + pooler + classifier
    assert needed_flops([3], depth=1, width=4, inner=8, heads=1) == 3 * forward == 1056


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_needed_work_is_what_our_training_step_does_without_padding(work: Work, depth: int) -> None:
    model = BertForSequenceClassification(BertConfig(**work.model, num_hidden_layers=depth)).train()
    ids = torch.randint(1, 60, (3, 7))
    nothing = torch.zeros(3, dtype=torch.long)
    batch = Batch(nothing, ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool), nothing)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(run(model, batch).logits_BC, nothing).backward()
    assert counter.get_total_flops() == needed_flops([7] * 3, depth, width=24, inner=48, heads=2)


def test_medians_ratios_and_shares(work: Work) -> None:
    work = replace(work, lengths=[10, 20], threads=2)
    lineups = {2: lineup(work, (1, 2))}
    seconds = {  # of two examples, in three rounds
        "plain loop": [[2.0], [1.0], [9.0]],
        "ours, fine-tuning": [[0.5], [0.4], [0.4]],
        "ours, KD": [[0.5], [0.5], [0.5]],
        "ours, PKD": [[0.5], [0.5], [0.5]],
        "ours, PKD, 1 slot": [[1.0], [1.0], [1.0]],
        "ours, PKD, 2 slots": [[0.5, 1.0], [0.5, 1.0], [0.5, 0.5]],
    }
    found = {
        name: [[{"seconds": s, "cpu_seconds": s / 2} for s in turn] for turn in turns]
        for name, turns in seconds.items()
    }
    found["peak"] = [[{"fp32": rate, "bf16": 3.0}] for rate in (1e9, 2e9, 3e9)]
    found["costs"] = [[{"evaluation": s, "checkpoint": 2 * s, "reset": 3 * s}] for s in (0.1, 0.2, 0.3)]
    numbers = summary(lineups, {2: found}, [0.01, 0.03, 0.02])
    (group,) = numbers["depths"]
    rows = {row["name"]: row for row in group["training"]}
    assert {name: row["examples_per_second"] for name, row in rows.items()} == {
        "plain loop": 1,
        "ours, fine-tuning": 5,
        "ours, KD": 4,
        "ours, PKD": 4,
        "ours, PKD, 1 slot": 2,
        "ours, PKD, 2 slots": 6,
    }
    assert rows["ours, PKD, 2 slots"]["times_plain"] == 6
    assert rows["ours, PKD, 1 slot"]["examples_per_cpu_second"] == 4
    assert rows["ours, PKD"]["tokens_per_second"] == 60
    needed = needed_flops([10, 20], 2, 24, 48, 2)
    assert rows["ours, PKD"]["share_of_peak"] == pytest.approx(4 * needed / 2 / 2e9)
    assert {what: cost["seconds"] for what, cost in group["costs"].items()} == {
        "evaluation": 0.2,
        "checkpoint": 0.4,
        "reset": pytest.approx(0.6),
        "report": 0.02,
    }
    assert numbers["peaks"]["bf16"]["in_hardware"] is False
    text = as_text({"machine": "M", "model": "B", "data": "D", "repeats": 3, **numbers})
    assert "M. B. D. Medians of 3 turns." in text
    assert "fp32 2.0 GFLOP/s, bf16 0.0 GFLOP/s (in software)" in text
    assert "| ours, PKD, 2 slots, fp32 | 2 × 1 | 6.0 | 90 | 6.00 | 2.67 | 0% |" in text
    assert "A PKD epoch takes 1.25 times as long as a fine-tuning epoch (1.25 by CPU time)." in text
    assert "fastest as 2 × 1" in text
    assert "scoring dev 0.200 s" in text
