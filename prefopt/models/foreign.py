"""Judges that no run of prefopt has made: `needs.reward={_target_: prefopt.models.foreign.Folder, path: ...}`."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.models.ensemble import Ensemble
from prefopt.models.scorer import Scorer
from prefopt.models.text import HuggingFace, opened_tokenizer


class Folder:
    """A reward model from a folder of Hugging Face, a sequence classifier with one label; of several, an ensemble.

    Args: path: the folder, or folders. Raises PrefoptError where one holds no such model.
    """

    world: ClassVar[str] = "text"

    def __init__(self, *, path: str | Sequence[str]) -> None:
        self.paths = [Path(path)] if isinstance(path, str) else [Path(one) for one in path]
        for place in self.paths:
            config = place / "config.json"
            if not config.is_file():
                raise PrefoptError(f"a reward model's path={place}: there is no config.json in it", "give its folder")
            said = json.loads(config.read_text())
            kinds, labels = said.get("architectures") or ["nothing"], len(said.get("id2label") or "ab")
            if not kinds[0].endswith("ForSequenceClassification") or labels != 1:
                raise PrefoptError(
                    f"a reward model's path={place} holds {kinds[0]} of {labels} labels",
                    "give a sequence classifier with one label (num_labels=1)",
                )

    def judge(self, data: Data, tokenizer: Any) -> Scorer:
        """Raises PrefoptError where its tokens are not the policy's."""
        for place in self.paths:
            own = opened_tokenizer(place)
            if own.get_vocab() != tokenizer.get_vocab() or own.eos_token_id != tokenizer.eos_token_id:
                raise PrefoptError(
                    f"the reward model in {place} has another tokenizer than the policy",
                    "give one that was trained from the same base model, or text would be read as other tokens",
                )
        models = [HuggingFace(path=str(place)).reward(data, tokenizer, None) for place in self.paths]
        return models[0] if len(models) == 1 else Ensemble(models)

    def checksum(self) -> str:
        """Hash of all that the folders' models are."""
        return hashlib.sha256(" ".join(HuggingFace(path=str(p)).checksum() for p in self.paths).encode()).hexdigest()


class Rule:
    """A verifier: 1 where the text of a response matches, 0 where it does not.

    Args: pattern: a regular expression, found anywhere in the response. Raises PrefoptError where it is none.
    """

    world: ClassVar[str] = "text"

    def __init__(self, *, pattern: str) -> None:
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise PrefoptError(f"pattern={pattern}: {error}", "give a regular expression of Python's re") from error

    def judge(self, data: Data, tokenizer: Any) -> Scorer:
        return Verifier(lambda text: self.pattern.search(text) is not None, tokenizer)

    def checksum(self) -> str:
        return ""


class Verifier(Scorer):
    """1 where `holds` says so of a response's text, 0 elsewhere."""

    def __init__(self, holds: Callable[[str], bool], tokenizer: Any) -> None:
        self.holds, self.tokenizer = holds, tokenizer

    def score(self, groups: Groups) -> Tensor:
        B, n, _ = groups.response.shape
        rows = zip(groups.response.flatten(0, 1).tolist(), groups.length.flatten().tolist(), strict=True)
        texts = self.tokenizer.batch_decode([tokens[:end] for tokens, end in rows], skip_special_tokens=True)
        held = torch.tensor([float(self.holds(text)) for text in texts], device=groups.length.device)
        return held.view(B, n)
