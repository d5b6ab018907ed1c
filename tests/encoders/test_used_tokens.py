"""Embeddings of the used tokens against whole ones, in a model of every family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import TYPES, write_model

from pkd_tune.data.batches import Batch, collate
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import used_tokens
from pkd_tune.encoders.modeling import load_classifier, run, run_general
from pkd_tune.encoders.used_tokens import UsedTokenEmbedding, set_token_embedding, token_embedding


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("forward", [run, run_general])
def test_outputs_and_gradients_are_those_of_the_whole_embedding(
    kind: str, forward: Callable[..., Any], tiny_data: Path, once: Callable[[str, Any], Path]
) -> None:
    folder = once(f"family-{kind}", lambda folder: write_model(folder / "tiny", kind)) / "tiny"
    model = load_classifier(folder, ("no", "yes"), seed=3).eval()
    split = load_features(TASKS["MRPC"], tiny_data, folder, 32)["train"]
    pad_id = model.config.pad_token_id
    batch: Batch = collate(split, np.arange(12), torch.device("cpu"), pad_id)
    assert not batch.mask_BT.all()
    whole = token_embedding(model)
    tokens = np.union1d(used_tokens([split]), pad_id)
    assert len(tokens) < whole.num_embeddings
    expected = forward(model, batch)
    expected.logits_BC.square().sum().backward()

    used = UsedTokenEmbedding(whole, tokens)
    set_token_embedding(model, used)
    names = {name for name, _ in model.named_parameters()}
    found = forward(model, batch)
    torch.testing.assert_close(found.logits_BC, expected.logits_BC)
    torch.testing.assert_close(found.cls_BLH, expected.cls_BLH)
    found.logits_BC.square().sum().backward()
    assert used.weight.grad is not None
    assert whole.weight.grad is not None
    torch.testing.assert_close(used.weight.grad, whole.weight.grad[tokens])
    assert int(whole.weight.grad.count_nonzero()) == int(used.weight.grad.count_nonzero()) > 0
    set_token_embedding(model, whole)
    assert {name for name, _ in model.named_parameters()} == names


def test_rows_go_to_and_from_the_whole_embedding() -> None:
    whole = torch.nn.Embedding(5, 2)
    before = whole.weight.detach().clone()
    used = UsedTokenEmbedding(whole, np.array([1, 3]))
    used.weight.data.fill_(7.0)
    used.write(whole)
    used.scale_others(whole, 0.5)
    assert torch.equal(whole.weight[[1, 3]], torch.full((2, 2), 7.0))
    assert torch.equal(whole.weight[[0, 2, 4]], before[[0, 2, 4]] / 2)
    whole.weight.data.fill_(2.0)
    address = used.weight.data_ptr()
    used.read(whole)
    assert used.weight.data_ptr() == address  # captured steps read it there
    assert torch.equal(used.weight, torch.full((2, 2), 2.0))


def test_padding_has_no_gradient() -> None:
    used = UsedTokenEmbedding(torch.nn.Embedding(5, 2, padding_idx=3), np.array([1, 3]))
    used(torch.tensor([[1, 3, 3]])).sum().backward()
    assert used.weight.grad is not None
    assert used.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_a_token_that_is_not_among_them_is_an_error() -> None:
    used = UsedTokenEmbedding(torch.nn.Embedding(5, 2), np.array([1, 3]))
    with pytest.raises(IndexError):
        used(torch.tensor([1, 2]))
