"""Fresh answers to held-out prompts, judged by the world's own reward, against those of the policy's start."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.datasets.data import Data
from prefopt.engine.loader import sequential
from prefopt.evaluation.pairs import Figures, standard_error
from prefopt.evaluation.subject import Act, Subject


@dataclass(frozen=True)
class Answers:
    """One answer to each of some prompts: batches [B, 1, T], and the gold reward [N] where the world has one."""

    batches: list[Groups]
    gold: np.ndarray | None

    @property
    def lengths(self) -> np.ndarray:
        return torch.cat([batch.length[:, 0] for batch in self.batches]).cpu().numpy()


def distinct_prompts(data: Data, count: int) -> np.ndarray:
    """Rows of the first `count` held-out pairs whose prompts differ."""
    prompt = data.test.pairs.prompt
    seen: dict[bytes, int] = {}
    for row, (start, end) in enumerate(zip(prompt.offsets[:-1], prompt.offsets[1:], strict=True)):
        seen.setdefault(prompt.values[start:end].tobytes(), row)
        if len(seen) == count:
            break
    return np.array(list(seen.values()))


@torch.no_grad()
def answered(act: Act, data: Data, rows: np.ndarray, *, batch_size: int, seed: int, device: Any) -> Answers:
    """One answer to each prompt in `rows`; the same seed gives the same draws to every policy."""
    generator = torch.Generator().manual_seed(seed)
    batches = [act(prompts.to(device), 1, generator) for prompts in sequential(data.test.pairs, batch_size, rows)]
    gold = None if data.world is None else np.concatenate([_column(data.world.reward(batch)) for batch in batches])
    return Answers(batches, gold)


@torch.no_grad()
def compared(subject: Subject, policy: Answers, start: Answers) -> Figures:
    """gold/reward and gold/win_rate of the policy's answers against the start's, KL to it in nats, lengths."""
    figures: Figures = {"length/policy": float(policy.lengths.mean()), "length/start": float(start.lengths.mean())}
    if policy.gold is not None and start.gold is not None:
        wins = np.where(policy.gold == start.gold, 0.5, policy.gold > start.gold)
        figures |= {
            "gold/reward": float(policy.gold.mean()),
            "gold/reward_se": standard_error(policy.gold),
            "gold/reward_start": float(start.gold.mean()),
            "gold/win_rate": float(wins.mean()),
            "gold/win_rate_se": standard_error(wins),
        }
    if subject.policy is not None and subject.start is not None:
        ratio = np.concatenate([_column(_ratio(subject, batch)) for batch in policy.batches])
        figures |= {"gold/kl": float(ratio.mean()), "gold/kl_se": standard_error(ratio)}
    elif subject.kl_bound is not None:
        figures["gold/kl_bound"] = subject.kl_bound
    return figures


def samples(decode: Callable[[Tensor], str], policy: Answers, start: Answers) -> list[dict[str, Any]]:
    """The table of prompt, the start's answer, the policy's answer and their gold rewards."""
    places = [
        (ours, theirs, i) for ours, theirs in zip(policy.batches, start.batches, strict=True) for i in range(len(ours))
    ]
    return [
        {
            "prompt": decode(ours.prompt[i, : ours.prompt_length[i]]),
            "sft": decode(theirs.response[i, 0, : theirs.length[i, 0]]),
            "policy": decode(ours.response[i, 0, : ours.length[i, 0]]),
            "gold_sft": None if start.gold is None else float(start.gold[k]),
            "gold_policy": None if policy.gold is None else float(policy.gold[k]),
        }
        for k, (ours, theirs, i) in enumerate(places)
    ]


def _ratio(subject: Subject, groups: Groups) -> Tensor:
    assert subject.policy is not None and subject.start is not None
    return (subject.policy.logps(groups) - subject.start.logps(groups)).sum(-1)


def _column(values: Tensor) -> np.ndarray:
    return values[:, 0].double().cpu().numpy()
