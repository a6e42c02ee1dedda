"""How often each annotator is right, learned beside the policy (Cao et al., ICLR 2026, arXiv 2509.24159).

    eta_k <- (1 - alpha) eta_k + alpha mean_k(w)     after a step, for the annotators of its batch

A step is unsound where eta_k would leave (1/2, 1 - 1e-3), or where p is the same for all pairs of a batch of several,
so that w tells nothing of anyone: then the last sound estimate stays. Where this lasts EM has collapsed to one
component; that is said once, and noise/collapsed is the share of unsound steps lately.
"""

import torch
from torch import Tensor

from prefopt import ranks
from prefopt.errors import PrefoptError
from prefopt.members import SHOWN, metric_names, names
from prefopt.methods.memory import Memory
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.robust.members import counted, places, sums
from prefopt.progress import say
from prefopt.table import Table

ALIKE = 1e-3
"""Probabilities nearer than this to each other are the same."""
LASTING = 0.9
"""Share of unsound steps, as a moving average, at which EM has collapsed."""


class Reliability(Memory):
    """eta: [K + 1] of each annotator of the training data; the last is that of pairs without one, or with a new one.

    size: [K + 1] training pairs of each. collapsed: [K + 1] moving average of unsound steps.
    """

    eta: Tensor
    size: Tensor
    collapsed: Tensor
    noted: Tensor

    def __init__(self, *, start: float, rate: float) -> None:
        super().__init__()
        if not 0.5 < start < 1:
            raise PrefoptError(f"method.robust.reliability={start} is outside (0.5, 1)", "the paper starts at 0.9")
        if not 0 < rate <= 1:
            raise PrefoptError(f"method.robust.rate={rate} is outside (0, 1]", "the paper takes 0.1")
        self.start, self.rate, self.said = start, rate, False
        self._size([], torch.ones(1))

    def begin(self, data: Table) -> None:
        self._size(names(data, "annotator"), counted(data, "annotator"))

    def _size(self, annotators: list[str], size: Tensor) -> None:
        self.names = annotators
        self.register_buffer("size", size.double())
        self.register_buffer("eta", torch.full_like(self.size, self.start))
        self.register_buffer("collapsed", torch.zeros_like(self.size))
        self.clear()

    def of(self, annotator: Tensor | None, like: Tensor) -> Tensor:
        """[B] eta of each pair."""
        return self.eta[places(annotator, like, self.eta)]

    def note(self, w: Tensor, p: Tensor, annotator: Tensor | None) -> None:
        """[B] w and p of a batch, or of a part of it."""
        place, p = places(annotator, w, self.eta), p.double()
        self.noted = self.noted + torch.stack([sums(x, place, self.eta) for x in (w, torch.ones_like(w), p, p**2)])

    def clear(self) -> None:
        self.noted = self.eta.new_zeros(4, len(self.eta))

    def learn(self) -> None:
        w, count, p, squared = ranks.mean(self.noted)
        mean, total = w / count.clamp(min=1e-9), count.sum()
        eta = (1 - self.rate) * self.eta + self.rate * mean
        alike = (total * ranks.world() > 1) & (squared.sum() / total - (p.sum() / total) ** 2 < ALIKE**2)
        unsound = (eta <= 0.5) | (eta >= 1 - ALIKE) | alike & ((mean - self.eta).abs() > ALIKE)
        present = count > 0
        self.eta = torch.where(present & ~unsound, eta, self.eta)
        self.collapsed = self.collapsed.lerp(unsound.double(), self.rate * present.double())

    def tell(self) -> None:
        """That EM has collapsed, once."""
        who = [] if self.said else (self.collapsed > LASTING).nonzero()[:, 0].tolist()
        if not who:
            return
        self.said = True
        eta = ", ".join(f"{[*self.names, 'of no name'][k]} {self.eta[k]:.3f}" for k in who[:SHOWN])
        say(
            f"EM has collapsed for annotators whose last sound reliability stays: {eta}. It trusts all of their labels "
            "alike: near 1 these are clean or learned by heart, near 0.5 the policy cannot tell right from wrong",
            "yellow",
        )

    def facts(self) -> Metrics:
        share = self.size / self.size.sum()
        each = {f"noise/eps_hat/{name}": 1 - self.eta[k] for k, name in enumerate(metric_names(self.names))}
        return {
            "noise/eps_hat": 1 - share @ self.eta,
            "noise/collapsed": share @ self.collapsed,
            **(each if len(each) > 1 else {}),
        }
