"""`python -m prefopt.audit`: what it reads, writes, shows and refuses."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefopt.audit.__main__ import configured, main
from prefopt.audit.estimate import Estimate
from prefopt.audit.findings import Findings
from prefopt.audit.likelihood import Rate
from prefopt.audit.report import LENGTH, brief
from prefopt.audit.saying import advice, verdict, warnings

BANDIT = ["dataset=bandit", "dataset.pairs=1500", "dataset.scale=4", "dataset.test_pairs=1"]


def audited(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[Path, str]:
    """The report's path, which is the last line on standard output, and what was shown."""
    assert main(overrides) == 0
    shown = capsys.readouterr()
    return Path(shown.out.splitlines()[-1]), shown.err


def refused(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(overrides)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "mend: " in said
    return said


def recorded(path: Path, rows: int, **more: object) -> Path:
    """A file of answers, the longer and the kinder better, every fifth label the other way."""
    with path.open("w") as file:
        for row in range(rows):
            good, bad = f"thank you, that is kind {row % 7} and clear", f"no {row % 5} go away"
            sides = (bad, good) if row % 5 == 0 else (good, bad)
            line = {"id": f"r{row}", "prompt": f"question {row}", "chosen": sides[0], "rejected": sides[1]}
            file.write(json.dumps(line | {key: value(row) for key, value in more.items()}) + "\n")
    return path


def test_flips_made_here_are_found_and_written_down(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, shown = audited(capsys, *BANDIT, "noise.rate=0.2")
    assert report.is_relative_to(home / "audits") and report.name == "report.md"
    found = json.loads((report.parent / "report.json").read_text())
    headline = found["estimates"]["reliability"]
    assert headline["sound"] and headline["low"] <= 0.2 <= headline["high"]
    assert found["injected"]["rate"] == 0.2 and found["injected"]["auroc"] > 0.8
    assert list(found["estimates"]) == ["reliability", "confident", "mixture"]
    assert {part["by"] for part in found["parts"]} == {"annotator", "group"}
    text = report.read_text()
    assert "noise.assumed=estimated" in text and "suspicion finds them with AUROC" in text
    assert f"noise.assumed={headline['rate']:.3f}" in shown
    for suffix in ("png", "svg"):
        assert (report.parent / "figures" / f"audit.{suffix}").stat().st_size > 1000
    assert "figures/audit.png" in text


def test_suspicious_pairs_are_a_file_worst_first(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, _ = audited(capsys, *BANDIT, "noise.rate=0.2")
    lines = list(csv.DictReader((report.parent / "suspicious.csv").open()))
    found = json.loads((report.parent / "report.json").read_text())["estimates"]["reliability"]
    assert len(lines) == round(found["rate"] * 1500)
    scores = [float(line["p_flipped"]) for line in lines]
    assert scores == sorted(scores, reverse=True) and 0.9 < scores[0] <= 1
    assert lines[0]["id"].startswith("bandit-0-train-") and lines[0]["rank"] == "1"
    assert lines[0]["winner"] != lines[0]["loser"]


def test_labels_stay_as_they_were_recorded_unless_noise_is_asked_for(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configured(["dataset=bandit"])["noise"]["rate"] == 0
    assert configured(["dataset=bandit", "noise.rate=0.3"])["noise"]["rate"] == 0.3
    report, shown = audited(capsys, *BANDIT)
    found = json.loads((report.parent / "report.json").read_text())
    assert found["injected"] is None and found["estimates"]["reliability"]["high"] < 0.05
    assert "No sign of flipped labels" in shown and "method=dpo" in shown


def test_own_files_are_read_with_their_annotators(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recorded(tmp_path / "own.jsonl", 400, annotator=lambda row: "once" if row == 9 else f"a{row % 2}")
    report, _ = audited(capsys, "dataset=pairs", f"dataset.path={file}")
    found = json.loads((report.parent / "report.json").read_text())
    parts = {part["name"]: part for part in found["parts"] if part["by"] == "annotator"}
    assert parts.keys() == {"a0", "a1", "once"}
    assert parts["once"]["pairs"] == 1 and not parts["once"]["estimate"]["sound"]
    assert "| annotator | once | 1 | – |" in report.read_text()
    first = next(csv.DictReader((report.parent / "suspicious.csv").open()))
    assert first["prompt"].startswith("question") and "go away" in first["winner"] and "thank you" in first["loser"]


def test_estimators_that_disagree_are_named() -> None:
    sure = Estimate(0.1, 0.08, 0.12, True, "")
    others = {"confident": replace(sure, low=0.121, high=0.2), "mixture": replace(sure, low=0.12, high=0.2)}
    found = Findings(np.ones(2), Rate(0.1, 0.08, 0.12, 1.0), {"reliability": sure, **others}, [], 1)
    assert found.disagreeing == ["confident"]
    assert warnings(found)[0].startswith("confident disagrees with reliability")


@pytest.mark.parametrize(
    ("low", "high", "sound", "says", "next_"),
    [
        (0.0, 0.02, True, "No sign of flipped labels", "method=dpo"),
        (0.0, 0.15, True, "At most 15% of the labels", "-m dataset=x noise=none method=rdpo noise.assumed=0.00,0.15"),
        (0.0, 0.50, False, "No single flip rate is sound", "method=rdpo noise.assumed=0.00,0.45"),
        (0.1, 0.20, True, "About 15.0% of the labels", "method=rdpo noise.assumed=0.150"),
    ],
)
def test_what_is_found_and_what_to_do_are_said(low: float, high: float, sound: bool, says: str, next_: str) -> None:
    headline = Estimate(0.15, low, high, sound, "of this")
    found = Findings(np.ones(2), Rate(0.15, low, high, 1.0), {"reliability": headline}, [], 1)
    assert verdict(found).startswith(says)
    assert next_ in advice(found, ["dataset=x"])[0]


def test_what_to_do_is_done_on_the_labels_that_were_audited() -> None:
    headline = Estimate(0.15, 0.1, 0.2, True, "")
    found = Findings(np.ones(2), Rate(0.15, 0.1, 0.2, 1.0), {"reliability": headline}, [], 1)
    flips = ["noise=groups", "dataset=x", "noise.rate=0.2", "noise.assumed=0.4"]
    told = "prefopt.train dataset=x noise=groups noise.rate=0.2 method=rdpo noise.assumed=0.150"
    assert told in advice(found, flips)[0]


def test_too_few_rows_are_refused(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recorded(tmp_path / "few.jsonl", 50)
    assert "too few" in refused(capsys, "dataset=pairs", f"dataset.path={file}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset=bandits"], "dataset=bandits"),
        (["dataset=bandit", "dataset.pears=3"], "pears"),
        (["dataset=pairs"], "dataset.path is not given"),
        (["dataset=reviews", "model=log_linear"], "model=log_linear has no tokenizer"),
        (["dataset=bandit", "noise=none", "noise.rate=0.2"], "noise=none"),
        (["bandit"], "bandit"),
    ],
)
def test_what_cannot_be_audited_is_said_with_what_to_do(
    overrides: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *overrides)


def test_a_world_without_features_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the same features" in refused(capsys, "dataset=game")


def test_help_says_how_to_audit_own_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "dataset=pairs dataset.path=FILE" in capsys.readouterr().out


@pytest.mark.shared_data
def test_real_preferences_give_an_interval(home: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, _ = audited(capsys, "dataset=hh_rlhf", f"dataset.path={shared_data / 'hh_harmless'}")
    found = json.loads((report.parent / "report.json").read_text())["estimates"]["reliability"]
    assert 0 <= found["low"] <= found["rate"] <= found["high"] < 0.5
    assert found["high"] - found["low"] > 0.05, "1,500 pairs and single words cannot know it closer"


def test_a_long_text_is_cut_at_its_beginning_and_stays_in_one_line() -> None:
    assert brief("a\n b") == "a b"
    assert brief("x" * LENGTH + "end").endswith("xend") and len(brief("x" * 999)) == LENGTH + 2
