"""Tables of tokenised examples: flat arrays with offsets, stored once, memory-mapped by everyone, read as batches."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from prefopt.batch import Groups


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i] : offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | np.ndarray]) -> "Ragged":
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        values = (
            np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]) if len(rows) else np.zeros(0, np.int32)
        )
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]))

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.values[start:end] for start, end in pairwise(self.offsets))

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where in `values` the rows' values stand, row after row."""
        lengths = self.lengths[rows]
        steps = np.arange(lengths.max(initial=0))
        return (self.offsets[rows][:, None] + steps)[steps < lengths[:, None]]

    def take(self, rows: np.ndarray) -> "Ragged":
        """These rows alone, in this order."""
        return Ragged(self.values[self.places(rows)], np.concatenate([[0], np.cumsum(self.lengths[rows])]))

    def padded(self, rows: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """[len(rows), longest] of `values` (default: the own ones), padded with zeros at the right."""
        values = self.values if values is None else values
        lengths = self.lengths[rows]
        steps = np.arange(lengths.max(initial=0))
        inside = steps < lengths[:, None]
        padded = np.zeros(inside.shape, dtype=values.dtype)
        padded[inside] = values[(self.offsets[rows][:, None] + steps)[inside]]
        return padded


@dataclass(frozen=True)
class Table:
    """N examples of n responses each, and the columns that their batches carry.

    kind: the batch that it gives. ids: [N] names that outlive any order. prompt: N rows; response: N * n rows.
    columns: [N, ...] by the batch's field name (label, reward). aligned: one float a response token, by field name
    (reference, behaviour). known: [N, ...] recorded facts, of which a batch carries those that it has fields for
    (annotator, group). ragged: k rows of tokens an example, by field name (rationale): a batch with such a field has
    them as [B, k, longest], and [B, k] tokens of each as <name>_length.
    """

    kind: type[Groups]
    ids: np.ndarray
    prompt: Ragged
    response: Ragged
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    aligned: Mapping[str, np.ndarray] = field(default_factory=dict)
    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    ragged: Mapping[str, Ragged] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n(self) -> int:
        return len(self.response.lengths) // max(len(self), 1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """[N] tokens of the prompt and the longest response."""
        responses = self.response.lengths.reshape(len(self), -1)
        return self.prompt.lengths + (responses.max(1) if responses.size else 0)

    def batch(self, rows: np.ndarray, rank: int = 0, world: int = 1) -> Groups:
        """The examples `rows` as one batch of `kind`, or the part of it that is this process's: every `world`-th
        example, so that no process has all the long ones."""
        n, own = self.n, rows[rank::world]
        flat = (own[:, None] * n + np.arange(n)).ravel()
        tokens = self.response.lengths[rows[:, None] * n + np.arange(n)]
        lengths = tokens[rank::world]
        group = (len(own), n, -1) if n else (len(own), 0, 0)
        aligned = {k: torch.from_numpy(self.response.padded(flat, v).reshape(group)) for k, v in self.aligned.items()}
        return self.kind(
            index=torch.from_numpy(own),
            prompt=torch.from_numpy(self.prompt.padded(own).astype(np.int64)),
            prompt_length=torch.from_numpy(self.prompt.lengths[own]),
            response=torch.from_numpy(self.response.padded(flat).astype(np.int64).reshape(group)),
            length=torch.from_numpy(lengths),
            mean_length=torch.tensor(tokens.mean() if tokens.size else 0.0, dtype=torch.float32),
            weight=world * len(own) / len(rows),
            **{k: torch.from_numpy(np.asarray(v[own])) for k, v in [*self.columns.items(), *self._carried()]},
            **aligned,
            **self._ragged(own),
        )

    def _carried(self) -> list[tuple[str, np.ndarray]]:
        names = {field.name for field in fields(self.kind)}
        return [(name, values) for name, values in self.known.items() if name in names]

    def _ragged(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        found = {}
        for name in {part.name for part in fields(self.kind)} & self.ragged.keys():
            ragged = self.ragged[name]
            k = len(ragged.lengths) // max(len(self), 1)
            flat = (rows[:, None] * k + np.arange(k)).ravel()
            tokens = ragged.padded(flat).astype(np.int64)
            found[name] = torch.from_numpy(tokens.reshape(len(rows), k, tokens.shape[1]))
            found[f"{name}_length"] = torch.from_numpy(ragged.lengths[flat].reshape(len(rows), k))
        return found

    def checksum(self) -> str:
        """Hash of the tokens alone: no label, no noise, no name changes it."""
        digest = hashlib.sha256(str(self.n).encode())
        for ragged in (self.prompt, self.response):
            digest.update(np.ascontiguousarray(ragged.offsets).tobytes())
            digest.update(np.ascontiguousarray(ragged.values).tobytes())
        return digest.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """All that it holds, by name."""
        arrays = {"ids": self.ids}
        ragged = {f"ragged.{name}": rows for name, rows in self.ragged.items()}
        for name, rows in {"prompt": self.prompt, "response": self.response, **ragged}.items():
            arrays |= {f"{name}.values": rows.values, f"{name}.offsets": rows.offsets}
        for part in ("columns", "aligned", "known"):
            arrays |= {f"{part}.{name}": values for name, values in getattr(self, part).items()}
        return arrays

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = self.arrays()
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
        (folder / "table.json").write_text(json.dumps({"kind": self.kind.__name__, "arrays": sorted(arrays)}))

    @classmethod
    def load(cls, folder: Path) -> "Table":
        """The table stored in `folder`, memory-mapped."""
        header = json.loads((folder / "table.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in header["arrays"]}
        return cls.of_arrays(header["kind"], arrays)

    @classmethod
    def of_arrays(cls, kind: str, arrays: Mapping[str, np.ndarray]) -> "Table":
        """The table whose `arrays` these are; `kind` is the name of its batches' class."""
        import prefopt.batch

        parts: dict[str, dict[str, np.ndarray]] = {"columns": {}, "aligned": {}, "known": {}, "ragged": {}}
        for name, values in arrays.items():
            part, _, key = name.partition(".")
            if part in parts:
                parts[part][key] = values
        names = {key.rpartition(".")[0] for key in parts.pop("ragged")}

        def ragged(name: str) -> Ragged:
            return Ragged(arrays[f"{name}.values"], arrays[f"{name}.offsets"])

        return cls(
            kind=getattr(prefopt.batch, kind),
            ids=arrays["ids"],
            prompt=ragged("prompt"),
            response=ragged("response"),
            ragged={name: ragged(f"ragged.{name}") for name in sorted(names)},
            **parts,
        )
