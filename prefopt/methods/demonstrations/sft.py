"""Supervised fine-tuning: imitate demonstrations (as in Ouyang et al., 2022, arXiv 2203.02155).

L = - sum over all response tokens of the batch of log pi(token) / number of those tokens
"""

from torch import Tensor

from prefopt.batch import Demonstrations
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics


class SFT(Method):
    """The token mean is over the whole optimisation batch, whatever the micro-batch."""

    eats = Demonstrations

    def loss(self, batch: Demonstrations) -> tuple[Tensor, Metrics]:
        logps = self.policy.logps(batch)[:, 0].sum(-1)
        return -logps / batch.mean_length, {"logps/demonstration": logps.detach()}
