"""The Bradley-Terry reward model (Bradley and Terry, 1952; as in Ouyang et al., 2022, arXiv 2203.02155).

L = -log sigmoid( r(x, y_w) - r(x, y_l) )
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Groups, Pairs, chosen_rejected
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics


class BradleyTerry(Method):
    """Learns a reward from pairs; acts not at all."""

    eats = Pairs
    roles = ("reward",)
    trains = ("reward",)

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        r_w, r_l = chosen_rejected(self.reward.score(batch), batch.label)
        margin = r_w - r_l
        metrics = {"rewards/chosen": r_w, "rewards/rejected": r_l, "rewards/margins": margin}
        metrics["rewards/accuracies"] = (margin > 0).float()
        return -logsigmoid(margin), {name: value.detach() for name, value in metrics.items()}

    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        raise PrefoptError("a reward model answers nothing", "use it as the reward of method=best_of_n")

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
