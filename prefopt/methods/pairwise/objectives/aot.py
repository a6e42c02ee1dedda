"""Alignment via optimal transport, paired (Melnyk et al., 2024, arXiv 2406.05882).

    L_i = -log sigmoid(beta D_(i)),   D_(i) = i-th smallest log pi(y_w)/pi(y_l) - i-th smallest log ref(y_w)/ref(y_l)

over the batch: the margins of the policy are to dominate those of the reference as distributions, not pair by pair. A
pair has the loss of its own policy margin. Flipping all labels turns both orders round, so that L(-) is L at -D.
Log-probs are sums over tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class AOT(DPO):
    """Args: beta as in DPO."""

    coupled = True

    def preference(self, pair: Pair) -> Tensor:
        assert pair.w.reference is not None and pair.l.reference is not None
        margin, reference = pair.w.S - pair.l.S, pair.w.reference.sum(-1) - pair.l.reference.sum(-1)
        return -logsigmoid(self.beta * (margin - of_same_rank(reference, margin)))


def of_same_rank(values: Tensor, like: Tensor) -> Tensor:
    """[B] for each of `like` that one of `values` which has its rank."""
    rank = like.argsort(stable=True).argsort()
    return values.sort().values[rank]
