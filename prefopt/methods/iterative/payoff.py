"""What an answer earns against another, from the log-odds [B, n, n] that it is preferred; as skew-symmetric as they."""

from collections.abc import Sequence

from torch import Tensor

from prefopt.batch import Groups
from prefopt.errors import PrefoptError


def log_odds(table: Tensor, scale: float = 1.0) -> Tensor:
    """scale times the log-odds: a preference model's scores s where `scale` is its temperature."""
    return scale * table


def win_rate(table: Tensor) -> Tensor:
    """P(i > j) - 1/2."""
    return table.sigmoid() - 0.5


def positive(beta: float) -> float:
    """Raises PrefoptError for a beta that is not a price."""
    if not 0 < beta < float("inf"):
        raise PrefoptError(f"method.beta={beta} is not the price of a nat", "give a positive number")
    return beta


def check(payoffs: Sequence[Tensor], parts: Sequence[Groups]) -> None:
    """Raise PrefoptError where a payoff [B, n, n] is not finite, or where all are 0 although responses differ."""
    if lost := sum(int((~each.isfinite()).sum()) for each in payoffs):
        raise PrefoptError(
            f"the scorer gives {lost} of {sum(each.numel() for each in payoffs)} pairs log-odds that are not finite",
            "train the preference model with a lower learning rate (optimizer.lr), or look at what it learned from",
        )
    differ = any(bool((groups.response != groups.response[:, :1]).any()) for groups in parts)
    if differ and not any(bool(each.any()) for each in payoffs):
        raise PrefoptError(
            f"the scorer prefers none of {sum(groups.length.numel() for groups in parts)} responses to another",
            "it has learned nothing: train it for longer (rounds) or on more pairs",
        )
