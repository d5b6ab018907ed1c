"""Writers of tiny, randomly initialised models of every family, each with a tokenizer of its own kind."""

from pathlib import Path
from typing import Any

from tiny import VOCABULARY, WORDS

WIDTH = 32
LAYERS = 4
TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "deberta-v2", "modernbert")

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_TEXT = ["same", "other", ".", *WORDS]


def _bpe(**options: Any) -> Any:
    """Returns RoBERTa's tokenizer, by bytes and without merges but for the space before a word."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaTokenizer

    tokens = [*_SPECIAL, *sorted(ByteLevel.alphabet()), "<mask>"]
    return RobertaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], **options)


def _unigram(kind: str) -> Any:
    """Returns a tokenizer of the SentencePiece kind: words with a mark for the space before them, and letters."""
    import transformers

    words = [f"▁{word}" for word in _TEXT]
    letters = ["▁", *sorted({letter for word in _TEXT for letter in word} - {"."}), "."]
    pieces = [*words, *letters]
    scored = [(piece, -1.0 - 0.01 * i) for i, piece in enumerate(pieces)]
    if kind == "deberta-v2":
        special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
        vocabulary = [*((token, 0.0) for token in special), *scored]
        return transformers.DebertaV2Tokenizer(vocab=vocabulary, unk_id=3)
    vocabulary = [*((token, 0.0) for token in _SPECIAL), *scored, ("<mask>", 0.0)]
    tokenizer = {"xlm-roberta": transformers.XLMRobertaTokenizer, "camembert": transformers.CamembertTokenizer}[kind]
    return tokenizer(vocab=vocabulary)


def write_sentencepiece(folder: Path, kind: str, *, vocab_size: int = 30) -> None:
    """Puts a SentencePiece model in the place of a model folder's tokenizer.json; takes the package sentencepiece."""
    import sentencepiece

    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    names = dict(zip(("pad_piece", "bos_piece", "eos_piece", "unk_piece"), special, strict=True))
    own: dict[str, Any] = {**names, "user_defined_symbols": ["[MASK]"]} if kind == "deberta-v2" else {}
    path = folder / ("spm.model" if kind == "deberta-v2" else "sentencepiece.bpe.model")
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(f"{first} {second} ." for first in _TEXT for second in _TEXT),
            model_writer=file,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            minloglevel=2,
            **(own and {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, **own}),
        )
    (folder / "tokenizer.json").unlink()


def _wordpiece(kind: str) -> Any:
    import transformers

    names = {"distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer"}
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    return getattr(transformers, names.get(kind, "BertTokenizer"))(vocab=vocabulary)


def _modern() -> Any:
    """Returns a tokenizer as ModernBERT has it: a plain tokenizer.json without segment ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_input_names=["input_ids", "attention_mask"], mask_token="[MASK]", **names
    )


def _tokenizer(kind: str) -> Any:
    if kind == "roberta":
        return _bpe()
    if kind in ("xlm-roberta", "camembert", "deberta-v2"):
        return _unigram(kind)
    return _modern() if kind == "modernbert" else _wordpiece(kind)


def _settings(kind: str, layers: int) -> dict[str, Any]:
    """Returns what a family's configuration needs to be tiny, with what is peculiar to the family in use."""
    shape = {"hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
    common: dict[str, Any] = {**shape, "max_position_embeddings": 128, "initializer_range": 0.15}
    match kind:
        case "roberta" | "xlm-roberta" | "camembert":
            return {**common, "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 130}
        case "electra":
            return {**common, "embedding_size": 16}
        case "distilbert":
            return {
                "dim": WIDTH,
                "n_layers": layers,
                "n_heads": 2,
                "hidden_dim": 64,
                "max_position_embeddings": 128,
                "initializer_range": 0.15,
            }
        case "deberta-v2":
            return {
                **common,
                "relative_attention": True,
                "position_buckets": 8,
                "norm_rel_ebd": "layer_norm",
                "share_att_key": True,
                "pos_att_type": ["p2c", "c2p"],
                "position_biased_input": False,
                "type_vocab_size": 0,
                "conv_kernel_size": 3,
                "conv_act": "gelu",
            }
        case "modernbert":
            ids = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
            # As many layers see everything, or 4 tokens to each side; the classifier of ModernBERT-base is a mean.
            return {**common, **ids, "local_attention": 8, "classifier_pooling": "mean", "attention_dropout": 0.1}
    return common


def write_model(folder: Path, kind: str, *, layers: int = LAYERS, seed: int = 0, **settings: Any) -> Path:
    """Writes a Hugging Face folder with a small encoder of a family, given by its model type; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True)
    tokenizer = _tokenizer(kind)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(kind, **{**_settings(kind, layers), "vocab_size": len(tokenizer), **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)
    return folder
