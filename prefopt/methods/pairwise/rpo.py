"""Regularized preference optimisation: the SFT loss as an adversarial regulariser (Liu et al., NeurIPS 2024,
arXiv 2405.16436). Reward-aware preference optimisation and the iterative reasoning loss, also called RPO, are others.

    max_pi min_r  eta E_{y ~ pi, y_w ~ data}[ r(x, y) - r(x, y_w) - beta KL(pi || ref) ]  +  L_D(r)

plans against the worst reward that still fits the data, relative to the chosen responses. With r = beta log pi/ref its
inner problem has a closed form, and what is left is

    L = L_D(beta log pi/ref)  -  eta beta sum_t log pi(y_w,t | x, y_w,<t)

or, in the paper's variant for reasoning, with w mean_t in the place of eta beta sum_t. The SFT term is an anchor: it
stays on the recorded winner whatever a robustifier does.
"""

from torch import Tensor

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.methods.pairwise.pair import Pair


class RPO(Pairwise):
    """Args: eta: the adversary's weight; 0 is the objective alone. mean_weight: w of the token mean, which then takes
    the place of the sum (the paper's is 0.2); None for the sum.

    Raises PrefoptError where the objective has no beta to price the sum in, and where a weight is negative.
    """

    def __init__(
        self, *, objective: Objective, robust: Robustifier, eta: float = 0.005, mean_weight: float | None = None
    ) -> None:
        super().__init__(objective=objective, robust=robust)
        for key, value in (("eta", eta), ("mean_weight", mean_weight)):
            if value is not None and not value >= 0:
                raise PrefoptError(f"method.{key}={value} would push the chosen responses away", "give 0 or more")
        if mean_weight is None and objective.price is None:
            raise PrefoptError(
                "method=rpo weighs log pi(y_w) by eta beta, and the reward of this objective is not beta log pi/ref",
                "use method/objective=dpo, or give method.mean_weight=0.2 for the token mean with a weight of its own",
            )
        self.average = mean_weight is not None
        self.weight = mean_weight if mean_weight is not None else eta * (objective.price or 0.0)

    def _robust(self, pair: Pair, batch: Pairs) -> Tensor:
        losses = super()._robust(pair, batch)
        return losses - self.weight * (pair.w.A if self.average else pair.w.S) if self.weight else losses

    def metrics(self, pair: Pair) -> Metrics:
        """sft/token_weight: what a nat of a token of the chosen response costs."""
        token_weight = self.weight / pair.w.length if self.average else pair.w.S.new_full((), self.weight)
        return {**super().metrics(pair), "sft/nll": -pair.w.A.detach(), "sft/token_weight": token_weight}
