"""Twelve cells, 3 methods x 2 noise rates x 2 seeds, in CPU seconds of whole processes: prefopt's command line, and TRL
in a process a cell that finds the tokens and reference log-probs of those before. It takes half an hour.
"""

import argparse
import ctypes
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
from surroundings import half

LAUNCHER = "pack"
METHODS = {"dpo": "sigmoid", "ipo": "ipo", "rdpo": "robust"}
"""Ours, and what TRL calls them."""
RATES, SEEDS, BATCH = (0.0, 0.2), (0, 1), 8
ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER, of prctl(2)


def measured(steps: int) -> dict[str, Any]:
    """CPU seconds of prefopt's sweep, and of each of TRL's processes."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write(folder, steps)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PREFOPT_HOME": str(folder / "home"),
            "HF_HOME": str(folder / "cache"),
        }
        theirs = []
        for method, rate, seed in itertools.product(METHODS.values(), RATES, SEEDS):
            cell = {"method": method, "rate": rate, "seed": seed}
            command = [sys.executable, __file__, "--folder", str(folder), "--cell", json.dumps(cell)]
            theirs.append(cpu_seconds(command, environment))
        ours = cpu_seconds([sys.executable, "-m", "prefopt.train", *overrides(folder)], environment)
        done = len(list((folder / "home").glob("*/results.json")))
        assert done == len(theirs), f"{done} of prefopt's cells have results"
    return {"steps": steps, "pairs": BATCH, "launcher": LAUNCHER, "ours": ours, "theirs": theirs}


def overrides(folder: Path) -> list[str]:
    return [
        "-m",
        f"hydra/launcher={LAUNCHER}",
        f"method={','.join(METHODS)}",
        "noise=flip",
        f"noise.rate={','.join(map(str, RATES))}",
        f"seed={','.join(map(str, SEEDS))}",
        "model=hf",
        f"model.path={folder / 'model'}",
        "model.start=null",
        "dataset=pairs",
        f"dataset.path={folder / 'data'}",
        "trainer=cpu",
        f"trainer.precision={'bf16-mixed' if half() else '32-true'}",
        f"batch_size={BATCH}",
        "rounds=1",
        "evaluation.times=1",
        "evaluation.prompts=2",
        "evaluation.figures=false",
    ]


def write(folder: Path, steps: int) -> None:
    """The model's folder and the pairs' files, which both sides begin with."""
    import pairs
    import sizes

    shape, profile = sizes.SIZES["xs"], pairs.PROFILES["prompt-heavy"]
    tokenizer = pairs.tokenizer(shape.vocabulary)
    for part in (sizes.made(shape, profile.longest), tokenizer):
        part.save_pretrained(folder / "model")
    (folder / "data").mkdir()
    rows = pairs.rows(pairs.drawn(profile, BATCH * (steps + 1), shape.vocabulary))
    for split, some in (("train", rows[BATCH:]), ("test", rows[:BATCH])):
        (folder / "data" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in some))


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User and system time of a command and of all that it starts, until the last of them has ended."""
    ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1)
    before = os.times()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def train(folder: Path, cell: dict[str, Any]) -> None:
    """One of TRL's cells: its whole `train`, with its best flags."""
    import theirs
    from datasets import load_dataset
    from transformers import AutoTokenizer

    def flip(row: dict[str, Any], index: int, *, rate: float, seed: int) -> dict[str, Any]:
        import numpy as np

        turned = np.random.default_rng([seed, index]).random() < rate
        return {"chosen": row["rejected"], "rejected": row["chosen"]} if turned else row

    data = load_dataset("json", data_files=str(folder / "data" / "train.jsonl"), split="train")
    if cell["rate"]:
        data = data.map(flip, with_indices=True, fn_kwargs={"rate": cell["rate"], "seed": cell["seed"]})
    args = theirs.DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        max_length=512,
        num_train_epochs=1,
        use_cpu=True,
        bf16=half(),
        seed=cell["seed"],
        loss_type=cell["method"],
        label_smoothing=cell["rate"] if cell["method"] == "robust" else 0.0,
        **theirs.SHARED,
        **theirs.BEST,
    )
    theirs.DPOTrainer(
        model=str(folder / "model"),
        args=args,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    ).train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell is not None:
        train(given.folder, given.cell)
    else:
        found = measured(given.steps)
        print(json.dumps(found, indent=2))
        print(report.markdown([report.sweep(found)]), end="")
