"""How often the 90 % intervals of the estimators cover a known flip rate. By hand:

python tests/audit/coverage.py dataset=bandit dataset.scale=3
python tests/audit/coverage.py dataset=words --seeds 20 --rates 0,0.2

A row for each rate and estimator: the mean estimate, its standard deviation, how often the interval covers the rate
and how often it lies above or below it, its mean width, and in how many seeds the estimate is called sound. The seed is
that of the world, the labels, the flips and the folds.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import numpy as np

from prefopt.audit.estimate import Estimate


def estimated(overrides: Sequence[str], rate: float, seed: int) -> dict[str, Estimate]:
    """What the estimators say of this dataset with `rate` of its labels flipped."""
    from prefopt.audit.__main__ import configured, loaded
    from prefopt.audit.estimate import estimates
    from prefopt.audit.features import differences
    from prefopt.audit.margins import out_of_fold

    noise = ["noise=flip", f"noise.rate={rate}", f"seed={seed}"]
    data, _ = loaded(configured([*overrides, *noise]))
    margins = out_of_fold(differences(data), data.train.pairs.columns["label"], seed=seed)
    return estimates(margins, seed=seed)[0]


def rows(rate: float, found: Sequence[dict[str, Estimate]]) -> Iterator[str]:
    for name in found[0]:
        values = [estimate[name] for estimate in found]
        rates, low, high = (np.array([getattr(value, key) for value in values]) for key in ("rate", "low", "high"))
        above, below = np.mean(low > rate), np.mean(high < rate)
        yield (
            f"| {rate:g} | {name} | {rates.mean():.3f} ± {rates.std():.3f} | {1 - above - below:.2f} | {above:.2f}"
            f" | {below:.2f} | {(high - low).mean():.3f} | {sum(value.sound for value in values)}/{len(values)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rates", default="0,0.1,0.2,0.3,0.4")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| rate | estimator | estimate | covers | above | below | width | sound |\n|" + "---|" * 8, flush=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rates = [float(rate) for rate in given.rates.split(",")]
        cells = list(product([given.overrides], rates, range(given.seeds)))
        found = pool.map(estimated, *zip(*cells, strict=True))
        for rate in rates:
            print("\n".join(rows(rate, [next(found) for _ in range(given.seeds)])), flush=True)


if __name__ == "__main__":
    main()
