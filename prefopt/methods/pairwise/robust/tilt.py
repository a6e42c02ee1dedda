"""The tilted mean of a batch. Downwards it is Dr. DPO (Wu et al., ICLR 2025, arXiv 2407.07880), which trusts pairs of
low loss; upwards, the opposite, KL-DPO (Xu et al., 2025, arXiv 2502.01930), the worst case over a KL ball of data.

    L^ = -b log mean exp(-L(+)/b)     or     b log mean exp(L(+)/b)

Influence: that of L(+) times B softmax(-L(+)/b), or B softmax(L(+)/b), over the batch. b -> inf is the plain mean.
"""

from math import log

from torch import Tensor

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Robustifier


class Tilt(Robustifier):
    """Args: temperature: b > 0, in nats. upwards: weigh pairs of high loss more instead of less."""

    weighs = True
    coupled = True

    def __init__(self, *, temperature: float = 1.0, upwards: bool = False) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise PrefoptError(
                f"method.robust.temperature={temperature} is not in (0, inf)",
                "use 1, and upwards=true for the other sign",
            )
        self.b = temperature if upwards else -temperature

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        tilted = self.b * ((right / self.b).logsumexp(0) - log(len(right)))
        return tilted.expand(len(right))
