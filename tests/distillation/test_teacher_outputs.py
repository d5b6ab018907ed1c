import copy
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from pkd_tune.config import UserError
from pkd_tune.data.batches import SCORING_TOKENS, collate
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import Split
from pkd_tune.distillation import teacher_outputs as module
from pkd_tune.distillation.losses import pkd_loss
from pkd_tune.distillation.teacher_outputs import HASH, TeacherOutputs, check_states, teacher_outputs
from pkd_tune.encoders.modeling import Output, load_classifier, run


@pytest.fixture(scope="module")
def split(tiny_data: Path) -> Split:
    return load_features(TASKS["MRPC"], tiny_data, tiny_data / "models/pretrained/tiny", 32)["dev"]


@pytest.fixture(scope="module")
def teacher(tiny_data: Path) -> BertForSequenceClassification:
    return load_classifier(tiny_data / "models/pretrained/tiny", ("no", "yes"), seed=0)


@pytest.fixture(scope="module")
def alone(split: Split, teacher: BertForSequenceClassification) -> Output:
    """Returns the teacher's outputs for every example in a batch of its own, in the order of example ids."""
    with torch.no_grad():
        each = [run(teacher.eval(), collate(split, np.array([i]), torch.device("cpu"), 0)) for i in range(len(split))]
    return Output(torch.cat([one.logits_BC for one in each]), torch.cat([one.cls_BLH for one in each]))


def refuse() -> BertForSequenceClassification:
    raise AssertionError("the teacher was run again")


def test_rows_are_found_by_example_id(tmp_path: Path, split: Split, teacher: BertForSequenceClassification) -> None:
    cache = teacher_outputs(tmp_path, split, "t", lambda: teacher)
    ids = np.random.default_rng(0).permutation(len(split))[:7]
    output = run(teacher.eval(), collate(split, ids, torch.device("cpu"), 0))
    torch.testing.assert_close(cache.logits(torch.from_numpy(ids)), output.logits_BC, rtol=1e-4, atol=1e-5)
    states = cache.cls(torch.from_numpy(ids), (3, 1))
    torch.testing.assert_close(states.float(), output.cls_BLH[:, [2, 0]], rtol=1e-3, atol=1e-3)


def test_states_too_large_for_fp16_are_refused_where_they_may_be_imitated(
    tmp_path: Path, split: Split, teacher: BertForSequenceClassification
) -> None:
    def with_scale_of_layer(layer: int, scale: float) -> TeacherOutputs:
        large = copy.deepcopy(teacher)
        large.bert.encoder.layer[layer - 1].output.LayerNorm.weight.data *= scale
        return teacher_outputs(tmp_path, split, f"{layer} {scale}", lambda: large)

    check_states([with_scale_of_layer(2, 1e3), with_scale_of_layer(4, 1e6)], tmp_path)
    with pytest.raises(
        UserError, match=r"^the teacher in .* states after layer 2 that are too large for fp16, .* such as kd$"
    ):
        check_states([with_scale_of_layer(3, 1.0), with_scale_of_layer(2, 1e6)], tmp_path)


@given(order=st.permutations(range(40)))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_examples_gets_its_own_rows(
    tmp_path: Path, split: Split, teacher: BertForSequenceClassification, alone: Output, order: list[int]
) -> None:
    """Compared with the teacher's outputs for each example alone."""
    cache = teacher_outputs(tmp_path, split, "t", lambda: teacher)
    ids_N = torch.tensor(order)
    torch.testing.assert_close(cache.logits(ids_N), alone.logits_BC[ids_N], rtol=1e-4, atol=1e-5)
    expected_NH = alone.cls_BLH[ids_N, 1]
    torch.testing.assert_close(cache.cls(ids_N, (2,))[:, 0].float(), expected_NH, rtol=1e-3, atol=1e-3)


def test_a_platform_without_fallocate_writes_the_same_file(
    tmp_path: Path, split: Split, teacher: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS is."""
    teacher_outputs(tmp_path / "a", split, "t", lambda: teacher)
    monkeypatch.delattr(os, "posix_fallocate")
    teacher_outputs(tmp_path / "b", split, "t", lambda: teacher)
    (file,) = (path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.safetensors"))
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_teacher_runs_once(tmp_path: Path, split: Split, teacher: BertForSequenceClassification) -> None:
    first = teacher_outputs(tmp_path, split, "t", lambda: teacher)
    again = teacher_outputs(tmp_path, split, "t", refuse)
    assert torch.equal(first.logits_NC, again.logits_NC)
    with pytest.raises(AssertionError, match="run again"):
        teacher_outputs(tmp_path, split, "another teacher", refuse)
    with pytest.raises(AssertionError, match="run again"):
        teacher_outputs(tmp_path, replace(split, key="other texts"), "t", refuse)


@pytest.mark.parametrize("damage", ["truncated", "rows", "garbage", "one value"])
def test_a_damaged_file_is_named_and_built_again(
    tmp_path: Path,
    split: Split,
    teacher: BertForSequenceClassification,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = teacher_outputs(tmp_path, split, "t", lambda: teacher).logits_NC.clone()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    if damage == "rows":
        ids = load_file(path)["example_id"].numpy().tobytes()
        swapped = np.zeros(len(split), np.int64).tobytes()
        assert ids in whole
        path.write_bytes(whole.replace(ids, swapped))
    elif damage == "one value":
        at = 8 + int.from_bytes(whole[:8], "little") + 2  # in the first logit: nothing but the hash can tell
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\0" * len(whole))
    with caplog.at_level(logging.WARNING):
        rebuilt = teacher_outputs(tmp_path, split, "t", lambda: teacher)
    assert str(path) in caplog.text
    assert torch.equal(rebuilt.logits_NC, expected)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("other", ["teacher", "split", "nobody"])
def test_a_file_of_another_origin_is_named_and_built_again(
    tmp_path: Path,
    split: Split,
    teacher: BertForSequenceClassification,
    other: str,
    verify: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A whole file, that somebody gave this one's name; `nobody`: it does not say whose it is."""
    expected = teacher_outputs(tmp_path, split, "t", lambda: teacher).logits_NC.clone()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    if other == "nobody":
        with safe_open(path, "pt") as file:
            hashed = file.metadata()[HASH]
        save_file(load_file(path), path, {HASH: hashed})
    else:
        key, texts = ("u", split) if other == "teacher" else ("t", replace(split, key="other texts"))
        teacher_outputs(tmp_path / "other", texts, key, lambda: teacher)
        (foreign,) = (tmp_path / "other").glob("*.safetensors")
        os.replace(foreign, path)
    with caplog.at_level(logging.WARNING):
        rebuilt = teacher_outputs(tmp_path, split, "t", lambda: teacher, verify=verify)
    assert f"{path} is damaged, or belongs to another teacher or split" in caplog.text
    assert torch.equal(rebuilt.logits_NC, expected)
    assert path.read_bytes() == whole


def test_a_build_that_dies_leaves_no_file(tmp_path: Path, split: Split) -> None:
    with pytest.raises(AssertionError, match="run again"):
        teacher_outputs(tmp_path, split, "t", refuse)
    assert not list(tmp_path.glob("*.safetensors"))


class Died(Exception):
    pass


@pytest.mark.parametrize("changed", [None, "split", "size"])
def test_a_build_goes_on_where_another_died(
    tmp_path: Path,
    split: Split,
    teacher: BertForSequenceClassification,
    monkeypatch: pytest.MonkeyPatch,
    changed: str | None,
) -> None:
    """In batches of another size, as on another device; not where the file would have been another one."""
    expected = teacher_outputs(tmp_path / "at once", split, "t", lambda: teacher)
    monkeypatch.setattr(module, "NOTED_SECONDS", 0.0)
    monkeypatch.setitem(SCORING_TOKENS, "cpu", 200)
    ran: list[int] = []

    def count(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if sum(ran) >= 20 and len(list(tmp_path.glob("*.partial"))) and not died:
            raise Died
        ran.append(len(inputs[0]))

    died: list[int] = []
    hook = teacher.bert.embeddings.word_embeddings.register_forward_pre_hook(count)
    try:
        with pytest.raises(Died):
            teacher_outputs(tmp_path, split, "t", lambda: teacher)
        died += ran
        assert 20 <= sum(died) < len(split)
        assert [path.suffix for path in sorted(tmp_path.glob("dev-*")) if path.suffix != ".lock"] == [
            ".partial",
            ".progress",
        ]
        (partial,) = tmp_path.glob("*.partial")
        if changed == "size":
            partial.write_bytes(partial.read_bytes()[:-8])
        elif changed == "split":
            partial.write_bytes(partial.read_bytes().replace(split.key.encode(), b"x" * len(split.key)))
        monkeypatch.setitem(SCORING_TOKENS, "cpu", 330)
        found = teacher_outputs(tmp_path, split, "t", lambda: teacher)
    finally:
        hook.remove()
    assert sum(ran) - sum(died) == (len(split) - sum(died) if changed is None else len(split))
    assert torch.equal(found.row_of_example_N, expected.row_of_example_N)
    torch.testing.assert_close(found.logits_NC, expected.logits_NC, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.cls_NLH.float(), expected.cls_NLH.float(), rtol=1e-3, atol=1e-3)
    teacher_outputs(tmp_path, split, "t", refuse)  # its hash is right
    assert not [*tmp_path.glob("*.partial"), *tmp_path.glob("*.progress")]


def test_half_precision_moves_the_loss_by_less_than_a_thousandth(
    tmp_path: Path, split: Split, teacher: BertForSequenceClassification
) -> None:
    cache: TeacherOutputs = teacher_outputs(tmp_path, split, "t", lambda: teacher)
    batch = collate(split, np.arange(len(split)), torch.device("cpu"), 0)
    output = run(teacher.eval(), batch)
    student_states = output.cls_BLH[:, :1] * 0.9
    for normalize in (True, False):
        exact, cached = (
            pkd_loss(
                output.logits_BC * 0.5,
                output.logits_BC,
                batch.labels_B,
                student_states,
                states,
                alpha=0.5,
                beta=100.0,
                temperature=10.0,
                normalize=normalize,
            ).total.item()
            for states in (output.cls_BLH[:, 1:2], cache.cls(batch.example_ids_B, (2,)))
        )
        assert cached == pytest.approx(exact, rel=1e-3)
