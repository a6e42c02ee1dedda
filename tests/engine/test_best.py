"""Best-of-n from stored samples, against the paper's numbers and every subset."""

from itertools import combinations

import pytest
import torch

from prefopt.engine.best import best_of_n, kl_of_best
from prefopt.errors import PrefoptError

PROXY = torch.tensor([[0.3, 0.1, 0.9, 0.5]], dtype=torch.float64)
GOLD = torch.tensor([[2.0, 0.0, -1.0, 3.0]], dtype=torch.float64)


@pytest.mark.parametrize(("n", "expected"), [(1, 1.0), (2, 0.833333), (3, 0.0), (4, -1.0)])
def test_the_gold_of_the_proxys_favourite_is_that_of_the_card(n: int, expected: float) -> None:
    assert float(best_of_n(PROXY, GOLD, n)) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_it_is_the_mean_over_every_subset(n: int) -> None:
    """Ties too: of equals the later one is kept."""
    generator = torch.Generator().manual_seed(n)
    proxy = torch.randint(0, 4, (3, 9), generator=generator).double()
    gold = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    for row in range(3):
        kept = [max(chosen, key=lambda i: (float(proxy[row, i]), i)) for chosen in combinations(range(9), n)]
        expected = float(gold[row, kept].mean())
        assert float(best_of_n(proxy, gold, n)[row]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 4096, 12500])
def test_its_weights_add_up_to_one_where_binomials_overflow(n: int) -> None:
    proxy = torch.randn(2, 12600, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(best_of_n(proxy, torch.ones_like(proxy), n), torch.ones(2).double(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("n", [0, 5])
def test_no_best_of_more_than_there_are(n: int) -> None:
    with pytest.raises(PrefoptError, match=f"best of n={n} from N=4"):
        best_of_n(PROXY, GOLD, n)


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (2, 0.193147), (4, 0.636294), (12500, 8.433564)])
def test_its_price_in_nats_is_that_of_the_card(n: int, nats: float) -> None:
    assert kl_of_best(n) == pytest.approx(nats, abs=5e-7)
