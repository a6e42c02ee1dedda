"""`python -m prefopt.audit dataset=pairs dataset.path=FILE`: how many of the recorded preferences are flipped.

Any dataset and its keys, as in prefopt.train:

  python -m prefopt.audit dataset=pairs dataset.path=FILE              your own preferences
  python -m prefopt.audit dataset=hh_rlhf dataset.path=FOLDER seed=1   other folds
  python -m prefopt.audit dataset=bandit noise.rate=0.2                flips made here: are they found?

Without a noise.* the labels stay as they were recorded. The tokenizer of text is that of `model`. The report, its
figure and suspicious.csv lie under <home>/audits; the last line on standard output is the path of the report.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.errors import PrefoptError, reports_errors
from prefopt.tracking.telemetry import silence

if TYPE_CHECKING:
    from prefopt.audit.findings import Findings
    from prefopt.audit.report import Injected
    from prefopt.datasets.data import Data


@reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where something has to be mended first."""
    silence()
    parser = argparse.ArgumentParser(
        prog="python -m prefopt.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="dataset=NAME, dataset.KEY=, noise.*, seed=")
    print(audit(parser.parse_args(arguments).overrides))
    return 0


def audit(overrides: Sequence[str]) -> Path:
    """Audit the dataset of this configuration, show and write down what was found; the path of the report."""
    from prefopt.audit.drawing import drawn
    from prefopt.audit.findings import audited
    from prefopt.audit.report import as_json, markdown
    from prefopt.audit.saying import advice
    from prefopt.audit.suspects import as_csv, suspects
    from prefopt.audit.terminal import show
    from prefopt.files import replace_text
    from prefopt.store import digest, home

    settings = configured(overrides)
    data, tokenizer = loaded(settings)
    findings = audited(data, seed=settings["seed"])
    name = settings["choices"]["dataset"]
    chosen = {key: settings[key] for key in ("dataset", "model", "noise", "seed")}
    folder = home() / "audits" / f"{name}-{digest(chosen)[:8]}"

    def decode(tokens: Any) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True) if tokenizer else " ".join(map(str, tokens.tolist()))

    suspected = suspects(findings, data.train.pairs, decode)
    known = injected(settings["noise"]["rate"], data, findings)
    following = advice(findings, overrides)
    drawn(findings, folder / "figures")
    replace_text(folder / "report.md", markdown(name, findings, suspected, known, following))
    replace_text(folder / "report.json", as_json(name, findings, known))
    replace_text(folder / "suspicious.csv", as_csv(suspected))
    show(name, findings, following)
    return folder / "report.md"


def configured(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration, with no noise unless some is asked for. Raises PrefoptError for a key that is not there."""
    from prefopt.config import composed, plain

    noise = [] if any(override.lstrip("+").startswith("noise") for override in overrides) else ["noise=none"]
    return plain(composed([*noise, *overrides]))


def loaded(settings: Mapping[str, Any]) -> "tuple[Data, Any]":
    """The dataset, with noise on its training labels where some is asked for, and the tokenizer of text, or None.

    Raises PrefoptError where the dataset has no pairs, or is text and the model reads none.
    """
    from prefopt.batch import Pairs
    from prefopt.config import made
    from prefopt.run import noisy

    dataset, tokenizer = made(settings["dataset"]), None
    if Pairs not in dataset.gives:
        raise PrefoptError(f"dataset={settings['choices']['dataset']} has no pairs to audit", "choose another dataset")
    if dataset.world == "text":
        model = made(settings["model"])
        if model.world != "text":
            raise PrefoptError(
                f"model={settings['choices']['model']} has no tokenizer", "leave it out, or say model=tiny or hf"
            )
        tokenizer = model.tokenizer(dataset, None)
    return noisy(dataset.load(tokenizer), made(settings["noise"]), settings["seed"]), tokenizer


def injected(rate: float, data: "Data", findings: "Findings") -> "Injected | None":
    """How well the flips that were made here were found; None where there are none."""
    from prefopt.audit.report import Injected
    from prefopt.evaluation.pairs import auroc

    flipped = data.train.truth.flipped
    return Injected(rate, float(flipped.mean()), auroc(-findings.margins, flipped)) if flipped.any() else None


if __name__ == "__main__":
    sys.exit(main())
