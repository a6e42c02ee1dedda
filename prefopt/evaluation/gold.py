"""Fresh answers to held-out prompts, judged by the world's own reward, against those of the policy's start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.datasets.data import Data
from prefopt.engine.best import favourite, kl_of_best, picked
from prefopt.engine.loader import sequential
from prefopt.evaluation.pairs import Figures, standard_error
from prefopt.evaluation.subject import Act, Subject


@dataclass(frozen=True)
class Answers:
    """n answers to each of P prompts: batches [B, n, T], and rewards [P, n] of them by name."""

    batches: list[Groups]
    rewards: Mapping[str, Tensor]

    @property
    def gold(self) -> np.ndarray | None:
        """[P] of the first answers, where the world has a reward."""
        return self.rewards["gold"][:, 0].numpy() if "gold" in self.rewards else None

    @property
    def lengths(self) -> np.ndarray:
        """[P] of the first answers."""
        return torch.cat([batch.length[:, 0] for batch in self.batches]).cpu().numpy()

    def best(self, by: str) -> "Answers":
        """The best of each prompt's answers by one of the rewards."""
        place = favourite(self.rewards[by])[:, None]
        parts = place.split([len(batch) for batch in self.batches])
        batches = [picked(b, best.to(b.length.device)) for b, best in zip(self.batches, parts, strict=True)]
        return Answers(batches, {name: reward.gather(1, place) for name, reward in self.rewards.items()})


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
def answered(
    act: Act, data: Data, rows: np.ndarray, *, n: int = 1, proxy: Any | None, batch_size: int, seed: int, device: Any
) -> Answers:
    """n answers to each prompt in `rows`, with their gold and proxy reward, where the proxy rewards so many; the same
    seed gives the same draws to every policy."""
    generator = torch.Generator().manual_seed(seed)
    batches = [act(prompts.to(device), n, generator) for prompts in sequential(data.test.pairs, batch_size, rows)]
    judges = {} if data.world is None else {"gold": data.world.reward}
    judges |= {"proxy": proxy.score} if proxy is not None and (n > 1 or proxy.alone) else {}
    rewards = {name: torch.cat([judge(batch).double().cpu() for batch in batches]) for name, judge in judges.items()}
    return Answers(batches, rewards)


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
    elif subject.samples is not None:
        figures["gold/kl_bound"] = kl_of_best(subject.samples)
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
