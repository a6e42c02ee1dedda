"""DPO with an offset (Amini et al., 2024, arXiv 2402.10571).

    L = -log sigmoid( z - alpha log |m| ),   z as in DPO, m the recorded margin of the pair

Who is preferred by much has to win by more. The paper's m is the gap of two scores and positive; here a label may
contradict its scores, so that only the strength |m| counts, and L(-) has the same offset. Where m = 0 the loss is 0,
the limit. Log-probs are sums over tokens.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair
from prefopt.table import Table


class ODPO(DPO):
    """Args: beta as in DPO. alpha: scale of the offset.

    Raises PrefoptError where pairs to train on have no margin.
    """

    def __init__(self, *, beta: float = 0.1, alpha: float = 1.0) -> None:
        super().__init__(beta=beta)
        self.alpha = alpha

    def begin(self, data: Table) -> None:
        missing = int(np.isnan(data.known.get("margin", np.full(len(data), np.nan))).sum())
        if missing:
            raise PrefoptError(
                f"method.objective=odpo needs the margin of every pair, and {missing} of {len(data)} have none",
                "give the data a column margin, or score_chosen and score_rejected; dataset=bandit has margins",
            )

    def preference(self, pair: Pair) -> Tensor:
        if pair.margin is None:
            raise PrefoptError(
                "method.objective=odpo needs the margin of every pair, and pairs of a method's own making have none",
                "use method=odpo, or another objective",
            )
        offset = self.alpha * pair.margin.abs().clamp(min=torch.finfo(torch.float32).tiny).log()
        z = self.z(pair)
        return -logsigmoid(z - offset.to(z.dtype))
