"""What best-of-n gains and costs, from N >= n samples a prompt: one pass gives the whole curve over n."""

import math

import torch
from torch import Tensor

from prefopt.errors import PrefoptError


def best_of_n(proxy: Tensor, value: Tensor, n: int) -> Tensor:
    """[P] expected `value` of the best by `proxy` of n of the N samples, drawn without replacement; unbiased.

        sum_i C(i-1, n-1) / C(N, n) value_(i),   i = n..N, ascending by proxy   (Nakano et al., 2021, arXiv 2112.09332)

    proxy, value: [P, N]; of equal proxies the later sample is the better one. Raises PrefoptError where n is not in
    [1, N].
    """
    N = proxy.shape[-1]
    if not 1 <= n <= N:
        raise PrefoptError(f"best of n={n} from N={N} samples a prompt", f"give n in [1, {N}], or draw more samples")
    ranked = value.double().gather(-1, proxy.argsort(dim=-1, stable=True))[:, n - 1 :]
    i = torch.arange(n, N + 1, dtype=torch.float64, device=proxy.device)
    return ranked @ (_log_choose(i - 1, n - 1) - _log_choose(torch.full_like(i, N), n)).exp()


def kl_of_best(n: int) -> float:
    """Nats at most between best-of-n and what it draws from."""
    return math.log(n) - (n - 1) / n


def _log_choose(total: Tensor, chosen: int) -> Tensor:
    return (total + 1).lgamma() - math.lgamma(chosen + 1) - (total - chosen + 1).lgamma()
