"""What the terminal shows at the end of a run."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

from prefopt.store import Run

SHOWN = (
    ("gold/win_rate", "gold win rate over the start"),
    ("gold/reward", "gold reward"),
    ("gold/reward_start", "gold reward of the start"),
    ("gold/standardised", "gold reward in standard deviations of the start"),
    ("proxy/standardised", "proxy reward in standard deviations of the start"),
    ("gold/kl", "KL to the start (nats)"),
    ("gold/kl_bound", "KL to the start at most (nats)"),
    ("regret", "regret"),
    ("eval/rewards/accuracies", "held-out pairs ranked right by the reward"),
    ("rank/spearman", "rank correlation of the reward with the gold one"),
    ("transfer/accuracy", "labels from the other task that are right"),
    ("rho/unconstrained", "subset's share of the best score, no bound"),
    ("rho/constrained", "subset's share of the best score, with the bound"),
    ("exploitability/last", "what the best answer to the policy wins"),
    ("exploitability/average", "what the best answer to its average over rounds wins"),
    ("group/worst_accuracy", "held-out pairs of the worst group ranked right"),
    ("group/worst_win_rate", "win rate over the start by the worst-off group's reward"),
    ("group/cluster_accuracy", "annotators in the cluster of their group"),
    ("calibration/ece", "calibration error of the reward"),
    ("rank/accuracy", "held-out pairs ranked right by likelihood"),
    ("rank/alignment_gap", "alignment gap"),
    ("noise/detect_auroc", "AUROC of flipped against clean pairs"),
    ("noise/eps_hat", "flip rate, as estimated from the labels"),
    ("eval/noise/eps_hat", "flip rate, as the method has learned it"),
    ("tokens/auroc", "AUROC of tokens that bear reward"),
    ("tokens/zeros", "share of tokens without a weight"),
    ("theta/error", "parameter error"),
    ("length/policy", "tokens an answer"),
)


def summarise(stored: Run) -> None:
    """The figures, where the policy and the figures are, and a command worth trying next, on standard error."""
    from rich.console import Console
    from rich.table import Table

    results = json.loads(stored.results.read_text())
    figures, config = results["figures"], results["config"]
    noise = f"{config['noise']['_target_'].rsplit('.', 2)[-2]} {config['noise']['rate']:g}"
    table = Table(
        title=f"{stored.name}   noise {noise}   seed {config['seed']}",
        title_justify="left",
        show_header=False,
        box=None,
    )
    for key, meaning in SHOWN:
        if key in figures:
            error = figures.get(f"{key}_se")
            table.add_row(meaning, f"{figures[key]:.3f}" + (f" ± {1.96 * error:.3f}" if error else ""), f"[dim]{key}")
    console = Console(stderr=True)
    console.print(table)
    for place, meaning in (("policy", "model  "), ("figures", "figures"), ("samples.html", "answers")):
        if (stored.folder / place).exists():
            console.print(f"{meaning} {shown(stored.folder / place)}", highlight=False, soft_wrap=True)
    console.print(f"next    [bold]{following(config)}[/bold]", highlight=False, soft_wrap=True)


def following(config: dict[str, Any]) -> str:
    """A command worth trying after this run."""
    if config["noise"]["rate"] == 0:
        return "python -m prefopt.train -m method=dpo,rdpo noise=flip noise.rate=0,0.2,0.4 seed=0,1,2"
    if "policy" not in config["method"]["needs"]:
        return "python -m prefopt.train method=best_of_n     # answers, chosen by such a reward model"
    return "python -m prefopt.train -m method=dpo,rdpo noise.rate=0,0.2,0.4 seed=0,1,2     # then: make ui"


def shown(path: Path) -> str:
    """The path as a person would type it here."""
    relative = os.path.relpath(path)
    return shlex.quote(relative if not relative.startswith("..") else str(path))
