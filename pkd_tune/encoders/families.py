"""Model families as data: where a family keeps its modules, its settings and their defaults. Imports no torch.

Module and tensor names are those of transformers. A path such as `attention.self.query` is relative to what its field
says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Head = Literal["pooler", "dense", "pre_classifier"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPaths:
    """Modules of a post-LayerNorm transformer layer, as paths from the layer."""

    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_dropout: str = "attention.self.dropout"
    """Of attention probabilities."""
    projection: str = "attention.output.dense"
    """Maps the attention context to the layer's width."""
    projection_dropout: str | None = "attention.output.dropout"
    """None: there is none."""
    attention_norm: str = "attention.output.LayerNorm"
    inner: str = "intermediate.dense"
    """First matrix of the feed-forward network."""
    activation: str = "intermediate.intermediate_act_fn"
    outer: str = "output.dense"
    """Second matrix of the feed-forward network."""
    outer_dropout: str = "output.dropout"
    norm: str = "output.LayerNorm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A model family."""

    model_type: str
    """In config.json."""
    title: str
    """Its name in messages."""
    encoder: str
    """Attribute of the classifier that holds the encoder; the prefix of its tensors."""
    layers: str = "encoder.layer"
    """Path from the encoder to its list of layers."""
    paths: LayerPaths | None = LayerPaths()
    """For the fast forward pass; None: the family runs transformers' own."""
    slowdown: float | None = None
    """How many times as long a training step takes as BERT's fast one of the same shape, measured on a CPU
    (docs/performance.md), in a family without a fast forward pass; None where there is one."""
    words: str = "embeddings.word_embeddings"
    """Path from the encoder to the token embeddings."""
    positions: str | None = "embeddings.position_embeddings"
    """Path from the encoder to the absolute position embeddings; None where there may be none."""
    last_matrix: str = "output.dense"
    """Path from a layer to the second matrix of its feed-forward network."""
    head: Head | None = "pooler"
    """How the fast forward pass computes logits from the top [CLS] state."""
    head_tensors: Mapping[str, str] = field(hash=False)
    """Tensors of the classification head and their shapes: letters of C classes and H hidden size."""
    segment_ids: bool = True
    """Whether the model takes `token_type_ids`."""
    positions_follow_padding_id: bool = False
    """Whether the first token has position `pad_token_id` + 1 rather than 0."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Implementation of attention in transformers."""
    settings: Mapping[str, Any] = field(hash=False)
    """The fields of config.json that decide, with the weights, outputs and training, with transformers' defaults."""
    own_names: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What the family calls the settings that BERT calls `hidden_size`, `hidden_act` and so on, where it differs."""

    def name(self, setting: str) -> str:
        """Returns the family's name of a setting, given BERT's."""
        return self.own_names.get(setting, setting)

    def value(self, config: Mapping[str, Any], setting: str) -> Any:
        """Returns a setting of a config.json, given BERT's name of it; its default where it is not there."""
        name = self.name(setting)
        # transformers reads either name.
        return config.get(name, config.get(setting, self.settings[name]))


BERT_SETTINGS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "initializer_range": 0.02,
}

_POOLED = {
    "classifier.weight": "CH",
    "classifier.bias": "C",
    "pooler.dense.weight": "HH",
    "pooler.dense.bias": "H",
}
_DENSE = {
    "classifier.out_proj.weight": "CH",
    "classifier.out_proj.bias": "C",
    "classifier.dense.weight": "HH",
    "classifier.dense.bias": "H",
}


def _roberta(model_type: str, title: str, vocab_size: int) -> Family:
    return Family(
        model_type=model_type,
        title=title,
        encoder="roberta",
        head="dense",
        head_tensors=_DENSE,
        positions_follow_padding_id=True,
        settings={**BERT_SETTINGS, "vocab_size": vocab_size, "pad_token_id": 1},
    )


_FAMILIES = (
    Family(model_type="bert", title="BERT", encoder="bert", head_tensors=_POOLED, settings=BERT_SETTINGS),
    _roberta("roberta", "RoBERTa", 50265),
    _roberta("xlm-roberta", "XLM-RoBERTa", 30522),
    _roberta("camembert", "CamemBERT", 30522),
    Family(
        model_type="electra",
        title="ELECTRA",
        encoder="electra",
        head="dense",
        head_tensors=_DENSE,
        settings={
            **BERT_SETTINGS,
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
    ),
    Family(
        model_type="distilbert",
        title="DistilBERT",
        encoder="distilbert",
        layers="transformer.layer",
        paths=LayerPaths(
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            attention_dropout="attention.dropout",
            projection="attention.out_lin",
            projection_dropout=None,
            attention_norm="sa_layer_norm",
            inner="ffn.lin1",
            activation="ffn.activation",
            outer="ffn.lin2",
            outer_dropout="ffn.dropout",
            norm="output_layer_norm",
        ),
        last_matrix="ffn.lin2",
        head="pre_classifier",
        head_tensors={
            "classifier.weight": "CH",
            "classifier.bias": "C",
            "pre_classifier.weight": "HH",
            "pre_classifier.bias": "H",
        },
        segment_ids=False,
        settings={
            "vocab_size": 30522,
            "max_position_embeddings": 512,
            "n_layers": 6,
            "n_heads": 12,
            "dim": 768,
            "hidden_dim": 3072,
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "activation": "gelu",
            "initializer_range": 0.02,
            "seq_classif_dropout": 0.2,
            "pad_token_id": 0,
        },
        own_names={
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "hidden_size": "dim",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
        },
    ),
    Family(
        model_type="deberta-v2",
        title="DeBERTa-v2/v3",
        encoder="deberta",
        paths=None,
        slowdown=2.8,
        positions=None,
        head=None,
        head_tensors=_POOLED,
        attention="eager",
        settings={
            "vocab_size": 128100,
            "hidden_size": 1536,
            "num_hidden_layers": 24,
            "num_attention_heads": 24,
            "intermediate_size": 6144,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": 512,
            "type_vocab_size": 0,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-7,
            "relative_attention": False,
            "max_relative_positions": -1,
            "pad_token_id": 0,
            "position_biased_input": True,
            "pos_att_type": None,
            "pooler_dropout": 0.0,
            "pooler_hidden_act": "gelu",
            # Read with getattr(), so that transformers' configuration has no default for them:
            "embedding_size": None,
            "position_buckets": -1,
            "norm_rel_ebd": "none",
            "share_att_key": False,
            "conv_kernel_size": 0,
            "conv_groups": 1,
            "conv_act": "tanh",
            "cls_dropout": None,
        },
    ),
    Family(
        model_type="modernbert",
        title="ModernBERT",
        encoder="model",
        layers="layers",
        paths=None,
        slowdown=1.9,
        words="embeddings.tok_embeddings",
        positions=None,
        last_matrix="mlp.Wo",
        head=None,
        head_tensors={
            "classifier.weight": "CH",
            "classifier.bias": "C",
            "head.dense.weight": "HH",
            "head.norm.weight": "H",
        },
        segment_ids=False,
        settings={
            "vocab_size": 50368,
            "hidden_size": 768,
            "intermediate_size": 1152,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "hidden_activation": "gelu",
            "max_position_embeddings": 8192,
            "initializer_range": 0.02,
            "initializer_cutoff_factor": 2.0,
            "norm_eps": 1e-5,
            "norm_bias": False,
            "pad_token_id": 50283,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "layer_types": None,
            "rope_parameters": None,
            "local_attention": 128,
            "embedding_dropout": 0.0,
            "mlp_bias": False,
            "mlp_dropout": 0.0,
            "classifier_pooling": "cls",
            "classifier_dropout": 0.0,
            "classifier_bias": False,
            "classifier_activation": "gelu",
            # Older names, which transformers still reads:
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
        },
        own_names={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
    ),
)
FAMILIES = {family.model_type: family for family in _FAMILIES}
"""All supported families, by `model_type` in config.json."""

SHARED_LAYERS = ("albert",)
"""Model types whose layers share one set of weights."""

DECODERS = (
    *("bloom", "codegen", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt-sw3", "gpt2", "gpt_bigcode"),
    *("gpt_neo", "gpt_neox", "gptj", "granite", "llama", "llama4", "mamba", "mamba2", "mistral", "mixtral", "mpt"),
    *("olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2"),
)
"""Model types of language models that read from left to right."""


def refusal(model_type: object) -> str:
    """Returns why models of a type that is not in `FAMILIES` cannot be teachers or students, and the remedy."""
    *others, last = [family.title for family in _FAMILIES]
    remedy = f"give an encoder: {', '.join(others)} or {last}"
    if model_type is None:
        return f"config.json names no model_type; {remedy}"
    reason = ""
    if model_type in SHARED_LAYERS:
        reason = ": its layers share one set of weights, so that fewer of them are no smaller model"
    elif model_type in DECODERS:
        reason = ": it is a decoder, whose first token does not see the rest of the text"
    return f"a {model_type!r} model is not supported{reason}; {remedy}"
