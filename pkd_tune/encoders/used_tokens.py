"""Token embeddings limited to the tokens that a training uses.

A row of the token embeddings whose token never occurs has no gradient: AdamW only shrinks it by weight decay. So
training holds the other rows alone, with their gradients and moments: of MiniLM's 30,522, CoLA uses 5,869. Afterwards
the rows that were left out are decayed at once.

Shape suffixes: V tokens of the vocabulary, U used ones, E embedding size.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pkd_tune.encoders.modeling import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class UsedTokenEmbedding(torch.nn.Module):
    """Token embedding that looks up the ids of the whole vocabulary in the rows of the tokens that are used."""

    def __init__(self, whole: torch.nn.Embedding, tokens_U: np.ndarray) -> None:
        """Copies rows of an embedding.

        Args:
            whole: Has a row for each token.
            tokens_U: Ids of the used tokens, ascending, padding among them. Looking up another one is an error.
        """
        super().__init__()
        device = whole.weight.device
        kept_U = torch.from_numpy(tokens_U.astype(np.int64)).to(device)
        row_V = torch.full((whole.num_embeddings,), len(tokens_U), device=device)
        row_V[kept_U] = torch.arange(len(tokens_U), device=device)
        self.register_buffer("tokens_U", kept_U, persistent=False)
        self.register_buffer("row_V", row_V, persistent=False)
        self.weight = torch.nn.Parameter(whole.weight.detach()[kept_U])
        self.padding_row = None if whole.padding_idx is None else int(np.searchsorted(tokens_U, whole.padding_idx))
        self.tokens_U: Tensor
        self.row_V: Tensor

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns the embeddings of token ids of any shape."""
        return torch.nn.functional.embedding(self.row_V[input_ids], self.weight, self.padding_row)

    @torch.no_grad()
    def read(self, whole: torch.nn.Embedding) -> None:
        """Takes the rows of the used tokens from a whole embedding, in place."""
        torch.index_select(whole.weight, 0, self.tokens_U, out=self.weight.data)

    @torch.no_grad()
    def write(self, whole: torch.nn.Embedding) -> None:
        """Puts the rows of the used tokens into a whole embedding, in place."""
        whole.weight[self.tokens_U] = self.weight

    @torch.no_grad()
    def scale_others(self, whole: torch.nn.Embedding, factor: float) -> None:
        """Multiplies the rows of all other tokens of a whole embedding with a factor, in place."""
        whole.weight.mul_(torch.where(self.row_V == len(self.tokens_U), factor, 1.0)[:, None])


def token_embedding(model: PreTrainedModel) -> torch.nn.Embedding:
    """Returns the token embedding of a classifier of any family."""
    family = family_of(model)
    found: torch.nn.Embedding = attrgetter(f"{family.encoder}.{family.words}")(model)
    return found


def set_token_embedding(model: PreTrainedModel, embedding: torch.nn.Module) -> None:
    """Replaces the token embedding of a classifier of any family."""
    family = family_of(model)
    path, _, name = f"{family.encoder}.{family.words}".rpartition(".")
    setattr(attrgetter(path)(model), name, embedding)
