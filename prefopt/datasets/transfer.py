"""Preference labels carried from one task to another (PEARL, Liu et al., ICML 2024, arXiv 2306.03615).

Trajectories are compared within their own task alone, so that two tasks need no space in common:

    C_ii' = |x_i - x_i'| / max,   x flattened
    T* = argmin_T  sum ( C^s_ii' - C^t_jj' )^2 T_ij T_i'j',   T 1 = 1/M,   T' 1 = 1/N          (Gromov-Wasserstein)
    z_jj' = sum_ii' A_ij A_i'j' Z_ii',   A = T* with every column divided by its sum

Z_ii' is the probability that source trajectory i is preferred to i', 1/2 where nobody said; z is that of the target's.
The minimum is blind to mirror images: where successes and failures are each other's, labels may come out inverted, at
no cost. So every local minimum that was found is kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefopt.errors import PrefoptError

TOLERANCE = 1e-9
"""Fall of the cost in one step, of distances up to 1, below which a coupling has converged."""
DISTINCT = 0.1
"""Total variation above which two couplings are two."""


class Coupling(NamedTuple):
    """plan: [M, N], rows sum to 1/M and columns to 1/N. cost: of Gromov and Wasserstein, >= 0."""

    plan: np.ndarray
    cost: float

    def transferred(self, Z: np.ndarray) -> np.ndarray:
        """[N, N] labels of the target from those of the source, [M, M] with Z + Z' = 1."""
        A = self.plan / self.plan.sum(0)
        labels: np.ndarray = A.T @ Z @ A
        return labels

    def is_near(self, other: "Coupling") -> bool:
        return float(np.abs(self.plan - other.plan).sum()) / 2 <= DISTINCT


def distances(trajectories: Sequence[np.ndarray]) -> np.ndarray:
    """[N, N] distances of trajectories [T_i, d], the largest 1; of different lengths they are first interpolated to
    the shortest. Dimensions of different units are to be standardised before; it costs that distances stay the same
    however a task is turned.

    Raises PrefoptError where all trajectories are the same.
    """
    steps = min(len(each) for each in trajectories)
    x = np.stack([_resampled(each, steps) for each in trajectories])
    flat = x.reshape(len(x), -1)
    C = np.linalg.norm(flat[:, None] - flat, axis=-1)
    if C.max() == 0:
        raise PrefoptError(f"all {len(x)} trajectories of a task are the same", "there is nothing to prefer among them")
    scaled: np.ndarray = C / C.max()
    return scaled


def aligned(source: np.ndarray, target: np.ndarray, *, starts: int, iterations: int, seed: int) -> list[Coupling]:
    """Distinct local minima between distances [M, M] and [N, N], the best first.

    The cost is not convex: one start is the independent coupling, the others are mixed half and half with a random
    assignment. A start that has not converged after `iterations` steps of conditional gradient is left out; raises
    PrefoptError where that leaves none.
    """
    draws = np.random.default_rng([seed, 3])
    found = [_descended(source, target, _start(len(source), len(target), k, draws), iterations) for k in range(starts)]
    minima: list[Coupling] = []
    for coupling in sorted((each for each in found if each is not None), key=lambda each: each.cost):
        if not any(coupling.is_near(other) for other in minima):
            minima.append(coupling)
    if not minima:
        raise PrefoptError(
            f"dataset.iterations={iterations}: no coupling of the {len(source)} source and {len(target)} target "
            f"trajectories has converged from dataset.starts={starts} starts",
            "allow more iterations; 60 is usual",
        )
    return minima


def _start(rows: int, columns: int, k: int, draws: np.random.Generator) -> np.ndarray:
    """[rows, columns] the k-th coupling to begin from."""
    independent = np.full((rows, columns), 1 / (rows * columns))
    if k == 0:
        return independent
    i, j = np.arange(rows)[:, None], np.arange(columns)
    in_order = np.minimum((i + 1) / rows, (j + 1) / columns) - np.maximum(i / rows, j / columns)
    return (independent + in_order.clip(0)[draws.permutation(rows)][:, draws.permutation(columns)]) / 2


def _descended(source: np.ndarray, target: np.ndarray, start: np.ndarray, iterations: int) -> Coupling | None:
    from ot.gromov import gromov_wasserstein

    settings = {"symmetric": True, "max_iter": iterations, "tol_rel": TOLERANCE, "tol_abs": TOLERANCE}
    plan, log = gromov_wasserstein(source, target, G0=start, log=True, **settings)
    *_, before, after = log["loss"]
    converged = before - after < TOLERANCE
    return Coupling(plan, float(after)) if converged else None


def _resampled(trajectory: np.ndarray, steps: int) -> np.ndarray:
    """[T, d] -> [steps, d], interpolated at equal parts of its time."""
    if len(trajectory) == steps:
        return trajectory
    times = np.linspace(0, len(trajectory) - 1, steps)
    return np.stack([np.interp(times, np.arange(len(trajectory)), each) for each in trajectory.T], 1)
