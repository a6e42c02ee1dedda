"""The command: what it reads, what it writes, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefopt.compare import main
from prefopt.tracking import sweep as tracked
from prefopt.tracking.record import Record
from prefopt.tracking.sync import deliver

from .conftest import Lab, config_of, overrides_of

Compare = Callable[..., tuple[Path, str]]
FILES = {
    "comparison.csv",
    "comparison.html",
    "comparison.md",
    *(
        f"figures/{n}.{s}"
        for n in ("degradation", "differences", "reward_and_kl", "others", "training")
        for s in ("png", "svg")
    ),
}


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_whole_sweep(lab: Lab, compare: Compare) -> None:
    folder = lab.sweep("noise_grid", {run: overrides_of(run) for run in lab.grid()})
    found, shown = compare("sweep=noise_grid")
    assert found == folder / "comparison" and written(found).keys() == FILES
    assert "27 of 27 cells done: 3 methods x 3 noise rates x 3 seeds" in shown
    assert len(lines(found)) == 27 * 5
    one = next(row for row in lines(found) if row["run"] == "rdpo-bandit-0.4-1" and row["figure"] == "regret")
    assert (one["method"], one["noise.rate"], one["seed"], one["state"]) == ("rdpo", "0.4", "1", "done")
    text = (found / "comparison.md").read_text()
    assert "rdpo is better at 0.2, at 0.4, in area" in text and "![" in text
    row = next(line for line in text.splitlines() if line.startswith("| dpo | ") and "KL 1.10" in line)
    assert "0.510 ± 0.025 (KL 1.10, n 3)" in row


def test_the_same_cells_give_the_same_bytes(lab: Lab, compare: Compare, tmp_path: Path) -> None:
    lab.grid(rates="0,0.2", seeds=2)
    first, second = (compare("method=dpo,cdpo,rdpo", "--out", str(tmp_path / name))[0] for name in ("one", "two"))
    assert written(first) == written(second)


def test_cells_that_are_not_done_are_counted_and_in_no_mean(lab: Lab, compare: Compare) -> None:
    runs = lab.grid("dpo,rdpo", "0,0.2")
    lab.delete("rdpo-bandit-0.2-2")
    lab.delete("dpo-bandit-0-0")
    lab.run("dpo", 0.0, 0, state="failed")
    never = config_of("rdpo", 0.2, 2, noise__assumed="${.rate}", dataset__seed="${seed}")
    lab.sweep("half", {run: overrides_of(run) for run in runs}, {"rdpo-bandit-0.2-2": never})
    found, shown = compare("sweep=half")
    assert "10 of 12 cells done" in shown
    assert "2 of 12 cells are not done (1 failed, 1 missing); no mean holds them." in shown
    assert shown.count("n 2 of 3") == 2
    text = (found / "comparison.md").read_text()
    assert "| dpo-bandit-0-0 | dpo | 0 | 0 | failed | it broke |" in text
    assert "| rdpo-bandit-0.2-2 | rdpo | 0.2 | 2 | missing | - |" in text
    assert [line["figure"] for line in lines(found) if line["state"] != "done"] == ["", ""]


def test_a_sweep_in_which_nothing_is_done_is_no_comparison(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run("dpo", state="failed")
    lab.run("dpo", seed=1, state="interrupted")
    assert "none of 2 cells is done (failed, interrupted)" in refused(["method=dpo"], capsys)


def test_one_seed_has_no_interval_and_no_test(lab: Lab, compare: Compare) -> None:
    lab.grid(seeds=1)
    found, shown = compare("dataset=bandit")
    assert "One seed a cell: there is no interval and no test" in shown and "±" not in shown
    assert "n < 2" in shown and "better" not in shown.replace("higher is better", "")
    assert written(found).keys() == FILES


def test_one_method_has_nothing_to_be_tested_against(lab: Lab, compare: Compare) -> None:
    lab.grid()
    found, shown = compare("method=rdpo")
    assert "Paired tests" not in shown and "rank" not in shown
    assert "## Against" not in (found / "comparison.md").read_text()
    assert written(found).keys() == FILES - {"figures/differences.png", "figures/differences.svg"}


def test_one_rate_has_no_curve(lab: Lab, compare: Compare) -> None:
    lab.grid()
    found, shown = compare("noise.rate=0.4")
    assert "area" not in shown and "breakdown" not in shown and "3 methods x 1 noise rate x 3 seeds" in shown
    assert written(found).keys() == FILES - {"figures/others.png", "figures/others.svg"}


def test_a_key_with_several_values_tells_arms_apart(lab: Lab, compare: Compare) -> None:
    lab.grid("dpo", "0,0.2")
    for rate in (0.0, 0.2):
        for seed in range(3):
            lab.run("dpo", rate, seed, name=f"hot-{rate}-{seed}", method__objective__beta=0.5)
    _, shown = compare("method=dpo", "method.objective.beta=0.1,0.5", "--baseline", "dpo (beta 0.5)")
    assert "Paired tests against dpo (beta 0.5)" in shown and "dpo (beta 0.1)" in shown
    _, shown = compare("method=dpo", "method.objective.beta=0.5")
    assert "6 of 6 cells done: 1 method " in shown and "(beta" not in shown


def test_unequal_cells_end_the_command_with_2_and_the_way_out(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run("dpo", 0.2, 0)
    lab.run("dpo", 0.2, 1, batch_size=128)
    error = refused(["method=dpo"], capsys)
    assert "batch_size is 128 in dpo-bandit-0.2-1, 256 in dpo-bandit-0.2-0" in error
    assert "choose one (batch_size=128), tell them apart (batch_size=128,256)" in error
    assert main(["method=dpo", "--allow", "batch_size"]) == 0


def test_an_experiment_leaves_out_what_its_runs_were_built_on(lab: Lab, compare: Compare) -> None:
    needs: dict[str, Any] = {"policy": {"method": "sft"}}
    for seed in (0, 1):
        lab.run("dpo", 0.2, seed, tracking__experiment="mine", method__needs=needs)
        lab.run("sft", 0.2, seed, tracking__experiment="mine")
        lab.run("rdpo", 0.2, seed)
    _, shown = compare("experiment=mine")
    assert "2 of 2 cells done: 1 method" in shown and "left out: sft" in shown


def test_versions_that_differ_are_told_and_not_refused(lab: Lab, compare: Compare) -> None:
    lab.run("dpo", 0.2, 0)
    other = {"python": "3.12", "packages": {"torch": "2.13"}, "git": {"commit": "c0ffee", "dirty": True}}
    lab.run("dpo", 0.2, 1, environment=other)
    _, shown = compare("method=dpo")
    assert "python differs: 3.11 in 1 cell; 3.12 in 1 cell." in shown
    assert "1 of 2 cells ran code that no commit holds" in shown and "torch differs" not in shown


def test_what_differs_is_said_by_key_and_method(lab: Lab, compare: Compare) -> None:
    lab.grid("dpo,rdpo")
    text = (compare("dataset=bandit")[0] / "comparison.md").read_text()
    for line in (
        "| dataset.seed | = seed |",
        "| method.robust.epsilon | not set (dpo); = noise.rate (rdpo) |",
        "| noise.assumed | = noise.rate |",
        "| noise.rate | 0, 0.2, 0.4 |",
        "| seed | 0, 1, 2 |",
        "| train/used | 64 |",
        "| git commit | c0ffee |",
    ):
        assert line in text.splitlines()
    assert "batch_size" not in text


def test_a_figure_that_is_not_finite_is_left_out_and_named(lab: Lab, compare: Compare) -> None:
    lab.run("dpo", 0.2, 0, figures={"regret": float("nan"), "gold/win_rate": 0.5})
    lab.run("dpo", 0.2, 1, figures={"regret": 0.5, "gold/win_rate": 0.5})
    _, shown = compare("method=dpo", "--figure", "regret")
    assert "not finite are left out: regret of dpo-bandit-0.2-0" in shown and "n 1 of 2" in shown


@pytest.mark.parametrize("figures", [{}, {"regret": float("nan")}])
def test_runs_without_a_finite_figure_are_no_comparison(
    lab: Lab, capsys: pytest.CaptureFixture[str], figures: dict[str, float]
) -> None:
    lab.run("dpo", 0.2, 0, figures=figures)
    assert "none of the 1 cells that are done has a figure that is finite" in refused(["method=dpo"], capsys)


def test_figures_that_no_cell_has_together_are_not_drawn_against_each_other(lab: Lab, compare: Compare) -> None:
    lab.run("dpo", 0.2, 0, figures={"gold/kl": 1.0})
    lab.run("rdpo", 0.2, 0, figures={"gold/reward": 1.0})
    found, _ = compare("dataset=bandit", "--figure", "gold/reward")
    assert "figures/reward_and_kl.svg" not in written(found)


def test_curves_of_seeds_that_have_no_step_in_common_are_not_drawn(lab: Lab, compare: Compare) -> None:
    for seed in (0, 1):
        events = lab.home / lab.run("dpo", 0.2, seed) / "metrics.jsonl"
        events.write_text(json.dumps({"step": 10 + seed, "time": 0.0, "metrics": {"loss": 1.0}}) + "\n")
    assert "figures/training.svg" not in written(compare("method=dpo")[0])


def test_names_are_neither_mathematics_nor_markup(lab: Lab, compare: Compare) -> None:
    for dataset in ("a[/b]", "[dim]$\\frac$"):
        for seed in (0, 1):
            lab.run("$x$", 0.2, seed, name=f"{len(dataset)}-{seed}", choices__dataset=dataset)
    found, shown = compare("noise.rate=0.2")
    assert "(share of prompts), [dim]$\\frac$\n" in shown and "(share of prompts), a[/b]\n" in shown
    drawn = (found / "figures" / "degradation.svg").read_text()
    assert ">$x$</text>" in drawn and ">[dim]$\\frac$</text>" in drawn


def test_what_is_null_in_all_runs_can_be_asked_for(lab: Lab, compare: Compare) -> None:
    lab.run("dpo", 0.2, 0)
    assert compare("method.needs.policy=null")[1].startswith("method.needs.policy=null\n1 of 1 cells done")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sweep=noise"], "sweep=noise may be any of noise_a, noise_b"),
        (["sweep=other"], "choose one of noise_a, noise_b"),
        (["noise.rat=0"], "did you mean noise.rate"),
        (["method=slic"], "answers method=slic"),
        (["experiment=other"], "choose one of prefopt"),
        (["dpo"], "'dpo' is not a question"),
        (["seed=0", "seed=1"], "seed is given twice"),
        (["method=dpo", "--figure", "gold/rewards"], "choose one of gold/kl, gold/reward"),
        (["method=dpo", "--baseline", "ipo"], "choose one of 'dpo'"),
        (["method.rebust=null"], "no run has the key method.rebust"),
    ],
)
def test_a_question_without_an_answer(
    lab: Lab, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    run = lab.run("dpo")
    for name in ("noise_a", "noise_b"):
        lab.sweep(name, {run: overrides_of(run)})
    assert expected in refused(words, capsys)


def test_a_sweep_is_found_by_the_beginning_of_its_name(lab: Lab, compare: Compare) -> None:
    run = lab.run("dpo")
    for name in ("noise_grid", "noise_grid-1a2b", "smoke"):
        lab.sweep(name, {run: overrides_of(run)})
    assert compare("sweep=smo")[0] == lab.home / "sweeps" / "smoke" / "comparison"
    assert compare("sweep=noise_grid")[0] == lab.home / "sweeps" / "noise_grid" / "comparison"


def test_a_value_that_no_run_has_is_said(lab: Lab, compare: Compare) -> None:
    lab.run("dpo", 0.2)
    assert "No run has noise.rate=0.3." in compare("noise.rate=0.2,0.3")[1]


def test_the_sweeps_mlflow_run_has_the_last_comparison(lab: Lab, compare: Compare) -> None:
    folder = lab.sweep("noise_grid", {run: overrides_of(run) for run in lab.grid("dpo", "0", 2)})
    uri = f"sqlite:///{lab.home / 'mlflow.db'}"
    tracked.begin(folder, "noise_grid", {}, {}, "prefopt")
    tracked.end(folder, "FINISHED")
    assert deliver([folder], lab.home, uri) == {folder: None}
    for figure in ("gold/reward", "regret"):
        found, _ = compare("sweep=noise_grid", "--figure", figure)
        sent = next((lab.home / "mlartifacts").rglob("comparison.md")).parent
        assert written(sent) == written(found)


def test_a_tracked_sweep_that_mlflow_has_not_met_takes_the_files_along(lab: Lab, compare: Compare) -> None:
    folder = lab.sweep("noise_grid", {run: overrides_of(run) for run in lab.grid("dpo", "0", 2)})
    tracked.begin(folder, "noise_grid", {}, {}, "prefopt")
    found, _ = compare("sweep=noise_grid")
    record = Record.load(folder)
    assert record is not None and folder / record.artifacts[-1] == found


def test_no_best_is_named_where_seeds_are_not_the_same(lab: Lab, compare: Compare) -> None:
    lab.grid("dpo,rdpo", "0.2", seeds=2)
    assert "Best mean gold win rate over the start at noise rate 0.2: rdpo" in compare("dataset=bandit")[1]
    lab.delete("rdpo-bandit-0.2-0")
    assert "Best mean" not in compare("dataset=bandit")[1]


def test_a_damaged_run_is_named(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.home / lab.run("dpo") / "results.json").write_text('{"run": "dp')
    assert "dpo-bandit-0-0 cannot be read" in refused(["method=dpo"], capsys)


def test_a_figure_that_nobody_described_has_no_better(lab: Lab, compare: Compare) -> None:
    for method, value in (("dpo", 1.0), ("rdpo", 5.0)):
        for seed in (0, 1, 2):
            lab.run(method, 0.2, seed, figures={"new/figure": value + 0.01 * seed * len(method)})
    _, shown = compare("dataset=bandit", "--figure", "new/figure")
    assert "higher" in shown and "better" not in shown and "rank" not in shown


def test_a_run_without_metrics_is_compared_without_curves(lab: Lab, compare: Compare) -> None:
    for seed in (0, 1):
        (lab.home / lab.run("dpo", 0.2, seed) / "metrics.jsonl").unlink()
    found, _ = compare("method=dpo")
    assert "figures/training.svg" not in written(found)
    assert json.dumps("training") not in (found / "comparison.html").read_text()
