"""Preference learning from rationales (Just et al., 2024, arXiv 2407.14477; there RDPO, RORPO, RSimPO).

Each pair says why its winner won, and the policy learns to say so too, when shown prompt, both responses and verdict:

    p(y_w > y_l, r | x) = p(y_w > y_l | x) p(r | x, y_w > y_l)
    L = L_preference(pi; x, y_w, y_l)  -  gamma log pi(r | J(x, y_w, y_l, verdict))

The verdict is the recorded label, and the rationale argues for it, right or flipped. The log-prob is a sum over the
rationale's tokens, EOS included, or their mean; the authors' code has log sigmoid(gamma log pi(r | J)) in its place,
which is link=logsigmoid. No rationale is asked for when the policy answers.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Groups, Pairs, Reasoned, chosen_rejected
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.table import Table


class Rationales(Pairwise):
    """Args: objective, robust: of the preference loss. gamma: weight of the rationale; for a sum over a real one 1e-3
    to 0.1, for a mean 0.1 to 10. link: `linear` or `logsigmoid`. reduce: `sum` or `mean` over tokens.

    Raises PrefoptError where a recorded label, right or flipped, has no rationale.
    """

    eats = Reasoned
    worlds = frozenset({"text"})

    def __init__(
        self,
        *,
        objective: Objective,
        robust: Robustifier,
        gamma: float = 0.01,
        link: Literal["linear", "logsigmoid"] = "linear",
        reduce: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__(objective=objective, robust=robust)
        for key, value, known in (("link", link, ("linear", "logsigmoid")), ("reduce", reduce, ("sum", "mean"))):
            if value not in known:
                raise PrefoptError(f"method.{key}={value} is no {key}", f"choose {' or '.join(known)}")
        if not gamma >= 0:
            raise PrefoptError(f"method.gamma={gamma} would unlearn the rationales", "give 0 or more")
        self.gamma, self.link, self.reduce = gamma, link, reduce

    def collect(self, data: Table, round: int) -> Table:
        said = torch.from_numpy(data.ragged["rationale"].lengths).view(-1, 2)
        missing = (chosen_rejected(said, torch.from_numpy(data.columns["label"].copy()))[0] == 0).nonzero()
        if len(missing):
            raise PrefoptError(
                f"{len(missing)} of {len(data)} recorded labels have no rationale, {data.ids[missing[0, 0]]} the first:"
                " a flipped label needs one that argues for it",
                "give a column rationale_flipped, or use noise=none",
            )
        return data

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        losses, metrics = super().loss(batch)
        if not self.gamma:
            return losses, metrics
        assert isinstance(batch, Reasoned)
        asked = self._asked(batch)
        logps = self.policy.logps(asked)[:, 0].sum(-1)
        mean = logps / asked.length[:, 0]
        error = -self.gamma * (logps if self.reduce == "sum" else mean)
        if self.link == "logsigmoid":
            error = -logsigmoid(-error)
        return losses + error, metrics | {"logps/rationale": logps.detach(), "logps/rationale_mean": mean.detach()}

    @staticmethod
    def _asked(batch: Reasoned) -> Groups:
        """The recorded verdicts, and their rationales as answers."""
        judge, judge_length, rationale, length = (
            chosen_rejected(values, batch.label)[0]
            for values in (batch.judge, batch.judge_length, batch.rationale, batch.rationale_length)
        )
        return Groups(
            index=batch.index,
            prompt=judge,
            prompt_length=judge_length,
            response=rationale[:, None],
            length=length[:, None],
            mean_length=length.float().mean(),
        )
