"""Alignment via optimal transport, unpaired (Melnyk et al., 2024, arXiv 2406.05882).

    L_i = -log sigmoid(beta D_(i)),   D_(i) = i-th smallest log pi/ref of the winners - i-th smallest of the losers

over the batch: implied rewards of winners are to dominate those of losers as distributions, whatever pairs they came
in. A pair has the loss of its own winner. Log-probs are sums over tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.objectives.aot import of_same_rank
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class AOTUnpaired(DPO):
    """Args: beta as in DPO."""

    coupled = True

    def preference(self, pair: Pair) -> Tensor:
        return -logsigmoid(self.beta * (pair.w.ratio - of_same_rank(pair.l.ratio, pair.w.ratio)))
