"""What is seen of a pair: phi(x, y) - phi(x, y') of its two responses, in the order in which they stand."""

from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.table import Table

FEWEST = 100
"""Pairs that an estimate takes: of fewer the interval is over 0.1 wide even where nothing is a close call."""


def differences(data: Data) -> sp.csr_matrix:
    """[N, d] features of the first response less those of the second, of the training pairs.

    Where the world knows features [C, R, d] of contexts and responses, these; else tf-idf of the responses' one- and
    two-token runs (sublinear, of unit length) and the logarithm of their lengths. No label is read.
    Raises PrefoptError where there are no pairs or too few, and where the features are not finite or all alike.
    """
    pairs = data.train.pairs
    if pairs.n != 2 or "label" not in pairs.columns:
        raise PrefoptError(
            "the training data are no labelled pairs, and a flip rate is one of pairs' labels",
            "choose a dataset of pairs, such as dataset=pairs, dataset=reviews or dataset=bandit",
        )
    if len(pairs) < FEWEST:
        raise PrefoptError(
            f"{len(pairs)} training pairs are too few to estimate a flip rate from",
            f"give at least {FEWEST}; a few thousand make a narrow interval",
        )
    known = getattr(data.world, "features", None)
    found = _runs(pairs) if known is None else sp.csr_matrix(_of_world(pairs, known.numpy()))
    finite = np.isfinite(found @ np.ones(found.shape[1]))
    if not finite.all():
        raise PrefoptError(
            f"the features of {np.count_nonzero(~finite)} pairs are not finite, first of {pairs.ids[~finite][0]}",
            "mend what computes them; a margin cannot be had of such a pair",
        )
    if found.count_nonzero() == 0:
        raise PrefoptError(
            "the two responses of every pair have the same features, so nothing can tell them apart",
            "check that responses differ within dataset.max_response_length; a world without features, such as"
            " dataset=game, cannot be audited",
        )
    return found


def _of_world(pairs: Table, known: np.ndarray) -> np.ndarray:
    both = pairs.response.values.reshape(-1, 2)
    return known[pairs.prompt.values, both[:, 0]] - known[pairs.prompt.values, both[:, 1]]


def _runs(pairs: Table) -> sp.csr_matrix:
    from sklearn.feature_extraction.text import TfidfVectorizer

    tokens, offsets = pairs.response.values.astype(str), pairs.response.offsets
    texts = [" ".join(tokens[start:end]) for start, end in pairwise(offsets)]
    weigh = TfidfVectorizer(
        tokenizer=str.split, token_pattern=None, lowercase=False, ngram_range=(1, 2), min_df=2, sublinear_tf=True
    )
    weights, lengths = weigh.fit_transform(texts), np.log(pairs.response.lengths)[:, None]
    return sp.hstack([weights[0::2] - weights[1::2], lengths[0::2] - lengths[1::2]], format="csr")
