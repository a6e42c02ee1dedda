"""Weights of response tokens, m_u of their log-ratios and m_d of their KL, from the reference alone: for `sparsepo`.

Each mask gives [M] values for the M response tokens of a batch, in the order of `groups.mask`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from prefopt.batch import Groups

START = 0.5
"""Of every layer's gate: with a ReLU at its usual start half of the heads would be dead from the beginning."""


class Mask(nn.Module):
    """common: whether m_u and m_d are one."""

    common: bool = True


class Ones(Mask):
    """m_u = m_d = 1: token-level DPO, TDPO1 (Zeng et al., 2024, arXiv 2404.11999)."""

    def forward(self, reference: Any, groups: Groups, states: Tensor) -> tuple[Tensor, Tensor]:
        ones = states.new_ones(states.shape[1])
        return ones, ones


class Activations(Mask):
    """MaPO: m_u = m_d = the reference's activations, a mean over the units of each site, from 0 for the least of a
    response's tokens to 1 for the largest, a mean over sites. A site that is level over a response gives 0 there.

    (The paper first standardises over the response's tokens, which the scaling to [0, 1] undoes.)
    """

    def forward(self, reference: Any, groups: Groups, states: Tensor) -> tuple[Tensor, Tensor]:
        mask = groups.mask
        sites = reference.activations(groups).float()
        padded = sites.new_zeros(len(sites), *mask.shape).masked_scatter(mask.expand(len(sites), *mask.shape), sites)
        low = padded.masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
        high = padded.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
        scaled = (padded - low) / (high - low).masked_fill(high <= low, 1.0)
        m = scaled.mean(0)[mask]
        return m, m


class Learned(Mask):
    """A head on the reference's states, which predict the token and do not see it, trained with the policy:

        g_l = ReLU(<a_l, LayerNorm(states_l)> + b_l),   m = ReLU(sum_l c_l g_l)         over the blocks l

    The paper's dropout of 0.01 is left out: a loss must not depend on the micro-batch that its example is in.

    Args: independent: m_u and m_d each by gates of its own, else one for both. lr: of the head, None for that of the
    policy. weight_decay: of the head.
    """

    def __init__(self, *, independent: bool = False, lr: float | None = None, weight_decay: float = 0.01) -> None:
        super().__init__()
        self.common = not independent
        self.optimizer_options = {"weight_decay": weight_decay} | ({} if lr is None else {"lr": lr})

    def build(self, layers: int, width: int, like: Tensor) -> None:
        """Make the head, for this many blocks of this width, in `like`'s precision where that is fp32 or more."""
        where: Any = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
        self.norm = nn.LayerNorm(width, **where)
        bound, masks = width**-0.5, 1 if self.common else 2
        self.gates = nn.Parameter(torch.empty(masks, layers, width, **where).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.full((masks, layers, 1), START, **where))
        self.mixer = nn.Parameter(torch.full((masks, layers, 1), 1 / layers, **where))

    def forward(self, reference: Any, groups: Groups, states: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm(states.detach().to(self.gates.dtype))
        gates = (torch.einsum("lmd,kld->klm", normed, self.gates) + self.bias).relu()
        m = (self.mixer * gates).sum(1).relu()
        return m[0], m[-1]
