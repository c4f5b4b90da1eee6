"""The models of the reference job: a small GPT (many tensors) and an MLP (few large ones), on bytes."""

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from commbench.spec.train import TrainSpec
from commbench.training.text import VOCABULARY


class _Block(nn.Module):
    """Pre-norm attention and a feed-forward network of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, context, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, context, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, context, width))
        grown: torch.Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + grown


class GPT(nn.Module):
    """Predicts each next byte of a window."""

    def __init__(self, spec: TrainSpec) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, spec.width)
        self.place = nn.Parameter(torch.randn(spec.context, spec.width) * 0.02)
        blocks = [_Block(spec.width, spec.heads) for _ in range(spec.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(spec.width)
        self.head = nn.Linear(spec.width, VOCABULARY, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        for block in blocks:  # what is added to the stream stays small, however deep
            for layer in (block.out, block.down):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * spec.layers))

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(batch, context + 1) bytes -> the mean loss in nats a byte."""
        x = self.token(window[:, :-1]) + self.place
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), window[:, 1:].flatten())


class MLP(nn.Module):
    """Predicts the last byte of a window from all before it."""

    def __init__(self, spec: TrainSpec) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, 16)
        sizes = [16 * spec.context, *[spec.width] * spec.layers]
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in pairwise(sizes))
        self.head = nn.Linear(spec.width, VOCABULARY)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(batch, context + 1) bytes -> the mean loss in nats a byte."""
        x = self.token(window[:, :-1]).flatten(1)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(x), window[:, -1])


def build(spec: TrainSpec) -> GPT | MLP:
    """The spec's model on the CPU, the same on every rank: its numbers come from the seed."""
    torch.manual_seed(spec.seed)
    return GPT(spec) if spec.model == "gpt" else MLP(spec)


def tokens(spec: TrainSpec) -> int:
    """Bytes that one rank learns from in a step."""
    return spec.batch * (spec.context if spec.model == "gpt" else 1)
