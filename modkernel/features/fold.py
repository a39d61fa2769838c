"""Make a frozen chain cheaper to run: a batch norm after a convolution becomes part of it."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norms(chain: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions that they follow directly; returns the same chain.

    W' = W·γ/√(σ² + ε) and b' = (b - μ)·γ/√(σ² + ε) + β: equal but for rounding. Only neighbours
    in a plain `nn.Sequential` are folded, since elsewhere the order of execution is unknown.

    Args:
        chain: in eval mode; altered in place.
    """
    for parent in list(chain.modules()):
        if type(parent) is not nn.Sequential:
            continue
        parts = list(parent)
        for position, (first, second) in enumerate(pairwise(parts)):
            if not (type(first) is nn.Conv2d and type(second) is nn.BatchNorm2d):
                continue
            if second.track_running_stats and not first.training and not second.training:
                parent[position] = fuse_conv_bn_eval(first, second)
                parent[position + 1] = nn.Identity()
    return chain
