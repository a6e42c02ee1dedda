"""The Bradley-Terry reward model (Bradley and Terry, 1952; as in Ouyang et al., 2022, arXiv 2203.02155).

    L(+) = -log sigmoid( r(x, y_w) - r(x, y_l) - margin |m| ),   L(-) that of the swapped pair
    L = robust( L(+), L(-) ) + centring [ r(x, y_w) + r(x, y_l) ]^2

m: the recorded margin (Touvron et al., 2023, arXiv 2307.09288); as a label may contradict it, only its strength counts,
for either label, and where it is not known it is 0. The last term settles the constant that the first leaves open
(Eisenstein et al., 2023, arXiv 2312.09244); it is the same for both labels, so no robustifier touches it. A soft label
is a robustifier: smoothing, or soft_label.
"""

from math import isfinite

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Groups, Pairs, chosen_rejected
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier


class BradleyTerry(Method):
    """Learns a reward from pairs; acts not at all.

    Args: robust: as in the pairwise family. margin: >= 0, nats of reward per unit of a recorded margin. centring: >= 0.
    Raises PrefoptError where margin is set and no pair to train on has one.
    """

    eats = Pairs
    roles: tuple[str, ...] = ("reward",)
    trains = ("reward",)

    def __init__(self, *, robust: Robustifier, margin: float = 0.0, centring: float = 0.0) -> None:
        super().__init__()
        for name, value in (("margin", margin), ("centring", centring)):
            if not (isfinite(value) and value >= 0):
                raise PrefoptError(f"method.{name}={value} is not in [0, inf)", f"method.{name}=0 leaves it out")
        self.robust, self.margin, self.centring, self.coupled = robust, margin, centring, robust.coupled

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        return self._losses(self.reward.score(batch), batch, self.robust)

    @torch.no_grad()
    def weigh(self, batch: Pairs) -> Tensor | None:
        r_w, r_l = chosen_rejected(self.reward.score(batch), batch.label)
        return self.robust.trust(*self._sides(r_w - r_l, batch), batch)

    def _losses(self, rewards: Tensor, batch: Pairs, robust: Robustifier) -> tuple[Tensor, Metrics]:
        """[B] losses, and metrics, of rewards [B, 2]."""
        r_w, r_l = chosen_rejected(rewards, batch.label)
        z = r_w - r_l
        losses: Tensor = robust(*self._sides(z, batch), batch)
        if self.centring:
            losses = losses + self.centring * (r_w + r_l) ** 2
        metrics = {"rewards/chosen": r_w, "rewards/rejected": r_l, "rewards/margins": z}
        metrics["rewards/accuracies"] = (z > 0).float()
        return losses, {name: value.detach() for name, value in metrics.items()} | robust.facts()

    def _sides(self, z: Tensor, batch: Pairs) -> tuple[Tensor, Tensor]:
        """L(+) and L(-) [B] of reward differences [B]."""
        m = self._required(batch, z)
        return -logsigmoid(z - m), -logsigmoid(-z - m)

    def _required(self, batch: Pairs, like: Tensor) -> Tensor | float:
        """By how much a pair is to be won: [B], or 0."""
        if not self.margin:
            return 0.0
        if batch.margin is None:
            if self.training:
                raise PrefoptError(
                    f"method.margin={self.margin} is for pairs with a recorded margin, and these have none",
                    "give the data a column margin, or score_chosen and score_rejected, or set method.margin=0",
                )
            return 0.0
        return self.margin * batch.margin.abs().nan_to_num(nan=0.0).to(like.dtype)

    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        raise PrefoptError("a reward model answers nothing", "use it as the reward of method=best_of_n")

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
