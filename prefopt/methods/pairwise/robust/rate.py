"""The flip rate that a robustifier assumes."""

from prefopt.errors import PrefoptError


def flip_rate(epsilon: float) -> float:
    """`epsilon` itself where it is in [0, 0.5).

    Raises PrefoptError elsewhere: at 0.5 labels are coin tosses, beyond it they say the opposite.
    """
    if not 0 <= epsilon < 0.5:
        raise PrefoptError(
            f"the assumed flip rate is {epsilon} (method.robust.epsilon, from noise.assumed): outside [0, 0.5)",
            "set noise.assumed, or noise.rate which it follows, below 0.5",
        )
    return float(epsilon)
