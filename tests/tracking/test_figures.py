"""The figures of a run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prefopt.evaluation.calibration import binned
from prefopt.evaluation.figures import learning_curves, margin_histogram, reliability_diagram, samples_table
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
