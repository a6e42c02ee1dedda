"""TRL's DPO trainer as an arm: its collator, step, clipping, optimiser and scheduler, without its loop."""

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import datasets
import numpy as np
import ours
import pairs
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer
from turns import taken

logging.set_verbosity_error()
datasets.disable_progress_bars()

BEST = {"precompute_ref_log_probs": True, "gradient_checkpointing": False}
"""The documented flags for speed, beside the precision."""
SHARED = {
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "learning_rate": ours.LEARNING_RATE,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "beta": 0.1,
}
"""Nothing reported or saved, and prefopt's schedule, clipping and beta; the optimiser is TRL's default."""


class Start:
    """The weights and pairs that TRL's trainers begin with."""

    def __init__(
        self, model: Any, drawn: Sequence[pairs.Pair], vocabulary: int, folder: Path, *, batch: int, device: str
    ) -> None:
        self.model, self.rows, self.tokenizer = model, pairs.rows(drawn), pairs.tokenizer(vocabulary)
        self.settings = SHARED | {
            "output_dir": str(folder / "trl"),
            "per_device_train_batch_size": batch,
            "max_length": model.config.max_position_embeddings,
            "use_cpu": device == "cpu",
        }

    def trainer(self, flags: dict[str, Any], rows: Sequence[int] | None = None) -> Any:
        """A DPOTrainer on a copy of the weights, and on these rows alone where they are given. flags: of DPOConfig."""
        texts = self.rows if rows is None else [self.rows[row] for row in rows]
        return DPOTrainer(
            model=copy.deepcopy(self.model),
            ref_model=None if flags.get("precompute_ref_log_probs") else copy.deepcopy(self.model),
            args=DPOConfig(**self.settings, **flags),
            train_dataset=datasets.Dataset.from_list(texts),
            processing_class=self.tokenizer,
        )

    def search(self, rows: Sequence[int], precisions: Sequence[str]) -> list[dict[str, Any]]:
        """Flags and the least that a step over these rows takes with them, of two in turn after one to warm up; the
        fastest first."""
        device = "cpu" if self.settings["use_cpu"] else "cuda"
        flags = {
            f"{precision}, {checkpointing}": BEST
            | {"gradient_checkpointing": checkpointing, "bf16": precision == "bf16-mixed"}
            for precision in precisions
            for checkpointing in (False, True)
        }
        plan = [np.arange(len(rows))] * 3
        found = taken({name: steps(self.trainer(each, rows), plan) for name, each in flags.items()}, 3, device=device)
        tried = [{"flags": flags[name], "seconds": min(seconds[1:])} for name, seconds in found.items()]
        return sorted(tried, key=lambda each: each["seconds"])


def steps(trainer: Any, plan: Sequence[np.ndarray]) -> Iterator[Any]:
    """The loss at each step, on the device; a batch is the rows that `plan` names."""
    trainer._set_signature_columns_if_needed()
    data = trainer._remove_unused_columns(trainer.train_dataset, description="training")
    trainer.create_optimizer_and_scheduler(len(plan))
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1  # its own loop sets this, and switches checkpointing on
    if trainer.args.gradient_checkpointing:
        trainer.model.activation_checkpointing_enable()
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
