"""Self-revision: answer, then revise the own answer several times (Choi et al., 2024, arXiv 2406.01660).

    y_0 ~ pi(. | x),   y_i ~ pi(. | x, y_{i-1}),   i = 1 .. N

Nothing is trained. It is of use where the policy knows how to revise, as one trained by `method=srpo` does.
"""

import torch
from torch import Tensor

from prefopt.batch import Groups, Prompts
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.revision import revised, revised_logps
from prefopt.table import Table


class SelfRevision(Method):
    """Args: revisions: N. Raises PrefoptError where it is negative."""

    eats = Prompts
    trains = ()
    worlds = frozenset({"text"})

    def __init__(self, *, revisions: int = 1) -> None:
        super().__init__()
        if revisions < 0:
            raise PrefoptError(f"method.revisions={revisions} is no number of revisions", "give 0 or more")
        self.revisions = revisions

    def collect(self, data: Table, round: int) -> None:
        return None

    @torch.no_grad()
    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        answers: Groups = self.policy.sample(prompts, n, generator)
        for _ in range(self.revisions):
            answers = revised(self.policy, answers, generator)
        return answers

    def score(self, groups: Groups) -> Tensor:
        """[B, n] how likely each response is as a revision of one of its group, in nats."""
        return revised_logps(self.policy, groups).mean(1)
