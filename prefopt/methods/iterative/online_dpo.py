"""Online DPO: every round samples two responses a prompt, asks the judge, and learns from these pairs
(Guo et al., 2024, arXiv 2402.04792).

    y, y' ~ pi at the start of the round,   label ~ judge(x, y, y'),   then the pairwise loss against the frozen start
"""

from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.methods.rollout import Judge, judged
from prefopt.table import Table


class OnlineDPO(Pairwise):
    """Args: prompts: of a round. passes: over a round's pairs. objective, robust: as in the pairwise family."""

    judge: Judge

    def __init__(self, *, objective: Objective, robust: Robustifier, prompts: int = 128, passes: int = 1) -> None:
        super().__init__(objective=objective, robust=robust)
        self.per_round, self.passes = prompts, passes
        self.roles = (*self.roles, "judge")

    def collect(self, data: Table, round: int) -> Table:
        return judged(self, data, round, self.judge)
