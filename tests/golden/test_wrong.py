"""What cannot work is refused before anything is trained, with what would work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prefopt.config import composed
from prefopt.errors import PrefoptError
from prefopt.run import run
from prefopt.store import CHECKOUT

BANDIT = ["dataset=bandit", "model=log_linear", "tracking=none", "dataset.pairs=64", "dataset.test_pairs=16"]

NAMES = {
    "method=rdpoo": "did you mean rdpo",
    "model=llama_3_8b": "did you mean llama-3-8b",
    "model=log-linear": "did you mean log_linear",
    "dataset=review": "did you mean reviews",
    "noise=flipp": "did you mean flip",
    "method/objective=dpoo": "did you mean dpo",
    "method/robust=unbiase": "did you mean unbiased",
    "optimizer=adam": "did you mean adamw",
    "trainer=cpus": "did you mean cpu",
    "method=dpo,rdpo,cpdo": "did you mean",
    "method=zzz": "choose one of alphapo, aot, aot_unpaired",
}


def test_an_unknown_name_is_answered_with_the_nearest_before_torch_is_imported(home: Path) -> None:
    program = """
import io, json, sys
from contextlib import redirect_stderr
from prefopt.train import main
answers = []
for override in sys.argv[1:]:
    sys.argv[1:] = [override]
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            main()
    except SystemExit as end:
        answers.append([end.code, said.getvalue(), "torch" in sys.modules])
print(json.dumps(answers))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *NAMES], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    answers = json.loads(ended.stdout)
    assert len(answers) == len(NAMES)
    for (override, mend), (code, said, torch_is_there) in zip(NAMES.items(), answers, strict=True):
        group, _, value = override.partition("=")
        assert code == 2 and not torch_is_there
        assert f"prefopt: error: {group}={value.rsplit(',')[-1]}: there is no {group} of that name" in said
        assert mend in said
    assert not home.exists()


WRONG = {
    "a rate that is a coin toss": (["noise=flip", "noise.rate=0.5"], "0.5", "0.5"),
    "a negative rate": (["noise=flip", "noise.rate=-0.1"], "-0.1", "0"),
    "an assumed rate of a half": (
        ["method=rdpo", "noise.rate=0.2", "noise.assumed=0.5"],
        "assumed flip rate is 0.5",
        "",
    ),
    "smoothing at more than a half": (
        ["method=cdpo", "noise.assumed=0.7"],
        "assumed flip rate is 0.7",
        "noise.assumed",
    ),
    "a family without a recipe": (["method=sft"], "model=log_linear has no recipe for the demonstrations", "pairwise"),
    "no demonstrations": (
        ["method=sft", "+model.recipe.demonstrations={lr: 1e-3, rounds: 1, batch_size: 8}"],
        "method=sft eats Demonstrations, and dataset=bandit gives only",
        "without SFT",
    ),
    "a text model on a bandit": (["model=tiny"], "model=tiny does not run on dataset=bandit", "model=log_linear"),
    "noise that nobody reads": (["method=grpo", "noise=flip"], "no part of method=grpo reads a label", "noise=none"),
    "no such reference": (["method.needs.reference=cache"], "method.needs.reference=cache", "cached, copy or adapter"),
    "no such schedule": (["decay=linaer"], "decay=linaer is not a schedule", "constant, linear or cosine"),
    "a cached reference of what is not sampled yet": (
        ["method=online_dpo", "method.needs.reference=cached"],
        "method.needs.reference=cached, but this method learns from samples",
        "copy",
    ),
}


@pytest.mark.parametrize(("overrides", "what", "mend"), WRONG.values(), ids=WRONG)
def test_what_cannot_work_is_refused_before_the_first_step(
    overrides: list[str], what: str, mend: str, home: Path
) -> None:
    with pytest.raises(PrefoptError) as refused:
        run(composed([*BANDIT, *overrides]))
    assert what in refused.value.what
    assert mend in refused.value.mend
    assert refused.value.exit_code == 2
    assert not list(home.rglob("*.ckpt")) and not list(home.rglob("results.json"))


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PrefoptError, match=r"trainer\.accelerator=gpu, but torch sees no GPU") as refused:
        run(composed([*BANDIT, "trainer=gpu"]))
    assert "trainer=cpu" in refused.value.mend
    assert not home.exists()
