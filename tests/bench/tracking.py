"""What logging costs a step of the tiny model, in CPU seconds of one training run.

Every step is given the same batch, and is logged (read, written to the event file, sent to SQLite by the process
beside) or not at all, a few steps the one and a few the other, so that whatever else the machine does hits both alike.
The process that sends is counted apart. The target is less than 2 % of a step.
"""

import os
import resource
import tempfile
import time
from typing import Any

BATCH, WARM = 32, 4


def measured(log_every: int, steps: int) -> tuple[list[float], list[float], float, float]:
    """CPU seconds a step of each logged and each silent block, of the whole training, and of the sender."""
    import numpy as np

    from prefopt.config import composed
    from prefopt.engine import loader
    from prefopt.loop.record import Record
    from prefopt.run import run
    from prefopt.store import home
    from prefopt.tracking.channel import channel

    settings = [f"trainer.log_every={log_every}", "trainer.checkpoint_every_s=1e9", "tracking.every_s=5"]
    config = composed(["rounds=100", f"batch_size={BATCH}", *settings])
    config.method.needs = {"policy": None, "reference": "cached"}
    logged: list[float] = []
    silent: list[float] = []
    log, clock, began = Record.on_train_batch_end, time.process_time(), time.process_time()

    def in_turn(record: Record, trainer: Any, method: Any, outputs: Any, batch: Any, index: int) -> None:
        nonlocal clock
        block, last = (trainer.global_step - 1) // log_every, trainer.global_step % log_every == 0
        on = block % 4 in (0, 3)
        if on:
            log(record, trainer, method, outputs, batch, index)
        elif last:
            method.meter.clear()
        if last:
            if block >= WARM:
                (logged if on else silent).append((time.process_time() - clock) / log_every)
            clock = time.process_time()
        if trainer.global_step == steps:
            raise SystemExit

    Record.on_train_batch_end = in_turn  # type: ignore[method-assign]
    loader.bucketed = lambda lengths, parts, draws: [np.arange(BATCH)] * parts
    try:
        run(config)
    except SystemExit:
        Record.on_train_batch_end = log  # type: ignore[method-assign]
    whole, before = time.process_time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    sender = channel(home())
    sender.pipe.close()
    sender.process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return logged, silent, whole, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from prefopt.tracking.telemetry import silence

    silence()
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    table = Table("log_every", "CPU ms a step", "logging costs", "95 % interval", "sender, CPU s", "of the whole")
    for log_every, steps in ((10, 480), (1, 240)):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PREFOPT_HOME"] = folder
            logged, silent, whole, sender = measured(log_every, steps)
        ratios = np.log(logged) - np.log(silent)
        draws = np.random.default_rng(0).choice(ratios, (5000, len(ratios)))
        share, (low, high) = (
            np.expm1(np.median(ratios)),
            np.expm1(np.quantile(np.median(draws, axis=1), (0.025, 0.975))),
        )
        table.add_row(
            str(log_every),
            f"{1000 * np.median(silent):.1f}",
            f"{share:+.2%}",
            f"{low:+.2%} .. {high:+.2%}",
            f"{sender:.1f}",
            f"{sender / whole:.0%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
