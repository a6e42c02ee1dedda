"""What a comparison says, free of any format: sections of figures and tables, and the sentences above them."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from prefopt.comparison import differences, tables
from prefopt.comparison.analysis import Comparison, Test
from prefopt.comparison.cells import Question
from prefopt.comparison.design import Design
from prefopt.comparison.measures import measure
from prefopt.comparison.product import of_product
from prefopt.comparison.tables import Table, capital, interval

MANY_VERDICTS = 4
"""More methods than this with a verdict are counted, and not named, in the sentence at the top."""


@dataclass(frozen=True)
class Section:
    """drawings: names, of those that can be drawn. short: whether the terminal shows the tables too."""

    heading: str
    text: str = ""
    drawings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    short: bool = False


@dataclass(frozen=True)
class Report:
    """A comparison, ready to be written."""

    title: str
    about: str
    says: tuple[str, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]


def report(comparison: Comparison, question: Question, *, notes: Sequence[str], drawings: Collection[str]) -> Report:
    """All that there is to say about a comparison.

    drawings: the names of those that could be drawn; a section without any and without tables is left out.
    """
    design, main = comparison.design, comparison.main
    surroundings, warnings = differences.of_surroundings(design)
    tests = comparison.tests()
    kl_tables = tuple(tables.of_figure(comparison, measure(comparison.kl))) if comparison.kl else ()
    others = [m for m in comparison.measures() if m.key not in (main.key, comparison.kl)]
    sections = [
        Section(
            f"{capital(main.name)}, by noise rate",
            f"{main.meaning} {capital(main.direction)}.".strip(),
            ("degradation",),
            tuple(tables.of_figure(comparison, main)),
            short=True,
        ),
        Section(
            "Objectives and robustifiers",
            "A pairwise method is an objective and a robustifier; each of these methods is named by the two.",
            (),
            tuple(of_product(comparison, main)),
            short=True,
        ),
        Section(
            f"Against {comparison.baseline}",
            f"Differences in {main.name}, paired by seed: the method's less that of {comparison.baseline}.",
            ("differences",),
            tuple(tables.of_tests(comparison, tests)),
            short=True,
        ),
        Section("Ranks", "", (), tuple(tables.of_ranks(comparison)), short=True),
        Section(
            "Distance from the start",
            "A reward without its KL says little: much of what looks robust is a smaller step.",
            ("reward_and_kl",),
            kl_tables if comparison.kl != main.key else (),
        ),
        Section(
            "Over-optimisation",
            "Of runs that optimise a reward which is not the true one. Where this proxy goes on rising and gold falls, "
            "they live on its errors.",
            ("overoptimisation",),
        ),
        Section(
            "Other figures",
            "",
            ("others",),
            tuple(table for m in others for table in tables.of_figure(comparison, m)),
        ),
        Section(
            "Training",
            "Means over seeds with 95 % intervals, at the steps that all seeds of a cell have.",
            ("training",),
        ),
        Section("What was compared", "", (), tuple(tables.of_differences(design, surroundings))),
    ]
    return Report(
        title=question.title,
        about=_about(comparison),
        says=tuple(_says(comparison, tests)),
        warnings=(*_lacking(design), *notes, *warnings),
        sections=tuple(section for section in sections if section.tables or set(section.drawings) & set(drawings)),
    )


def _about(comparison: Comparison) -> str:
    design = comparison.design
    seeds = sorted({place.seed for place in design.placed})
    constant = {}
    for group in ("dataset", "model", "noise"):
        names = sorted({str(place.cell.config["choices"][group]) for place in design.placed})
        constant[group] = ", ".join(names)
    return (
        f"{len(design.done)} of {len(design.placed)} cells done: {_many(len(design.arms), 'method')} x "
        f"{_many(len(design.rates), 'noise rate')} x {_many(len(seeds), 'seed')}; "
        + ", ".join(f"{group} {names}" for group, names in constant.items())
        + "."
    )


def _says(comparison: Comparison, tests: Sequence[Test]) -> Iterator[str]:
    main, design = comparison.main, comparison.design
    for setting in design.settings:
        places = comparison.places(setting, main.key)
        best = sorted(comparison.best(main, setting, design.arms, places[-1])) if places else []
        if best:
            at = "over all noise rates" if len(places) > 1 else f"at noise rate {places[0]:g}"
            found = interval(comparison.estimate(main.key, setting, best[0], places[-1]))
            yield f"{_prefix(setting)}Best mean {main.name} {at}: {' and '.join(best)}, {found}."
    if family := sum(not math.isnan(test.paired.p) for test in tests):
        yield _verdicts([test for test in tests if test.holds], family, comparison.baseline)
    cells = {(place.setting, place.arm, place.rate) for place in design.placed}
    if all(comparison.estimate(main.key, *cell).n < 2 for cell in cells):
        yield "One seed a cell: there is no interval and no test, and what differs may be chance."


def _verdicts(holding: Sequence[Test], family: int, baseline: str) -> str:
    grouped: dict[tuple[str, str], list[str]] = {}
    for test in holding:
        at = "in area" if isinstance(test.where, str) else f"at {test.where:g}"
        grouped.setdefault((f"{_prefix(test.setting)}{test.arm}", test.verdict), []).append(at)
    said = [f"{arm} is {verdict} {', '.join(places)}" for (arm, verdict), places in grouped.items()]
    if len(said) > MANY_VERDICTS:
        verdicts = [test.verdict for test in holding]
        said = [f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts))]
    many = f"{len(holding) or 'None'} of {_many(family, 'paired test')} against {baseline}"
    hold = "holds" if len(holding) == 1 else "hold"
    return f"{many} {hold} at 5 % after Holm's correction{': ' if said else ''}{'; '.join(said)}."


def _lacking(design: Design) -> Iterator[str]:
    states = [place.cell.state for place in design.placed if not place.cell.done]
    if states:
        counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        yield f"{len(states)} of {len(design.placed)} cells are not done ({counted}); no mean holds them."
    broken = sorted(
        {
            f"{key} of {cell.run}"
            for cell in design.done
            for key, value in cell.figures.items()
            if not math.isfinite(value)
        }
    )
    if broken:
        yield f"Figures that are not finite are left out: {', '.join(broken)}."


def _prefix(setting: str) -> str:
    return f"{setting}: " if setting else ""


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
