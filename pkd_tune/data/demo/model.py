"""The demo's stand-in for a pretrained model: a small BERT folder, the same one for every task.

A demo has no time to pretrain. So the folder's random weights have three properties of pretrained ones that help to
compare sentences: words of similar meaning are near each other, attention looks for what resembles the word itself,
and a head's output opposes its input (a match leaves little behind). With independent random weights the same model
learns MRPC's corpus so late that the same training ends at 75 %.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pkd_tune.data.demo.world import MANNERS, QUALITIES, QUESTION_WORDS, SOMEONE, WORDS

if TYPE_CHECKING:
    from torch import Tensor

KINDS = [*WORDS.values(), *MANNERS]
"""Concepts by kind: the words of one kind resemble each other, those of one concept do so more."""
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
    """Returns MRPC's tokens. Their ids and weights stay when words are added: MRPC's measured scores rest on them."""
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_GRAMMAR_WORDS, *_words_of(KINDS)]


def vocabulary() -> list[str]:
    """Returns every token of the demo in the order of its id, [PAD] first."""
    return [*_first_vocabulary(), *_LATER_GRAMMAR_WORDS, *_words_of(LATER_KINDS)]


def write_model(folder: Path, seed: int) -> None:
    """Writes config, weights and tokenizer as any BERT folder has them; the same seed gives the same bytes."""
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
            """Moves the words of a kind, and more so those of a concept, towards a common place."""
            for kind in kinds:
                kind_D = torch.randn(hidden) * std
                for concept in kind:
                    concept_D = torch.randn(hidden) * std
                    for word in concept:
                        words_VD[ids[word]] += kind_D + concept_D

        words_VD = model.embeddings.word_embeddings.weight  # V: tokens, D: hidden size
        words_VD *= 0.5
        draw_near(KINDS, words_VD)
        # What a word is should weigh more than where it stands, until training says otherwise.
        model.embeddings.position_embeddings.weight *= 0.5

        for layer in model.encoder.layer:
            attention = layer.attention
            torch.nn.init.normal_(attention.self.query.weight, std=0.08)
            attention.self.key.weight.copy_(attention.self.query.weight)
            torch.nn.init.orthogonal_(attention.self.value.weight, gain=0.7)
            attention.output.dense.weight.copy_(-attention.self.value.weight.T)

        # Drawn last, and appended: so no weight above depends on how many words came later.
        all_words_VD = torch.cat([words_VD, torch.randn(len(ids) - first, hidden) * std * 0.5])
        draw_near(LATER_KINDS, all_words_VD)
        model.embeddings.word_embeddings.weight = torch.nn.Parameter(all_words_VD)
        model.config.vocab_size = len(ids)

    model.config.save_pretrained(folder)
    # What `model.save_pretrained` writes, without its progress bar.
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    BertTokenizer(vocab=ids, model_max_length=model.config.max_position_embeddings).save_pretrained(folder)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in ids).encode())
