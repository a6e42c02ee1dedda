"""Preferences that may run in circles, from one embedding a response (Zhang et al., ICML 2025, arXiv 2410.02197).

    s(i > j) = <R v_i, v_j> = sum_l lam_l ( v_i[2l] v_j[2l+1] - v_i[2l+1] v_j[2l] )
    P(i > j) = sigmoid( s(i > j) / tau )

R turns each of k planes by a right angle; v_i^T R v_j is the negative. With a gate, lam is a softmax over planes of the
prompt's state, and |v| = 1; without one, lam = 1 and v is as long as it likes. v = (r, 1) is Bradley-Terry.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from prefopt.batch import Groups
from prefopt.errors import PrefoptError
from prefopt.models.scorer import Scorer

FILE, GATE = "preference.json", "gate.safetensors"


@dataclass(frozen=True)
class Form:
    """dimension: 2k, the numbers an embedding has. tau: temperature. gate: whether the prompt weighs the planes.

    Raises PrefoptError where the numbers make no planes, or tau is not positive.
    """

    dimension: int = 6
    tau: float = 0.1
    gate: bool = False

    def __post_init__(self) -> None:
        if self.dimension < 2 or self.dimension % 2:
            raise PrefoptError(f"method.dimension={self.dimension} makes no planes", "give an even number, 2 or more")
        if not 0 < self.tau < float("inf"):
            raise PrefoptError(f"method.tau={self.tau} is not a temperature", "give a positive number")

    def on(self, embedder: Any, folder: Path | None) -> "Preference":
        """A preference model on this embedder, with the gate in `folder`, where there is one."""
        found = Preference(embedder, self)
        if found.gate is not None and folder is not None and (folder / GATE).exists():
            found.gate.load_state_dict(load_file(folder / GATE))
        return found

    def held(self, folder: Path | None) -> bool:
        """Whether a preference model is what `folder` holds."""
        return form_of(folder) is not None


class Preference(nn.Module, Scorer):
    """embedder: a reward model whose `embedded` gives [B, n, 2k] embeddings, and [B, d] states of the prompts."""

    alone = False

    def __init__(self, embedder: Any, form: Form) -> None:
        super().__init__()
        self.embedder, self.dimension, self.tau = embedder, form.dimension, form.tau
        self.gate = nn.Linear(embedder.width, form.dimension // 2, bias=False) if form.gate else None

    def table(self, groups: Groups) -> Tensor:
        v, lam = self._embedded(groups)
        return scores(v, v, lam) / self.tau

    def score(self, groups: Groups) -> Tensor:
        """[B, n] mean log-odds against the responses of the group: of two, their difference is the margin.

        Raises PrefoptError for groups of one.
        """
        if groups.n < 2:
            raise PrefoptError(
                "a preference model (gpm) says nothing of a response alone",
                "let it judge several responses to a prompt: method=gpo, sppo, grpo or best_of_n",
            )
        v, lam = self._embedded(groups)
        return scores(v, v.mean(-2, keepdim=True), lam)[..., 0] / self.tau

    def _embedded(self, groups: Groups) -> tuple[Tensor, Tensor | None]:
        """[B, n, 2k] embeddings, and [B, k] weights of the planes where a gate gives them."""
        v, asked = self.embedder.embedded(groups)
        if self.gate is None:
            return v, None
        return normalize(v, dim=-1), self.gate(asked.to(v.dtype)).softmax(-1)

    def export(self, folder: Path) -> None:
        """Write the embedder, and beside it what makes preferences of it."""
        self.embedder.export(folder)
        form = Form(self.dimension, self.tau, self.gate is not None)
        (folder / FILE).write_text(json.dumps(asdict(form)))
        if self.gate is not None:
            save_file(self.gate.state_dict(), folder / GATE)


def scores(v: Tensor, w: Tensor, lam: Tensor | None = None) -> Tensor:
    """[..., n, m] <R v_i, w_j> of embeddings [..., n, 2k] and [..., m, 2k], and weights of planes [..., k]; of v and
    itself it is skew-symmetric to the bit."""

    def half(v: Tensor, w: Tensor) -> Tensor:
        a = v[..., 0::2] if lam is None else v[..., 0::2] * lam[..., None, :]
        b = w[..., 1::2]
        return (a[..., :, None, :] * b[..., None, :, :]).sum(-1)  # autocast would multiply matrices in bfloat16

    return half(v, w) - half(w, v).mT


def form_of(folder: Path | None) -> Form | None:
    """The form of the preference model in `folder`; None where there is none."""
    if folder is None or not (folder / FILE).exists():
        return None
    return Form(**json.loads((folder / FILE).read_text()))
