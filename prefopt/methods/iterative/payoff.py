"""What an answer earns against another, from the log-odds [B, n, n] that it is preferred; as skew-symmetric as they."""

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


def sound(payoffs: Tensor, groups: Groups) -> Tensor:
    """The payoffs [B, n, n] of these groups.

    Raises PrefoptError where one is not finite, or where all are 0 although responses differ.
    """
    if lost := int((~payoffs.isfinite()).sum()):
        raise PrefoptError(
            f"the scorer gives {lost} of {payoffs.numel()} pairs log-odds that are not finite",
            "train the preference model with a lower learning rate (optimizer.lr), or look at what it learned from",
        )
    if not payoffs.any() and bool((groups.response != groups.response[:, :1]).any()):
        raise PrefoptError(
            f"the scorer prefers none of {groups.length.numel()} responses to another",
            "it has learned nothing: train it for longer (rounds) or on more pairs",
        )
    return payoffs
