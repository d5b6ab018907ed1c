"""The demo's model: an ordinary BERT folder, whose words have one meaning each."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from pkd_tune.data.demo import write_demo
from pkd_tune.data.demo.model import KINDS, LATER_KINDS, vocabulary


def test_no_word_has_two_meanings() -> None:
    words = [word for kind in (*KINDS, *LATER_KINDS) for concept in kind for word in concept]
    assert len(words) == len(set(words))
    assert all(len(concept) == 2 for kind in (*KINDS, *LATER_KINDS) for concept in kind)
    assert len(vocabulary()) == len(set(vocabulary()))


def test_the_model_folder_is_an_ordinary_bert_that_knows_every_word(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    folder = write_demo(tmp_path, "WNLI")
    assert torch.equal(torch.get_rng_state(), state)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # the umask's
    model, report = BertModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    # The scores in the documentation were measured with these weights; words added since come last.
    embeddings = model.embeddings.word_embeddings.weight[5, :3].tolist()
    query = model.encoder.layer[3].attention.self.query.weight[0, :3].tolist()
    assert [*embeddings, *query] == pytest.approx(
        [0.003365, 0.00713, -0.010777, -0.068169, 0.00358, -0.050022], abs=1e-6
    )
    assert model.pooler is not None
    assert model.config.model_type == "bert"
    assert model.config.num_hidden_layers == 4
    assert model.config.vocab_size == len(vocabulary())
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [word for word in vocabulary() if word[0] != "["]
    ids = tokenizer(" ".join(words).upper(), add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == words
    assert tokenizer.model_max_length == 64
