"""The worst group: group robust preference optimisation, GR-DPO (Ramesh et al., NeurIPS 2024, arXiv 2405.20304).

    min_pi max_alpha sum_g alpha_g L_g,   L^_i = alpha_g/s_g L(+)_i for a pair i of group g, s_g its share of the data
    log alpha_g <- log alpha_g + step/B sum_{i of g} L(+)_i / s_g, then normalised          after each optimiser step

Weighted by importance, so that its mean over any batch is unbiased and no pair needs the others. alpha starts uniform.
With one group it is the plain objective. Influence: that of L(+), times alpha_g/s_g.
"""

import torch
from torch import Tensor

from prefopt import ranks
from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.members import metric_names, names
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.pairwise.robust.members import counted, places, sums
from prefopt.table import Table


class GroupWorst(Robustifier):
    """Args: step: of the exponentiated gradient, >= 0.

    alpha: [G + 1] log-weight of each group, and of the pairs without one, who are a group where there are any.
    share: [G + 1] of the training pairs. Raises PrefoptError where the data, or pairs of a method's own making, have no
    groups.
    """

    weighs = True
    alpha: Tensor
    share: Tensor
    noted: Tensor

    def __init__(self, *, step: float = 0.01) -> None:
        super().__init__()
        if not 0 <= step < float("inf"):
            raise PrefoptError(f"method.robust.step={step} is not in [0, inf)", "use 0.01; 0 weighs all groups alike")
        self.step = step
        self._size([], torch.ones(1))

    def begin(self, data: Table) -> None:
        groups = names(data, "group")
        if not groups:
            raise PrefoptError(
                "method.robust=group_worst needs groups, and these pairs have none",
                "add a column `group` to the data, or choose another robustifier",
            )
        self._size(groups, counted(data, "group"))

    def _size(self, groups: list[str], size: Tensor) -> None:
        self.names = groups
        self.register_buffer("share", size.double() / size.sum())
        self.register_buffer("alpha", self.share.sign().log().log_softmax(0))
        self.clear()

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        if self.names and batch.group is None:
            raise PrefoptError(
                "method.robust=group_worst needs groups, and pairs of a method's own making have none",
                "use method=group_dpo, or another robustifier",
            )
        place = places(batch.group, right, self.alpha)
        if self.training and batch.weight:
            noted = [sums(x, place, self.alpha) for x in (right, torch.ones_like(right))]
            self.noted = self.noted + torch.stack(noted)
        weight = torch.where(self.share > 0, self.alpha.exp() / self.share, 1.0)
        return weight[place].to(right.dtype) * right

    def clear(self) -> None:
        self.noted = self.alpha.new_zeros(2, len(self.alpha))

    def learn(self) -> None:
        loss, count = ranks.mean(self.noted)
        gain = torch.where(self.share > 0, loss / count.sum().clamp(min=1) / self.share, 0.0)
        self.alpha = (self.alpha + self.step * gain).log_softmax(0)

    def facts(self) -> Metrics:
        return {f"group/weight/{name}": self.alpha[k].exp() for k, name in enumerate(metric_names(self.names))}
