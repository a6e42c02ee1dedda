"""What best-of-n gains and costs, from N >= n samples a prompt: one pass gives the whole curve over n."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from prefopt.batch import Groups
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


def sizes(N: int) -> list[int]:
    """The n of a curve: 1, 2, 4, ... and N."""
    return [2**k for k in range((N - 1).bit_length())] + [N]


def favourite(proxy: Tensor) -> Tensor:
    """[...] place of the best of [..., N] samples by `proxy`; of equals the later one, as in `best_of_n`."""
    return proxy.shape[-1] - 1 - proxy.flip(-1).argmax(-1)


def picked(groups: Groups, place: Tensor) -> Groups:
    """The groups with these of their responses alone: place [B, m]."""
    rows = torch.arange(len(groups), device=place.device)[:, None]
    length = groups.length[rows, place]
    return replace(groups, response=groups.response[rows, place], length=length, mean_length=length.float().mean())


def kl_of_best(n: int) -> float:
    """Nats at most between best-of-n and what it draws from."""
    return math.log(n) - (n - 1) / n


def _log_choose(total: Tensor, chosen: int) -> Tensor:
    return (total + 1).lgamma() - math.lgamma(chosen + 1) - (total - chosen + 1).lgamma()
