"""TRL's DPO trainer as an arm: its collator, step, clipping, optimiser and scheduler, without its loop."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import datasets
import numpy as np
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

logging.set_verbosity_error()
datasets.disable_progress_bars()

SHARED = {
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "beta": 0.1,
}
"""Nothing reported or saved, and the schedule, clipping and beta of prefopt's arm; the optimiser is TRL's default."""


def trainer(model: Any, tokenizer: Any, rows: Sequence[dict[str, str]], folder: Path, **flags: Any) -> Any:
    """A DPOTrainer on these rows of text. flags: of DPOConfig, and `ref_model`."""
    reference = flags.pop("ref_model", None)
    return DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(output_dir=str(folder), **SHARED, **flags),
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=tokenizer,
    )


def steps(trainer: Any, plan: Sequence[np.ndarray]) -> Iterator[Any]:
    """The loss at each step, on the device; a batch is the rows that `plan` names."""
    trainer._set_signature_columns_if_needed()
    data = trainer._remove_unused_columns(trainer.train_dataset, description="training")
    trainer.create_optimizer_and_scheduler(len(plan))
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1  # which its own loop sets
    for number, batch in enumerate(plan, 1):
        inputs = trainer.data_collator([data[int(row)] for row in batch])
        loss = trainer.training_step(model, inputs)
        trainer._clip_grad_norm(model)
        optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        if number % trainer.args.logging_steps == 0:
            trainer._metrics["train"].clear()
        yield loss


def reference(trainer: Any) -> np.ndarray:
    """[N, 2] the summed log-probs of chosen and rejected that it computed before training."""
    data = trainer.train_dataset
    return np.stack([np.asarray(data["ref_chosen_logps"]), np.asarray(data["ref_rejected_logps"])], 1)
