"""A tokenizer for a language of few words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token for each word of `texts`, whatever the space around it; another word is an error.

    <pad>, <bos> and <eos> are 0, 1 and 2, and none is added by encoding. There are no tokens that nobody says: where a
    loss lowers the likelihood of all that it sees, a policy with tokens for all bytes ends up saying those.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([PAD, BOS, EOS, *(word for text in texts for word in text.split())])
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS)
