"""The demo's replacement for a pretrained model: a small BERT folder, shared by all tasks.

It is not trained. Its random weights have three properties of pretrained ones that help to compare sentences: words of
similar meaning have similar embeddings, attention prefers similar tokens (keys equal queries), and the output
projection is the negative transpose of the values. With independent random weights the same model learns the demo
corpora much later.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pkd_tune.data.demo.world import MANNERS, QUALITIES, QUESTION_WORDS, SOMEONE, WORDS
from pkd_tune.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

KINDS = [*WORDS.values(), *MANNERS]
"""Concepts by kind; embeddings of one kind are similar, those of one concept more so."""
LATER_KINDS = [*QUALITIES, [SOMEONE]]
_GRAMMAR_WORDS = ("the", "was", "by", "quite", "not", ",", ".")
_LATER_GRAMMAR_WORDS = ("?", "had", "were", "and", "but", "although", *QUESTION_WORDS.values())

_MODEL = {
    "num_hidden_layers": 4,
    "hidden_size": 96,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.05,
}


def _words_of(kinds: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    return sorted({word for kind in kinds for concept in kind for word in concept})


def _first_vocabulary() -> list[str]:
    """Returns the tokens of MRPC, whose ids and weights must not change when words are added."""
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_GRAMMAR_WORDS, *_words_of(KINDS)]


def vocabulary() -> list[str]:
    """Returns all tokens of the demo in the order of their ids, [PAD] first."""
    return [*_first_vocabulary(), *_LATER_GRAMMAR_WORDS, *_words_of(LATER_KINDS)]


def write_model(folder: Path, seed: int) -> None:
    """Writes the config, weights and tokenizer of a BERT model folder; equal seeds give equal bytes."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, BertTokenizer

    ids = {token: index for index, token in enumerate(vocabulary())}
    first = len(_first_vocabulary())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = BertModel(BertConfig(vocab_size=first, architectures=["BertModel"], **_MODEL))
        hidden, std = model.config.hidden_size, model.config.initializer_range

        def draw_near(kinds: Sequence[Sequence[Sequence[str]]], words_VD: "Tensor") -> None:
            """Adds a common offset to the embeddings of each kind, and another to those of each concept."""
            for kind in kinds:
                kind_D = torch.randn(hidden) * std
                for concept in kind:
                    concept_D = torch.randn(hidden) * std
                    for word in concept:
                        words_VD[ids[word]] += kind_D + concept_D

        words_VD = model.embeddings.word_embeddings.weight  # V: tokens, D: hidden size
        words_VD *= 0.5
        draw_near(KINDS, words_VD)
        # Word embeddings should initially outweigh position embeddings.
        model.embeddings.position_embeddings.weight *= 0.5

        for layer in model.encoder.layer:
            attention = layer.attention
            torch.nn.init.normal_(attention.self.query.weight, std=0.08)
            attention.self.key.weight.copy_(attention.self.query.weight)
            torch.nn.init.orthogonal_(attention.self.value.weight, gain=0.7)
            attention.output.dense.weight.copy_(-attention.self.value.weight.T)

        # Drawn last, so that the weights above do not depend on the number of later words.
        all_words_VD = torch.cat([words_VD, torch.randn(len(ids) - first, hidden) * std * 0.5])
        draw_near(LATER_KINDS, all_words_VD)
        model.embeddings.word_embeddings.weight = torch.nn.Parameter(all_words_VD)
        model.config.vocab_size = len(ids)

    model.config.save_pretrained(folder)
    # As `model.save_pretrained` does, but without its progress bar.
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(model.state_dict(), temporary, metadata={"format": "pt"})
    longest = model.config.max_position_embeddings
    BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=longest).save_pretrained(folder)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in ids).encode())
