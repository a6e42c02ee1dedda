"""Weighted preference optimisation (Zhou et al., 2024, arXiv 2406.11827).

    L = w(y_w) w(y_l) [-log sigmoid(z)],   log w(y) = 1/|y| sum_t [ log pi(y_t) - log sum_v pi(v)^2 ],   z as in DPO

Pairs count by how likely the policy would say both responses now, against what it would say instead; the weights have
no gradient. Log-ratios are sums over tokens, weights means.
"""

from torch import Tensor

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair, Side


class WPO(DPO):
    """Args: beta as in DPO."""

    uses_collisions = True

    def preference(self, pair: Pair) -> Tensor:
        return _weight(pair.w) * _weight(pair.l) * super().preference(pair)


def _weight(side: Side) -> Tensor:
    assert side.collisions is not None
    return ((side.logps.detach() - side.collisions).sum(-1) / side.length).exp()
