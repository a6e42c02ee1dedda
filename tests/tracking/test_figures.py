"""The figures of a run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prefopt.evaluation.calibration import binned
from prefopt.evaluation.figures import learning_curves, margin_histogram, reliability_diagram, samples_table
from prefopt.evaluation.overoptimisation import overoptimisation, way
from prefopt.tracking.events import EVENTS, EventFile

Fill = Callable[[Path, range], None]


def test_learning_curves_draw_what_was_recorded(tmp_path: Path) -> None:
    events = EventFile(tmp_path / EVENTS)
    for step in range(100):
        events.write(step, {"loss": 0.7 - step / 1000} | ({"gold/reward": step / 100} if step % 25 == 0 else {}))
    events.close()
    png, svg = learning_curves(tmp_path / EVENTS, tmp_path / "figures")
    check_picture(png, svg)
    drawn = svg.read_text()
    assert drawn.count('id="axes_') == 2
    assert [drawn.count(f"<!-- {text} -->") for text in ("Loss", "Gold reward", "Regret", "training")] == [1, 1, 0, 1]


def test_nothing_recorded_draws_nothing(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / EVENTS, range(3))
    assert learning_curves(tmp_path / EVENTS, tmp_path) == []


@pytest.mark.parametrize("case", ["mixed", "clean", "equal", "infinite"])
def test_margins_are_drawn_apart_for_clean_and_flipped_pairs(tmp_path: Path, case: str) -> None:
    flipped = np.arange(400) % 4 == 0
    margins = np.where(flipped, -1.0, 1.0) + np.random.default_rng(0).uniform(-0.9, 0.9, 400)
    if case == "clean":
        flipped = np.zeros(400, dtype=bool)
    if case == "equal":
        margins = np.zeros(400)
    if case == "infinite":
        margins[0] = np.inf
    png, svg = margin_histogram(margins, flipped, tmp_path)
    check_picture(png, svg)
    drawn = svg.read_text()
    expected = {
        "mixed": ["clean: 300 pairs, 100% above 0", "flipped: 100 pairs, 0% above 0"],
        "clean": ["clean: 400 pairs, 75% above 0"],
        "equal": ["clean: 300 pairs, 0% above 0", "flipped: 100 pairs, 0% above 0"],
        "infinite": ["flipped: 99 pairs, 0% above 0", "recorded label (1 not finite)"],
    }[case]
    assert all(text in drawn for text in expected)
    assert ("flipped:" in drawn) == (case != "clean")


@pytest.mark.parametrize("case", ["spread", "equal", "not a number"])
def test_reliability_is_drawn_of_any_margins(tmp_path: Path, case: str) -> None:
    margins = np.random.default_rng(0).normal(1.0, 2.0, 400)
    if case == "equal":
        margins = np.zeros(400)
    if case == "not a number":
        margins[0] = np.nan
    png, svg = reliability_diagram(binned(margins), tmp_path)
    check_picture(png, svg)
    assert "Reliability on 400 held-out pairs" in svg.read_text()


def test_gold_and_proxy_are_drawn_over_kl(tmp_path: Path) -> None:
    events = EventFile(tmp_path / EVENTS)
    for step in (5, 10):
        events.write(step, {"gold/kl": 0.1 * step, "gold/standardised": 1.0, "proxy/standardised": 0.2 * step})
    events.write(10, {"loss": 1.0})
    events.close()
    assert way(tmp_path / EVENTS) == {5: (0.5, 1.0, 1.0), 10: (1.0, 1.0, 2.0)}
    png, svg = overoptimisation(tmp_path / EVENTS, tmp_path / "figures")
    check_picture(png, svg)
    assert all(f"<!-- {text} -->" in svg.read_text() for text in ("gold", "proxy", "KL to the start (nats)"))


def test_the_curve_of_best_of_n_is_over_n(tmp_path: Path) -> None:
    """By the KL where that is known, else by the most that it can be; and its last n is no second curve."""
    for kl in ("kl", "kl_bound"):
        events = EventFile(tmp_path / f"{kl}.jsonl")
        curve = {f"best_of/{n}/{name}": n / k for n in (2, 16) for name, k in ((kl, 1), ("gold", 2), ("proxy", 4))}
        events.write(0, {"gold/kl": 9.0, "gold/standardised": 9.0, "proxy/standardised": 9.0, **curve})
        events.close()
        assert way(tmp_path / f"{kl}.jsonl") == {2: (2.0, 1.0, 0.5), 16: (16.0, 8.0, 4.0)}


@pytest.mark.parametrize(
    "last",
    [
        {"gold/kl": 1.0, "gold/standardised": 1.0},
        {"gold/kl": 1.0, "gold/standardised": 1.0, "proxy/standardised": float("nan")},
        {"gold/kl_bound": 1.0, "best_of/2/gold": 1.0, "best_of/2/kl_bound": 0.2},
    ],
)
def test_one_point_with_gold_and_proxy_is_no_picture(tmp_path: Path, last: dict[str, float]) -> None:
    events = EventFile(tmp_path / EVENTS)
    events.write(1, {"gold/kl": 1.0, "gold/standardised": 1.0, "proxy/standardised": 2.0})
    events.write(2, last)
    events.close()
    assert way(tmp_path / EVENTS).keys() == {1}
    assert overoptimisation(tmp_path / EVENTS, tmp_path / "figures") == []


def check_picture(png: Path, svg: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(png)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50
    assert svg.read_text().startswith("<?xml")


def test_samples_are_kept_as_data_and_as_a_page_that_runs_nothing(tmp_path: Path) -> None:
    attack = "<script>alert('x')</script> & \"{braces}\""
    rows = [
        {"prompt": attack, "sft": "poor", "policy": "fine\nday", "gold_sft": -0.5, "gold_policy": 1.25},
        {"prompt": "so", "sft": "a", "policy": "a", "gold_sft": 0.5, "gold_policy": 0.5},
        {"prompt": "naïve", "sft": "b", "policy": "c", "gold_sft": None, "gold_policy": None},
    ]
    lines, page = samples_table(rows, tmp_path)
    assert [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] == rows
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;{braces}&quot;" in html
    assert "naïve" in html
    assert "+1.750" in html
    assert "the policy wins 75%" in html
