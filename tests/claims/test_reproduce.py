"""Claims as files, statistics of their cells, and the command's verdict."""

import json
from pathlib import Path

import numpy as np
import pytest

from prefopt import reproduce
from prefopt.claims import statistics
from prefopt.claims.claim import read
from prefopt.claims.statistics import Cell, interval

CLAIM = """
claim: a coin lands on heads
paper: nobody
experiments:
  toss:
    base: [dataset=bandit, model=log_linear, dataset.pairs=64, dataset.test_pairs=16, rounds=1]
    arms: {dpo: [method=dpo], ipo: [method=ipo]}
    seeds: 2
    tests:
      - {says: order, statistic: mean_gap, of: {figure: gold/kl, better: dpo, worse: ipo}, at_least: LEAST}
"""


def power_law(exponent: float) -> list[Cell]:
    return [
        Cell("a", seed, {"n": n}, {"error": (1 + 0.1 * seed) * n**exponent}) for n in (1, 10, 100) for seed in range(5)
    ]


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 2.0])
def test_the_slope_of_a_power_law_is_its_exponent(exponent: float) -> None:
    slope = statistics.slope(arm="a", figure="error", against="n")
    assert slope(power_law(exponent)) == pytest.approx(exponent, abs=1e-12)
    assert interval(slope, power_law(exponent)) == pytest.approx((exponent, exponent), abs=1e-12)


def test_the_slope_in_the_correction_is_one_where_the_error_is_the_correction() -> None:
    cells = [Cell("a", 0, {"e": e}, {"error": 1 / (1 - 2 * e)}) for e in (0.0, 0.1, 0.4)]
    slope = statistics.slope(arm="a", figure="error", against="e", transform="correction")
    assert slope(cells) == pytest.approx(1)
    assert statistics.spread(arm="a", figure="error", against="e")(cells) == pytest.approx(0)


def test_an_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        cells = [Cell("a", seed, {}, {"x": draws.normal()}) for seed in range(20)]
        low, high = interval(statistics.mean(figure="x", arm="a"), cells)
        covered += low <= 0 <= high
    assert 45 <= covered <= 60


@pytest.mark.parametrize(("least", "code"), [("-1000", 0), ("1000", 1)])
def test_the_exit_code_is_the_verdict(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    least: str,
    code: int,
) -> None:
    (tmp_path / "coin.yaml").write_text(CLAIM.replace("LEAST", least))
    monkeypatch.setattr(reproduce, "CLAIMS", tmp_path)
    assert reproduce.main(["claim=coin"]) == code
    said = capsys.readouterr().out
    assert ("does not hold" in said) == bool(code)
    written = json.loads(Path(said.strip().splitlines()[-1]).read_text())
    assert written["tests"][0]["seeds"] == 2


def test_all_claims_of_a_family_end_in_one_table(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, least in (("dpo", "-1000"), ("ipo", "1000"), ("grpo", "1000")):
        (tmp_path / f"{name}.yaml").write_text(CLAIM.replace("LEAST", least))
    monkeypatch.setattr(reproduce, "CLAIMS", tmp_path)
    assert reproduce.main(["claim=all", "family=pairwise"]) == 1
    summary = capsys.readouterr().out.rpartition("2 claims")[2]
    dpo, ipo = (next(line for line in summary.splitlines() if name in line) for name in ("dpo", "ipo"))
    assert "1 of 1" in dpo and "does not hold" not in dpo
    assert "0 of 1" in ipo and "does not hold" in ipo
    assert "grpo" not in summary
    with pytest.raises(SystemExit):
        reproduce.main(["claim=all", "family=games"])
    assert "choose one of online, pairwise" in capsys.readouterr().err


def test_a_claim_that_asks_for_nothing_does_not_hold_either(capsys: pytest.CaptureFixture[str]) -> None:
    reported = reproduce.Line("toss", "heads", 1.0, None, "reported", "-", 2)
    claims = [read(reproduce.CLAIMS / "rdpo.yaml")]
    reproduce.summarise(claims, {"rdpo": [reported]})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "no criterion" in line)
    assert "0 of 0" in line and "holds" not in line


def test_an_unknown_claim_or_statistic_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        reproduce.main(["claim=rdpoo"])
    assert left.value.code == 2
    assert "rdpo" in capsys.readouterr().err
    (tmp_path / "odd.yaml").write_text(CLAIM.replace("LEAST", "0").replace("mean_gap", "vibes"))
    monkeypatch.setattr(reproduce, "CLAIMS", tmp_path)
    with pytest.raises(SystemExit):
        reproduce.main(["claim=odd"])
    assert "vibes" in capsys.readouterr().err


def test_every_claim_on_disk_reads_and_its_runs_compose() -> None:
    from prefopt.config import composed

    for path in sorted(reproduce.CLAIMS.glob("*.yaml")):
        for experiment in read(path).experiments:
            assert experiment.tests, f"{path}: {experiment.name} tests nothing"
            for _, _, _, overrides in experiment.cells()[: len(experiment.arms)]:
                composed(overrides)
