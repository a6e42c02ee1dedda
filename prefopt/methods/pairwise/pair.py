"""What an objective knows of a batch of pairs."""

from dataclasses import dataclass

from torch import Tensor

from prefopt.batch import Pairs, chosen_rejected


@dataclass(frozen=True)
class Side:
    """One response of each pair, the winner or the loser as recorded.

    logps: [B, T] token log-probs of the policy in nats, zero outside `mask`. reference: the same of the frozen
    reference, None for objectives without one. length: [B] tokens.
    """

    logps: Tensor
    reference: Tensor | None
    length: Tensor

    @property
    def S(self) -> Tensor:
        """[B] log pi(y | x), summed over tokens."""
        return self.logps.sum(-1)

    @property
    def A(self) -> Tensor:
        """[B] log pi(y | x) / |y|."""
        return self.S / self.length

    @property
    def ratio(self) -> Tensor:
        """[B] log pi(y | x) - log ref(y | x), summed over tokens."""
        assert self.reference is not None
        return self.S - self.reference.sum(-1)


@dataclass(frozen=True)
class Pair:
    """w: the recorded winner, l: the recorded loser. mean_length: [] tokens a response over the whole batch."""

    w: Side
    l: Side  # noqa: E741
    mean_length: Tensor

    @classmethod
    def of(cls, batch: Pairs, logps: Tensor, reference: Tensor | None) -> "Pair":
        (w, l), (n_w, n_l) = chosen_rejected(logps, batch.label), chosen_rejected(batch.length, batch.label)  # noqa: E741
        ref_w, ref_l = (None, None) if reference is None else chosen_rejected(reference, batch.label)
        return cls(Side(w, ref_w, n_w), Side(l, ref_l, n_l), batch.mean_length)

    def swapped(self) -> "Pair":
        """The same pair had its label been the other one: policy and reference change sides together."""
        return Pair(self.l, self.w, self.mean_length)
