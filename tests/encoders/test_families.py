"""Every family: checked, loaded, run, cut and saved like plain transformers would."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import LAYERS, TYPES, write_model, write_sentencepiece
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from pkd_tune.config import UserError
from pkd_tune.data.batches import Batch, collate
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features, load_raw
from pkd_tune.data.tokens import read_tokenizer
from pkd_tune.encoders.families import DECODERS, FAMILIES
from pkd_tune.encoders.folder import encoder_problems, layer_count, length_limit, sizes, weights_key
from pkd_tune.encoders.modeling import (
    cut_to_layers,
    is_fast,
    load_classifier,
    run,
    run_general,
    save_classifier,
    takes_segment_ids,
)

LABELS = ("no", "yes")
FAST = [kind for kind in TYPES if FAMILIES[kind].paths is not None]


@pytest.fixture
def write(once: Callable[[str, Any], Path]) -> Callable[[str], Path]:
    """Returns a function that returns the shared folder of a family's tiny model."""
    return lambda kind: once(f"family-{kind}", lambda folder: write_model(folder / "tiny", kind)) / "tiny"


def make_batch(data_dir: Path, folder: Path, pad_id: int) -> Batch:
    split = load_features(TASKS["MRPC"], data_dir, folder, 32)["train"]
    assert len(set(split.lengths[:12])) > 1  # so that there is padding
    return collate(split, np.arange(12), torch.device("cpu"), pad_id)


def test_all_families_are_tried() -> None:
    assert set(TYPES) == FAMILIES.keys()


@pytest.mark.parametrize("kind", TYPES)
def test_settings_have_the_defaults_of_transformers(kind: str) -> None:
    family, config = FAMILIES[kind], AutoConfig.for_model(kind)
    defaults = config.to_dict()
    derived = {"layer_types", "rope_parameters"}  # None stands for what follows from other settings
    for name in (family.settings.keys() & defaults.keys()) - derived:
        assert family.settings[name] == defaults[name], name
    assert {family.value({}, name) for name in ("hidden_size",)} == {config.hidden_size}


@pytest.mark.parametrize("kind", TYPES)
def test_a_folder_of_each_family_has_no_problem(kind: str, write: Callable[[str], Path]) -> None:
    folder = write(kind)
    assert encoder_problems(folder, "--teacher") == []
    assert layer_count(folder) == LAYERS
    assert sizes(folder)["hidden_size"] == 32
    assert length_limit(folder) == 128


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert", "deberta-v2"])
def test_a_sentencepiece_model_alone_is_converted_and_leaves_so(kind: str, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = write_model(tmp_path / "given", kind)
    write_sentencepiece(folder, kind)
    assert encoder_problems(folder, "--teacher") == []
    (path,) = folder.glob("*.model")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in ("same red quick .", "near  or far"):
        assert read_tokenizer(folder).tokenize(text) == pieces.encode(text, out_type=str)
    save_classifier(load_classifier(folder, LABELS, seed=0), folder, tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved("same .", "red")["input_ids"] == read_tokenizer(folder)("same .", "red")["input_ids"]

    path.write_bytes(b"no model")
    (problem,) = encoder_problems(folder, "--teacher")
    assert problem == f"--teacher {folder}: its SentencePiece model cannot be read; download the tokenizer again"
    path.rename(folder / "spiece.model" if kind == "deberta-v2" else folder / "spm.model")
    (problem,) = encoder_problems(folder, "--teacher")
    assert "finds no vocabulary there; add a tokenizer.json" in problem


def test_a_tokenizer_without_a_padding_token_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", "bert")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"has no padding token, which batches need; set tokenizer\.pad_token"):
        read_tokenizer(folder)


def test_a_sentencepiece_model_of_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    folder = write_model(tmp_path / "given", "xlm-roberta", vocab_size=10)
    write_sentencepiece(folder, "xlm-roberta")
    (problem,) = encoder_problems(folder, "--teacher")
    assert "sentencepiece.bpe.model has token ids up to " in problem


def test_without_sentencepiece_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "given", "deberta-v2")
    (folder / "tokenizer.json").rename(folder / "spm.model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = encoder_problems(folder, "--teacher")
    assert problem.startswith(f"--teacher {folder}: its tokenizer is a SentencePiece model without tokenizer.json")
    assert problem.endswith('pip install "pkd_tune[sentencepiece]"')


@pytest.mark.parametrize("kind", TYPES)
def test_each_family_runs_like_transformers_and_cut_students_leave_like_it(
    kind: str, write: Callable[[str], Path], tiny_data: Path, tmp_path: Path
) -> None:
    """Logits and the [CLS] state of every layer, on padded pairs; then again by plain transformers from the texts."""
    folder = write(kind)
    model = load_classifier(folder, LABELS, seed=3).eval()
    again = load_classifier(folder, LABELS, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    batch = make_batch(tiny_data, folder, model.config.pad_token_id)
    raw = load_raw(TASKS["MRPC"], tiny_data)["train"]
    for layers in ((1, 2, 3, 4), (1,), (1, 3), (2, 4)):
        student = cut_to_layers(model, layers).eval()
        target = tmp_path / "-".join(map(str, layers))
        save_classifier(student, folder, target, max_length=32)
        with torch.no_grad():
            output = run(student, batch)
            plain = AutoModelForSequenceClassification.from_pretrained(target)
            tokenizer = AutoTokenizer.from_pretrained(target)
            assert tokenizer.model_max_length == 32
            texts = [list(sentences[:12]) for sentences in (raw.sentence1, raw.sentence2 or [])]
            inputs = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")
            assert ("token_type_ids" in inputs) == takes_segment_ids(student) == (kind in ("bert", "electra"))
            expected = plain(**inputs, output_hidden_states=True)
        torch.testing.assert_close(output.logits_BC, expected.logits, rtol=1e-5, atol=1e-5)
        states_BLH = torch.stack([states[:, 0] for states in expected.hidden_states[1:]], dim=1)
        assert states_BLH.shape[1] == len(layers)
        torch.testing.assert_close(output.cls_BLH, states_BLH, rtol=1e-5, atol=1e-5)
        assert encoder_problems(target, "--model") == []


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("layers", [1, 3])
def test_the_fast_way_has_the_gradients_of_the_general_way(
    kind: str, layers: int, write: Callable[[str], Path], tiny_data: Path
) -> None:
    model = load_classifier(write(kind), LABELS, seed=3)
    fast, general = (cut_to_layers(model, range(1, layers + 1)).eval() for _ in range(2))
    assert is_fast(fast)
    batch = make_batch(tiny_data, write(kind), model.config.pad_token_id)
    for student, way in ((fast, run), (general, run_general)):
        output = way(student, batch)
        loss = torch.nn.functional.cross_entropy(output.logits_BC, batch.labels_B)
        (loss + output.cls_BLH.square().mean()).backward()
    for (name, parameter), (_, reference) in zip(fast.named_parameters(), general.named_parameters(), strict=True):
        assert parameter.grad is not None, name
        assert reference.grad is not None, name
        torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", TYPES)
def test_each_family_has_dropout_in_training_only(kind: str, write: Callable[[str], Path], tiny_data: Path) -> None:
    model = load_classifier(write(kind), LABELS, seed=3)
    batch = make_batch(tiny_data, write(kind), model.config.pad_token_id)
    first, second = (run(model.train(), batch).cls_BLH for _ in range(2))
    assert not torch.equal(first, second)


def test_a_modernbert_layer_stays_local_or_global(write: Callable[[str], Path]) -> None:
    model = load_classifier(write("modernbert"), LABELS, seed=3)
    kinds = model.config.layer_types
    assert kinds == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    student = cut_to_layers(model, (2, 4))
    assert student.config.layer_types == ["sliding_attention", "full_attention"]
    assert [layer.attention_type for layer in student.model.layers] == student.config.layer_types
    assert torch.equal(student.model.layers[1].attn.Wqkv.weight, model.model.layers[3].attn.Wqkv.weight)
    assert model.config.num_hidden_layers == 4


def test_deberta_keeps_its_relative_embeddings_and_convolution(write: Callable[[str], Path]) -> None:
    model = load_classifier(write("deberta-v2"), LABELS, seed=3)
    student = cut_to_layers(model, (2, 3))
    for name in ("rel_embeddings.weight", "conv.conv.weight", "LayerNorm.weight"):
        assert torch.equal(student.deberta.encoder.state_dict()[name], model.deberta.encoder.state_dict()[name])


def test_roberta_counts_positions_without_padding_tokens_in_a_text(write: Callable[[str], Path]) -> None:
    model = load_classifier(write("roberta"), LABELS, seed=3).eval()
    ids = torch.tensor([[0, 10, 1, 11, 2, 1, 1], [0, 12, 13, 14, 15, 16, 2]])
    mask = torch.tensor([[True] * 5 + [False] * 2, [True] * 7])
    batch = Batch(torch.arange(2), ids, torch.zeros_like(ids), mask, torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        torch.testing.assert_close(run(model, batch).cls_BLH, run_general(model, batch).cls_BLH, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "distilbert"])
def test_shards_are_read_and_have_the_same_key(kind: str, write: Callable[[str], Path], tmp_path: Path) -> None:
    whole = load_classifier(write(kind), LABELS, seed=0)
    for name, size in (("whole", "1GB"), ("shards", "30KB")):
        whole.save_pretrained(tmp_path / name, max_shard_size=size)
        AutoTokenizer.from_pretrained(write(kind)).save_pretrained(tmp_path / name)
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert encoder_problems(tmp_path / "shards", "--teacher") == []
    assert weights_key(tmp_path / "shards") == weights_key(tmp_path / "whole")
    loaded = load_classifier(tmp_path / "shards", LABELS, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), loaded.parameters(), strict=True))
    shards[0].unlink()
    (problem,) = encoder_problems(tmp_path / "shards", "--teacher")
    assert f"names {shards[0].name}, which is not there; download or save the model again" in problem
    (tmp_path / "shards" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../../secret"}}')
    (problem,) = encoder_problems(tmp_path / "shards", "--teacher")
    assert "model.safetensors.index.json does not name the weight files" in problem


def test_decoders_are_model_types_of_transformers() -> None:
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    assert [kind for kind in DECODERS if kind not in known and kind != "gpt-sw3"] == []


write_with = partial(write_model, seed=1)


def test_a_model_with_one_segment_id_gets_none_and_leaves_without(tiny_data: Path, tmp_path: Path) -> None:
    """Its tokenizer makes two, with which plain transformers would fail."""
    folder = write_with(tmp_path / "one", "bert", type_vocab_size=1)
    model = load_classifier(folder, LABELS, seed=0).eval()
    batch = make_batch(tiny_data, folder, 0)
    assert batch.token_types_BT.max() == 1
    save_classifier(model, folder, tmp_path / "saved")
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "saved").model_input_names
    with torch.no_grad():
        torch.testing.assert_close(run(model, batch), run_general(model, batch), rtol=1e-5, atol=1e-5)


def test_what_leaves_is_what_was_trained_whatever_the_tokenizer_was_set_to(tiny_data: Path, tmp_path: Path) -> None:
    folder = write_with(tmp_path / "odd", "bert")
    path = folder / "tokenizer_config.json"
    odd = {"model_input_names": ["input_ids", "attention_mask"], "padding_side": "left", "truncation_side": "left"}
    path.write_text(json.dumps(json.loads(path.read_text()) | odd))
    model = load_classifier(folder, LABELS, seed=0).eval()
    split = load_features(TASKS["MRPC"], tiny_data, folder, 12)[
        "train"
    ]  # so that some pairs are truncated, and some padded
    batch = collate(split, np.arange(12), torch.device("cpu"), 0)
    assert batch.token_types_BT.max() == 0
    assert (split.lengths[:12] == 12).any()
    assert not batch.mask_BT.all()
    save_classifier(model, folder, tmp_path / "saved", max_length=12)
    raw = load_raw(TASKS["MRPC"], tiny_data)["train"]
    assert raw.sentence2 is not None
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "saved"), top_k=None, batch_size=12)
    pairs = [{"text": a, "text_pair": b} for a, b in zip(raw.sentence1[:12], raw.sentence2[:12], strict=True)]
    found = [{each["label"]: each["score"] for each in row} for row in classify(pairs, truncation=True, padding=True)]
    with torch.no_grad():
        expected = run(model, batch).logits_BC.softmax(-1)
    torch.testing.assert_close(
        torch.tensor([[row[label] for label in LABELS] for row in found]), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", TYPES)
def test_outputs_are_put_in_the_order_of_the_labels(
    kind: str, write: Callable[[str], Path], tiny_data: Path, tmp_path: Path
) -> None:
    """Three classes, of which none stays in its place."""
    given, wanted = ("b", "c", "a"), ("a", "b", "c")
    model = load_classifier(write(kind), given, seed=3).eval()
    save_classifier(model, write(kind), tmp_path / "tuned")
    ordered = load_classifier(tmp_path / "tuned", wanted, seed=0).eval()
    assert ordered.config.id2label == {0: "a", 1: "b", 2: "c"}
    batch = make_batch(tiny_data, write(kind), model.config.pad_token_id)
    with torch.no_grad():
        before, after = (run(each, batch).logits_BC for each in (model, ordered))
    torch.testing.assert_close(after, before[:, [2, 0, 1]], rtol=1e-5, atol=1e-6)
