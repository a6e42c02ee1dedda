"""What a method remembers from step to step that is not weights: reliabilities, moving averages, group weights."""

from torch import nn

from prefopt.methods.metrics import Metrics
from prefopt.table import Table


class Memory(nn.Module):
    """State in buffers, which checkpoints hold. A part of a method that remembers nothing leaves all of this alone.

    While `training`, a loss notes what the batch says (micro-batch by micro-batch) and changes nothing that it reads;
    `learn` makes memory of the notes. In evaluation nothing is noted.
    """

    def begin(self, data: Table) -> None:
        """Before the first step, and before a checkpoint is loaded: size the buffers for this data."""

    def clear(self) -> None:
        """Before a batch, and before it is gone over again (L-BFGS): drop the notes."""

    def learn(self) -> None:
        """After the optimiser's step: turn the notes of the whole batch, of all processes, into memory."""

    def tell(self) -> None:
        """When metrics are read, for it may wait for the device: what a person should be told."""

    def facts(self) -> Metrics:
        """What it remembers, as scalars worth logging."""
        return {}
