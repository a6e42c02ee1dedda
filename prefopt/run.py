"""What a run is: compose, needs, fit, evaluate, record. The one file that knows all parts."""

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L
import numpy as np
import torch
import yaml
from omegaconf import DictConfig

from prefopt import belief, ranks, stop, store
from prefopt.batch import Choices, Demonstrations, Prompts, Reasoned
from prefopt.cast import cast
from prefopt.check import check
from prefopt.config import STRUCTURE, made, needed, plain, stages
from prefopt.datasets.data import Data
from prefopt.engine.reference import with_reference
from prefopt.errors import Interrupted, PrefoptError
from prefopt.evaluation import figures
from prefopt.evaluation.calibration import binned
from prefopt.evaluation.overoptimisation import overoptimisation
from prefopt.evaluation.subject import Subject
from prefopt.evaluation.suite import Examination
from prefopt.files import replace_text
from prefopt.foresee import foresee
from prefopt.loop.fit import Training, device_of, fit, schedule, steps_of
from prefopt.loop.processes import check_processes
from prefopt.loop.record import Unwritten
from prefopt.loop.sharded import whole
from prefopt.loop.together import fit_together
from prefopt.methods.base import Method
from prefopt.methods.selection.best_of_n import BestOfN
from prefopt.models.ensemble import Ensemble
from prefopt.models.model import Gold
from prefopt.noise.base import Recorded
from prefopt.progress import say
from prefopt.table import Table
from prefopt.tracking.environment import environment
from prefopt.tracking.events import EVENTS, EventFile, read
from prefopt.tracking.mlflow import NoTracker

AT_ONCE = 128
"""Runs at most that are open at a time: each holds its lock and its event file, and a process may hold about 1000."""

READ: dict[str, Any] = {}
"""Data sets that this process has read for its forks, by the digest of their config nodes."""


class Planned(NamedTuple):
    """What a sweep says of a run: its name when the sweep was planned, what to do where that has changed, the sweep's
    folder where the run is a cell of it, and tags for the tracker."""

    name: str
    mend: str
    parent: Path | None
    labels: Mapping[str, str]


def run(
    config: DictConfig, *, wait: bool = False, planned: Planned | None = None, since: float | None = None
) -> store.Run:
    """The run of this configuration: found done, taken up where it stopped, or begun.

    Several processes that were started together (`ranks`) all call this; the first one claims and writes for all.
    wait: wait for another process that works on it, instead of an error.
    since: what failed at that time or later, this run or one that it needs, is not tried again.
    Raises PrefoptError where it is not the run that was planned: its data, or what it needs, have changed since.
    """
    with begun(config, wait=wait, planned=planned, since=since) as (stored, training):
        if training is not None:
            fit(training)
    return stored


def run_together(
    cells: Sequence[tuple[DictConfig, Planned | None]], *, since: float | None = None
) -> list[Exception | None]:
    """The runs of these configurations, trained as one as far as they are alike; what each would have raised alone,
    None where nothing.

    Each is claimed, measured and recorded as if it were alone. Runs that need others come after those that do not, for
    what they need may be among them.
    """
    ends: list[Exception | None] = [None] * len(cells)
    depths = [_depth(config) for config, _ in cells]
    with stop.heeded():
        for depth in sorted(set(depths)):
            members = [k for k, d in enumerate(depths) if d == depth]
            for start in range(0, len(members), AT_ONCE):
                _trained_together(members[start : start + AT_ONCE], cells, since, ends)
    return ends


def _trained_together(
    members: Sequence[int],
    cells: Sequence[tuple[DictConfig, Planned | None]],
    since: float | None,
    ends: list[Exception | None],
) -> None:
    """Carry out these of the cells, and write their ends."""
    entered: list[tuple[int, ExitStack, Training]] = []
    for k in members:
        config, planned = cells[k]
        with ExitStack() as rest:
            try:
                stop.check()
                _, training = rest.enter_context(begun(config, planned=planned, since=since))
            except Exception as error:
                ends[k] = error
            else:
                if training is not None:
                    entered.append((k, rest.pop_all(), training))
    try:
        trained = fit_together([training for *_, training in entered])
    except Exception as error:  # it is the end of all, and each must say so
        trained = [error] * len(entered)
    for (k, rest, _), end in zip(entered, trained, strict=True):
        try:
            with rest:
                if end is not None:
                    raise end
        except Exception as error:
            ends[k] = error


def _depth(config: DictConfig) -> int:
    """How many runs stand behind this one, each needed by the next."""
    return max((1 + _depth(needed(config, need)) for need in stages(config).values()), default=0)


@contextmanager
def begun(
    config: DictConfig, *, wait: bool = False, planned: Planned | None = None, since: float | None = None
) -> Iterator[tuple[store.Run, Training | None]]:
    """A run but for its training, which is for the one who enters; None where it is done already.

    Whatever that raises becomes the run's end, as does what is raised before and after it.
    """
    parts = Parts(config)
    check(config, parts.method, parts.model, parts.dataset)
    check_processes(parts.settings["trainer"], parts.method, parts.model.world)
    stored = store.run(config.choices.method, config.choices.dataset, parts.fingerprint())
    if planned is not None and stored.name != planned.name:
        raise PrefoptError(
            f"{planned.name} was planned, and its configuration now makes {stored.name}: the content of its data set "
            "or model, or a stage that it needs, has changed since",
            planned.mend,
        )
    with ExitStack() as claims:

        def claim() -> bool:
            stored.folder.mkdir(parents=True, exist_ok=True)
            claims.enter_context(stored.claimed(say if wait else None))
            if since is not None and stored.failed_since(since):
                kind, needed = (store.Taken, "") if planned else (PrefoptError, ", which this run needs,")
                raise kind(
                    f"{stored.name}{needed} has failed: {stored.status().get('error')}",
                    f"see {stored.folder / 'error.txt'}; what has failed is tried again when the sweep is sent again",
                )
            return stored.done

        if ranks.agreed(claim):
            say(f"{stored.name} is done already", "dim")
            yield stored, None
        else:
            with _carried_out(config, parts, stored, planned, since) as training:
                yield stored, training
        ranks.meet()


class Parts:
    """The classes that a configuration names, instantiated; nothing heavy is loaded yet."""

    def __init__(self, config: DictConfig) -> None:
        self.config, self.settings = config, plain(config)
        settings = self.settings
        foresee(settings, config.choices)
        self.device = device_of(settings["trainer"]["accelerator"])
        self.noise = made(settings["noise"])
        self.method: Method = made(belief.told(settings["method"], rate=0.0))
        needs = settings["method"]["needs"]
        settings["method"]["needs"] = {role: need for role, need in needs.items() if role in self.method.roles}
        self.model = made(settings["model"])
        self.dataset = READ.get(store.digest(settings["dataset"])) or made(settings["dataset"])

    def estimate(self, data: Data) -> dict[str, Any]:
        """What the labels of the training pairs say of their flip rate."""
        noise = {key: value for key, value in self.settings["noise"].items() if key != "assumed"}
        labels = {"data": self.dataset.checksum(), "tokens": data.train.pairs.checksum(), "noise": noise}
        return belief.estimated(data, labels, self.settings["seed"])

    def fingerprint(self, known: dict[str, str] | None = None) -> str:
        """What the run depends on: files by their content, a recipe by what it was resolved to, and the same of the
        runs that it needs.

        known: checksums, which a sweep over large files takes once; what is not there yet is added.
        """
        settings = {k: v for k, v in self.settings.items() if k != "recipe"}
        known = {} if known is None else known

        def checksum(kind: str, part: Any) -> str:
            key = store.digest([kind, settings[kind]])
            if key not in known:
                known[key] = part.checksum()
            return known[key]

        contents: dict[str, Any] = {
            key: {k: v for k, v in settings[key].items() if k not in without}
            for key, without in (("model", STRUCTURE), ("trainer", {"checkpoint_every_s"}), ("evaluation", {"figures"}))
        }
        if (weights := checksum("model", self.model)) != "":
            contents["model"]["path"] = weights
        needs = described(self.config)
        return store.fingerprint(settings, {**contents, "dataset": checksum("dataset", self.dataset), "needs": needs})


def read_ahead(config: DictConfig) -> None:
    """Read what forks of this process would each read for this run: its data, and the configurations of its needs."""
    parts = Parts(config)
    parts.dataset.checksum()
    READ[store.digest(parts.settings["dataset"])] = parts.dataset
    described(config)


def described(config: DictConfig) -> dict[str, Any]:
    """How each run that this one needs is trained, and those that they need, by role; of a judge that no run makes,
    its content."""
    judges = {
        str(role): made(plain(config)["method"]["needs"][role]).checksum()
        for role, need in config.method.needs.items()
        if isinstance(need, DictConfig) and "_target_" in need
    }
    return judges | {role: _trained_how(needed(config, need)) for role, need in stages(config).items()}


def _trained_how(config: DictConfig) -> dict[str, Any]:
    shared = {"model", "dataset", "trainer", "tracking", "recipe", "choices", "evaluation"}
    settings = {key: value for key, value in plain(config).items() if key not in shared}
    return {**settings, "needs": described(config)}


@contextmanager
def _carried_out(
    config: DictConfig, parts: Parts, stored: store.Run, planned: Planned | None, since: float | None
) -> Iterator[Training]:
    folder, settings, first = stored.folder, parts.settings, ranks.first()
    if first:
        stored.mark("running", restarts=stored.status().get("restarts", -1) + 1)
        replace_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    ranks.meet()
    needs = settings["method"]["needs"]

    home = store.home()
    tracker = made(settings["tracking"], home=home) if first else NoTracker(home=home)
    try:
        runs = {role: needed(config, need) for role, need in stages(config).items() if role in needs}
        places = {role: run(need, wait=True, since=since).policy for role, need in runs.items()}
        start = places.get("policy" if "policy" in parts.method.roles else parts.method.roles[0])
        stop.check_together()
        L.seed_everything(settings["seed"], verbose=False)
        tokenizer = parts.model.tokenizer(parts.dataset, start)
        data = noisy(parts.dataset.load(tokenizer), parts.noise, settings["seed"])
        facts: dict[str, Any] = {"data": dict(data.counts), "environment": environment()}
        if belief.asks(settings["method"]):
            facts["estimated"] = estimate = parts.estimate(data)
            parts.method = made(belief.told(settings["method"], estimate["rate"]))
        roles = cast(
            parts.method,
            needs,
            model=parts.model,
            data=data,
            tokenizer=tokenizer,
            start=start,
            places=places,
            implied={role: learned for role, need in runs.items() if (learned := implied(need)) is not None},
            noise=parts.noise,
            seed=settings["seed"],
            device=parts.device,
        )
        if first:
            replace_text(folder / "facts.json", json.dumps(facts, indent=2))
        shown = tags(config, facts["environment"], stored) | dict(planned.labels if planned else {})
        parent = planned.parent if planned else None
        tracker.start(folder, stored.name, settings | {"data": facts["data"]}, shown, parent)
        stop.check_together()
        with undivided():
            training, examination = prepared(settings, parts, data, roles, needs, folder)
            try:
                yield training
            finally:
                training.events.close()
            parts.method.to(parts.device)
        stop.check_together()
        with undivided(), precision(settings, parts.device):
            measured = examination.after()
        if "estimated" in facts:
            measured |= {f"noise/eps_{end}": facts["estimated"][end] for end in ("low", "high")}
            measured["noise/eps_hat"] = facts["estimated"]["rate"]
        if first:
            append(folder / EVENTS, measured)
        drawn = record(parts, examination, tokenizer, folder)
        if first:
            results = {"run": stored.name, "figures": measured, "policy": str(stored.policy), **facts}
            replace_text(stored.results, json.dumps(results | {"config": settings}, indent=2))
            stored.mark("done")
            tracker.finish("FINISHED", [folder / "config.yaml", folder / "facts.json", stored.results, *drawn])
    except (KeyboardInterrupt, Interrupted) as error:
        stored.mark("interrupted")
        tracker.finish("KILLED")
        if isinstance(error, Interrupted):
            raise
        raise Interrupted("stopped by Ctrl-C", "the same command goes on from the last checkpoint") from None
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide what went wrong
            (folder / ("error.txt" if first else f"error.{ranks.place().rank}.txt")).write_text(traceback.format_exc())
            stored.mark("failed", error=str(error))
        tracker.finish("FAILED")
        raise


def implied(config: DictConfig) -> tuple[Method, Path | None] | None:
    """The method of a run that trains a policy, and the folder that this policy began as."""
    method: Method = made(belief.told(plain(config)["method"], rate=0.0))
    if "policy" not in method.trains:
        return None
    begun = stages(config).get("policy")
    return method, None if begun is None else run(needed(config, begun), wait=True).policy


def undivided() -> AbstractContextManager[None]:
    """While entered, no process of several stops without the others, who would wait for it."""
    return stop.deferred() if ranks.world() > 1 else nullcontext()


def noisy(data: Data, noise: Any, seed: int) -> Data:
    """The data with noise on the labels of the training pairs."""
    pairs = data.train.pairs
    recorded = Recorded.from_table(pairs, np.asarray(pairs.columns["label"]), data.train.truth.gold)
    return replace(data, train=data.train.relabelled(noise.labels(recorded, seed)))


def food(method: Method, data: Data) -> Table:
    """The table that the method is given. Raises PrefoptError where the data turn out to lack rationales."""
    if method.eats is Demonstrations:
        assert data.demonstrations is not None
        return data.demonstrations
    pairs = data.train.pairs
    if issubclass(method.eats, Choices) and method.per_round is None:
        if method.eats is Reasoned and not issubclass(pairs.kind, Reasoned):
            raise PrefoptError(
                f"{type(method).__name__} eats {method.eats.__name__}, and these pairs have no rationales",
                "give the file a column rationale, or say its name by ++dataset.columns.rationale=<theirs>",
            )
        return pairs
    return replace(pairs, kind=Prompts, columns={})


def prepared(
    settings: Mapping[str, Any],
    parts: Parts,
    data: Data,
    roles: dict[str, Any],
    needs: Mapping[str, Any],
    folder: Path,
) -> tuple[Training, Examination]:
    """The method, ready to be trained, and the examination that it faces then."""
    method, device = parts.method, parts.device
    if needs.get("reference") == "cached":
        data = referenced(data, roles["start"], settings, device)
    table = food(method, data)
    rounds, batch_size = settings["rounds"], settings["batch_size"]
    steps = steps_of(method, table, rounds=rounds, batch_size=batch_size)
    method.prepare(
        roles,
        optimizer=made(settings["optimizer"]),
        schedule=schedule(steps, warmup=settings["warmup"], decay=settings["decay"]),
        micro_batch_size=settings["micro_batch_size"],
        clip=settings["clip"],
        seed=settings["seed"],
        data=table,
    )
    suite = made(settings["evaluation"])
    rate = parts.noise.rate if parts.noise.kind in ("none", "flip") else None
    examination = suite.examine(subject(method, roles, device), data, rate=rate)
    if "reference" in method.roles:
        with precision(settings, device):
            agree(method.to(device), data.train.pairs, settings["trainer"]["precision"])
    training = Training(
        method,
        table,
        parts.model.world,
        folder,
        rounds=rounds,
        batch_size=batch_size,
        seed=settings["seed"],
        trainer=settings["trainer"],
        events=EventFile(folder / EVENTS) if ranks.first() else Unwritten(),
        measure=examination.during,
        times=suite.times,
    )
    return training, examination


def precision(settings: Mapping[str, Any], device: torch.device) -> AbstractContextManager[Any]:
    """The precision that training computes in, for what is computed outside Lightning's loop."""
    half = settings["trainer"]["precision"] == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def referenced(data: Data, start: Any, settings: Mapping[str, Any], device: torch.device) -> Data:
    """The data with the reference's log-probs beside the responses of both splits."""
    with precision(settings, device):
        train, test = with_reference(
            [data.train.pairs, data.test.pairs],
            start,
            batch_size=settings["evaluation"]["batch_size"],
            device=device,
            precision=settings["trainer"]["precision"],
        )
    return replace(data, train=replace(data.train, pairs=train), test=replace(data.test, pairs=test))


@torch.no_grad()
def agree(method: Method, table: Table, precision: str) -> None:
    """Raise PrefoptError where policy and reference differ before the first step: then no loss starts at log 2."""
    batch = table.batch(np.arange(min(8, len(table)))).to(method.device)
    policy, reference = method.policy.logps(batch).sum(-1), method.reference_logps(batch).sum(-1)
    tolerance = 1e-3 if precision == "32-true" else 2e-2
    gap, bound = (policy - reference).abs(), tolerance * (1 + reference.abs())
    if (gap > bound).any():
        raise PrefoptError(
            f"before the first step policy and reference differ by up to {float(gap.max()):.3g} nats a response",
            "the reference must be the policy's start: with an adapter, merge the earlier one (method.needs.policy), "
            "and check that dropout is off",
        )


def subject(method: Method, roles: Mapping[str, Any], device: torch.device) -> Subject:
    """What evaluation may see of a method."""
    acts = "policy" in method.roles
    main = getattr(method, method.trains[0]) if method.trains else roles.get("policy")
    objective = getattr(method, "objective", None)
    given = roles["reward"] if "reward" in set(method.roles) - set(method.trains) else None
    reward = given if method.maximises else None
    beta = getattr(method, "beta", None) or getattr(objective, "price", None)
    if beta and isinstance(reward, Gold):
        beta = beta / getattr(reward.world, "temperature", 1.0)  # from units of the reward to nats of the labels
    elif isinstance(given, Ensemble) or not method.maximises:
        beta = None  # in standard deviations, or of another objective
    offline = issubclass(method.eats, Choices) and method.per_round is None
    implied = objective.reward if objective is not None and objective.uses_reference else None
    theta = getattr(getattr(main, "f", None), "theta", None)
    membership = getattr(method, "membership", None)
    return Subject(
        act=method.act if acts else None,
        score=method.score if type(method).score is not Method.score else None,
        lesson=method if offline else None,
        implied=implied,
        policy=roles["policy"] if acts and type(method).act is Method.act else None,
        start=roles.get("start"),
        average=getattr(method, "average", None),
        reward=reward,
        samples=method.samples if isinstance(method, BestOfN) else None,
        beta=beta,
        clusters=None if membership is None else membership.assigned,
        theta=theta if offline and (beta or not acts) else None,
        theta_scale=beta or 1.0,
        elect=getattr(method, "election", None),
        device=device,
    )


def tags(config: DictConfig, facts: Mapping[str, Any], stored: store.Run) -> dict[str, str]:
    choices = config.choices
    commit = (facts.get("git") or {}).get("commit")
    return {
        **{key: str(value) for key, value in choices.items()},
        "noise.rate": str(config.noise.rate),
        "seed": str(config.seed),
        "fingerprint": stored.name.rsplit("-", 1)[-1],
        "git.commit": str(commit),
        "restarts": str(stored.status()["restarts"]),
        **({"slurm.job": facts["slurm_job"]} if facts["slurm_job"] else {}),
    }


def append(path: Path, measured: Mapping[str, float]) -> None:
    """Add the final figures to the event file, once, at the last step of training."""
    before = list(read(path))
    step = before[-1].step if before else 0
    if not any(event.step == step and set(event.metrics) & set(measured) for event in before):
        events = EventFile(path)
        events.write(step, measured)
        events.close()


def record(parts: Parts, examination: Examination, tokenizer: Any, folder: Path) -> list[Path]:
    """Export the model, draw the figures, write the samples; what was written for people, by the first process."""
    method = parts.method
    trained_role = method.trains[0] if method.trains else "policy"
    model = whole(getattr(method, trained_role))
    if not ranks.first():
        return []
    model.export(folder / "policy")
    if not examination.suite.figures:
        return []
    drawn = figures.learning_curves(folder / EVENTS, folder / "figures")
    drawn += overoptimisation(folder / EVENTS, folder / "figures")
    if examination.margins is not None and examination.flipped is not None:
        drawn += figures.margin_histogram(examination.margins, examination.flipped, folder / "figures")
    if examination.held_out is not None and examination.subject.act is None:
        drawn += figures.reliability_diagram(binned(examination.held_out), folder / "figures")

    def decode(tokens: torch.Tensor) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True) if tokenizer else " ".join(map(str, tokens.tolist()))

    if rows := examination.samples(decode):
        drawn += figures.samples_table(rows, folder)
    return drawn
