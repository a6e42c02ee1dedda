"""The models that are measured: Llamas from random weights, made here, never fetched."""

from typing import Any, NamedTuple


class Size(NamedTuple):
    """A Llama with tied embeddings, and the pairs in a batch of it."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    batch: int
    intermediate: int
    kv_heads: int


SIZES = {
    "xs": Size(128, 4, 4, 2048, 8, 512, 4),
    "s": Size(256, 6, 4, 8192, 4, 1024, 4),
    "m": Size(448, 8, 7, 16384, 2, 1792, 7),
    "0.5B": Size(1024, 28, 16, 32768, 8, 4096, 16),
    "1B": Size(2048, 16, 32, 32768, 8, 8192, 8),
}
"""1.3M, 9M and 34M parameters for a CPU; the last three for a GPU."""


def made(size: Size, longest: int, seed: int = 0) -> Any:
    """The model; the same weights for the same seed. longest: tokens of a row at most."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def parameters(size: Size) -> int:
    """Weights of the trunk, which every token meets once: all but the embeddings."""
    attention = size.hidden * size.hidden * 2 * (1 + size.kv_heads / size.heads)
    return int(size.layers * (attention + 3 * size.hidden * size.intermediate))
