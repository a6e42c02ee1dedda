"""What a step costs beyond its arithmetic, in CPU milliseconds: `make bench`.

A method whose model is one number, and which reports what a pairwise method does (14 metrics with loss and norm), is
trained by the loop with all that a run has: Lightning, record, checkpoints, bar, MLflow in SQLite, log_every=10. Its
blocks of steps and those of a bare torch loop, which take the same batches, come in turn in one process. The process
that sends to MLflow is beside it, and `tracking.py` counts it.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, BLOCK, WARM, BLOCKS = 8, 100, 3, 20


def measured() -> dict[str, Any]:
    """CPU milliseconds a step of each block, of the run and of the bare loop; `ms a step` is what lies between."""
    import numpy as np
    import torch

    from prefopt.batch import Prompts
    from prefopt.config import composed, made, plain
    from prefopt.engine.loader import Loader
    from prefopt.loop.fit import Training, fit
    from prefopt.loop.record import Record
    from prefopt.methods.base import Method
    from prefopt.table import Ragged, Table
    from prefopt.tracking.events import EVENTS, EventFile

    class Number(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def loss(self, batch: Any) -> torch.Tensor:
            return (self.weight * batch.prompt_length).square()

    class Reports(Method):
        eats = Prompts

        def loss(self, batch: Any) -> Any:
            losses = self.policy.loss(batch)
            return losses, {f"metric/{k}": losses.detach() for k in range(12)}

    settings = plain(composed(["trainer=cpu"]))
    tokens = Ragged.of([[1, 2, 3]] * (BATCH * BLOCK * (WARM + BLOCKS)))
    ids = np.arange(len(tokens.lengths)).astype(str)
    table = Table(Prompts, ids, tokens, Ragged.of([]))
    optimizer, bare = made(settings["optimizer"]), Number()
    plan = Loader(table, batch_size=BATCH, seed=1, round=0).plan
    adam = optimizer(list(bare.parameters()))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1.0)

    def bare_steps(first: int) -> float:
        began = time.process_time()
        for rows in plan[first : first + BLOCK]:
            adam.zero_grad()
            bare.loss(table.batch(rows)).mean().backward()
            torch.nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
            adam.step()
            schedule.step()
        return time.process_time() - began

    whole: list[float] = []
    alone: list[float] = []
    log, clock = Record.on_train_batch_end, time.process_time()

    def in_turn(record: Record, trainer: Any, *given: Any) -> None:
        nonlocal clock
        log(record, trainer, *given)
        if trainer.global_step % BLOCK == 0:
            whole.append(time.process_time() - clock)
            alone.append(bare_steps(trainer.global_step - BLOCK))
            clock = time.process_time()

    method = Reports()
    method.prepare(
        {"policy": Number()},
        optimizer=optimizer,
        schedule=lambda step: 1.0,
        micro_batch_size=None,
        clip=1.0,
        seed=0,
        data=table,
    )
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "run"
        folder.mkdir()
        tracker = made(settings["tracking"], home=Path(home))
        tracker.start(folder, "orchestration", {}, {})
        events = EventFile(folder / EVENTS)
        Record.on_train_batch_end = in_turn  # type: ignore[method-assign]
        try:
            fit(
                Training(
                    method,
                    table,
                    world="text",
                    folder=folder,
                    rounds=1,
                    batch_size=BATCH,
                    seed=0,
                    trainer=settings["trainer"],
                    events=events,
                    measure=dict,
                    times=1,
                )
            )
        finally:
            Record.on_train_batch_end = log  # type: ignore[method-assign]
            events.close()
            tracker.finish("FINISHED")
    run_ms, bare_ms = (1e3 * np.array(times[WARM:]) / BLOCK for times in (whole, alone))
    return {"run": list(run_ms), "bare": list(bare_ms), "ms a step": list(run_ms - bare_ms)}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    from prefopt.tracking.telemetry import silence

    silence()
    print(json.dumps(measured(), indent=2))
