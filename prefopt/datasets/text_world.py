"""A world of text whose reward is a known function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prefopt.batch import Groups

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class TextWorld:
    """gold: the reward of a (prompt, response), both text. temperature: of the labels, in units of the reward."""

    gold: Callable[[str, str], float]
    tokenizer: "PreTrainedTokenizerFast"
    temperature: float = 1.0

    def reward(self, groups: Groups) -> Tensor:
        """[B, n] gold reward of each response, special tokens aside."""
        rows, n = groups.length.shape
        prompts = self._texts(groups.prompt, groups.prompt_length)
        responses = self._texts(groups.response.flatten(0, 1), groups.length.flatten())
        rewards = [self.gold(prompts[i // n], response) for i, response in enumerate(responses)]
        return torch.tensor(rewards, dtype=torch.float32, device=groups.length.device).reshape(rows, n)

    def _texts(self, tokens: Tensor, lengths: Tensor) -> list[str]:
        rows = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
