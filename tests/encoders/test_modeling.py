from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from pkd_tune.data.batches import Batch, collate
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.encoders.dropout import dropout
from pkd_tune.encoders.folder import class_names
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier, run, save_classifier

LABELS = ("no", "yes")


@pytest.fixture(scope="module")
def model(tiny_data: Path) -> BertForSequenceClassification:
    return load_classifier(tiny_data / "models/pretrained/tiny", LABELS, seed=3)


@pytest.fixture(scope="module")
def batch(tiny_data: Path) -> Batch:
    split = load_features(TASKS["MRPC"], tiny_data, tiny_data / "models/pretrained/tiny", 32)["train"]
    return collate(split, np.arange(12), torch.device("cpu"), pad_id=0)


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_run_equals_the_models_own_forward(model: BertForSequenceClassification, batch: Batch, layers: int) -> None:
    """[CLS] alone in the top layer: same logits, states, loss and gradients as the whole layer."""
    plain, ours = (cut_to_layers(model, range(1, layers + 1)).eval() for _ in range(2))
    expected = plain(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.mask_BT.long(),
        token_type_ids=batch.token_types_BT,
        labels=batch.labels_B,
        output_hidden_states=True,
    )
    output = run(ours, batch)
    torch.testing.assert_close(output.logits_BC, expected.logits, rtol=1e-5, atol=1e-6)
    states_BLH = torch.stack([states[:, 0] for states in expected.hidden_states[1:]], dim=1)
    torch.testing.assert_close(output.cls_BLH, states_BLH, rtol=1e-5, atol=1e-5)
    expected.loss.backward()
    torch.nn.functional.cross_entropy(output.logits_BC, batch.labels_B).backward()
    for (name, parameter), (_, reference) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert parameter.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_padding_changes_nothing(model: BertForSequenceClassification, batch: Batch, tiny_data: Path) -> None:
    split = load_features(TASKS["MRPC"], tiny_data, tiny_data / "models/pretrained/tiny", 32)["train"]
    together = run(model.eval(), batch).logits_BC
    for i in range(3):
        alone = run(model, collate(split, np.array([i]), torch.device("cpu"), pad_id=0)).logits_BC
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-6)


def test_dropout_works_in_training_only(model: BertForSequenceClassification, batch: Batch) -> None:
    assert not torch.equal(run(model.train(), batch).logits_BC, run(model, batch).logits_BC)
    assert torch.equal(run(model.eval(), batch).logits_BC, run(model, batch).logits_BC)


def dropouts(model: BertForSequenceClassification) -> dict[str, torch.nn.Dropout]:
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}


def test_each_dropout_acts_on_its_own(model: BertForSequenceClassification, batch: Batch) -> None:
    student = cut_to_layers(model, (1, 2)).train()
    places = dropouts(student)
    assert len(places) == 1 + 2 * 3 + 1  # embeddings; attention, its output and feed-forward of each layer; pooled
    for module in places.values():
        module.p = 0
    assert torch.equal(run(student, batch).logits_BC, run(student, batch).logits_BC)
    for name, module in places.items():
        module.p = 0.5
        first, second = (run(student, batch).logits_BC for _ in range(2))
        assert not torch.equal(first, second), name
        module.p = 0


@pytest.mark.parametrize("layers", [1, 3])
def test_training_equals_the_models_own_with_the_same_masks(
    model: BertForSequenceClassification, batch: Batch, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout where plain BERT has it, and as strong: same logits, states and gradients when its masks are ours."""
    plain, ours = (cut_to_layers(model, range(1, layers + 1)).train() for _ in range(2))
    plain.set_attn_implementation("eager")
    torch.manual_seed(1)
    output = run(ours, batch)
    calls = 0

    def same_masks(x: torch.Tensor, p: float, training: bool, inplace: bool = False) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if training and calls in range(2 + 3 * (layers - 1), 2 + 3 * layers):  # top layer: ours has [CLS] alone
            queries = 2 if x.ndim == 4 else 1
            cls, others = x.split([1, x.shape[queries] - 1], dim=queries)
            return torch.cat([dropout(cls.squeeze(queries), torch.nn.Dropout(p)).unsqueeze(queries), others], queries)
        return dropout(x.flatten(0, 1) if x.ndim == 4 else x, torch.nn.Dropout(p).train(training)).view(x.shape)

    monkeypatch.setattr(torch.nn.functional, "dropout", same_masks)
    torch.manual_seed(1)
    expected = plain(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.mask_BT.long(),
        token_type_ids=batch.token_types_BT,
        output_hidden_states=True,
    )
    assert calls == 2 + 3 * layers
    torch.testing.assert_close(output.logits_BC, expected.logits, rtol=1e-5, atol=1e-6)
    states_BLH = torch.stack([states[:, 0] for states in expected.hidden_states[1:]], dim=1)
    torch.testing.assert_close(output.cls_BLH, states_BLH, rtol=1e-5, atol=1e-5)
    for logits_BC in (output.logits_BC, expected.logits):
        torch.nn.functional.cross_entropy(logits_BC, batch.labels_B).backward()
    for (name, parameter), (_, reference) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert parameter.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_training_runs_in_bf16(model: BertForSequenceClassification, batch: Batch) -> None:
    """On a CPU too, whether or not it supports bf16."""
    student = cut_to_layers(model, (1, 2)).train()
    torch.manual_seed(1)
    exact = run(student, batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(student, batch)
    torch.testing.assert_close(rounded.logits_BC.float(), exact.logits_BC, rtol=0.05, atol=0.05)
    torch.testing.assert_close(rounded.cls_BLH.float(), exact.cls_BLH, rtol=0.05, atol=0.05)
    rounded.logits_BC.float().sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_missing_weights_come_from_the_seed_alone(tiny_data: Path) -> None:
    folder = tiny_data / "models/pretrained/tiny"
    first = load_classifier(folder, LABELS, seed=1).classifier.weight
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(load_classifier(folder, LABELS, seed=1).classifier.weight, first)
    assert not torch.equal(load_classifier(folder, LABELS, seed=2).classifier.weight, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_classes_make_a_regression_model(tiny_data: Path, batch: Batch, tmp_path: Path) -> None:
    model = load_classifier(tiny_data / "models/pretrained/tiny", (), seed=1)
    assert run(model, batch).logits_BC.shape == (12, 1)
    cut_to_layers(model, (1, 2)).save_pretrained(tmp_path)
    assert class_names(tmp_path) == ["LABEL_0"]
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.problem_type == "regression"
    assert again.config.num_labels == 1
    # An encoder or classifier that was made for something else is made a classifier again.
    classifier = load_classifier(tiny_data / "models/pretrained/tiny", LABELS, seed=1)
    assert classifier.config.problem_type == "single_label_classification"


def test_a_student_is_the_first_layers(model: BertForSequenceClassification) -> None:
    student = cut_to_layers(model, (1, 2))
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label == {0: "no", 1: "yes"}
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    student.classifier.weight.data.zero_()
    assert model.classifier.weight.abs().sum() > 0  # a copy
    spread = cut_to_layers(model, (2, 4))
    for to, layer in ((0, 1), (1, 3)):
        expected = model.bert.encoder.layer[layer].state_dict()
        assert all(torch.equal(t, expected[name]) for name, t in spread.bert.encoder.layer[to].state_dict().items())


def test_a_saved_folder_replaces_another_only_on_request(tiny_data: Path, tmp_path: Path) -> None:
    tiny, target = tiny_data / "models/pretrained/tiny", tmp_path / "there"
    target.mkdir()
    model = load_classifier(tiny, ("no", "yes"), seed=0)
    save_classifier(model, tiny, target)  # onto an empty one
    (target / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        save_classifier(model, tiny, target)
    assert (target / "notes.txt").read_text() == "mine"
    save_classifier(model, tiny, target, replace=True)
    assert not (target / "notes.txt").exists()


def test_a_saved_folder_may_be_read_by_whom_the_umask_says(
    model: BertForSequenceClassification, tiny_data: Path, tmp_path: Path
) -> None:
    save_classifier(model, tiny_data / "models/pretrained/tiny", tmp_path / "saved")
    (tmp_path / "other").touch()
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "saved").iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {(tmp_path / "other").stat().st_mode}
