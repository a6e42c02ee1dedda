"""What every method promises, whatever its paper: checks over all of conf/method; a new YAML is found by itself.

No check knows a method by name: what it eats, trains, is given (roles) and makes itself (per_round) decides.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_class, get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

import prefopt.methods
import prefopt.run
from prefopt.batch import Choices, Demonstrations, Groups, Pairs, Prompts, Rated
from prefopt.config import CONF, STRUCTURE, composed, plain
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.pairwise.base import Pairwise
from prefopt.run import food

HOOKS = {"collect", "loss", "finish", "act", "score", "weigh"}
HELPERS = {"metrics"}
RESPONSES: dict[type, int] = {Prompts: 0, Demonstrations: 1, Pairs: 2, Choices: 3, Rated: 4}
GIVEN_BY_THE_RUN = {"tracking": {"home"}}
ROLES = ("policy", "reference", "reward", "judge")
B, T = 16, 5


# Configuration


def choices() -> list[str]:
    """Every choice that conf offers: `group=name`, after the method that has such a part."""
    options = []
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group != "." and not group.startswith("hydra"):
            has = f"method={whose(path.parent.name)} " if group.startswith("method/") else ""
            options.append(f"+{group}={path.stem}" if group == "sweep" else f"{has}{group}={path.stem}")
    return options


def whose(part: str) -> str:
    """The first method that is made with such a part."""
    texts = {path.stem: path.read_text() for path in sorted((CONF / "method").glob("*.yaml"))}
    return next(name for name, text in texts.items() if f"  - {part}:" in text)


def nodes(config: Any, where: str = "") -> Iterator[tuple[str, DictConfig]]:
    """All nodes that name a class."""
    if isinstance(config, DictConfig):
        if "_target_" in config:
            yield where, config
        for key in config:
            yield from nodes(config._get_node(key), f"{where}.{key}".strip("."))
    elif isinstance(config, ListConfig):
        for i, item in enumerate(config):
            yield from nodes(item, f"{where}.{i}")


@pytest.mark.parametrize("choice", choices())
def test_every_node_binds_to_its_signature(choice: str) -> None:
    config = composed(choice.split())
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    found = dict(nodes(config))
    assert {"method", "model", "dataset", "noise"} <= found.keys()
    for where, node in found.items():
        signature = inspect.signature(get_object(node._target_))
        given = {str(key) for key in node if not str(key).startswith("_")} - STRUCTURE
        given |= GIVEN_BY_THE_RUN.get(where, set())
        bind = signature.bind_partial if node.get("_partial_") else signature.bind
        try:
            bind(**dict.fromkeys(given))
        except TypeError as error:
            pytest.fail(f"{choice}: {where}: {node._target_}{signature}: {error}")


def test_a_method_composes_and_is_made(row: Any) -> None:
    assert isinstance(row.method, Method)
    assert get_class(row.default.method._target_).__module__.startswith("prefopt.methods.")
    plain(row.config())


def test_needs_name_the_declared_roles(row: Any) -> None:
    method = row.method
    unused = set(row.default.method.needs) - set(method.roles)
    assert set(method.roles) <= set(row.default.method.needs)
    assert unused <= ({"reference"} if isinstance(method, Pairwise) else set()), "an objective may do without it"
    assert set(method.roles) <= set(ROLES)
    assert set(method.trains) <= set(method.roles)


# Hooks


def methods() -> list[type[Method]]:
    for module in pkgutil.walk_packages(prefopt.methods.__path__, "prefopt.methods."):
        importlib.import_module(module.name)

    def below(cls: type) -> Iterator[type]:
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    return sorted({cls for cls in below(Method) if cls.__module__.startswith("prefopt.")}, key=lambda cls: cls.__name__)


def public_functions(cls: type) -> set[str]:
    return {name for name, value in vars(cls).items() if not name.startswith("_") and inspect.isfunction(value)}


def test_there_are_six_hooks_and_no_method_adds_one() -> None:
    assert len(methods()) >= 7
    added = {cls.__name__: public_functions(cls) - HOOKS - HELPERS for cls in methods()}
    assert {name: more for name, more in added.items() if more} == {}


def test_hooks_keep_the_arguments_of_the_contract() -> None:
    for cls in methods():
        for hook in HOOKS & public_functions(cls):
            assert list(inspect.signature(getattr(cls, hook)).parameters) == list(
                inspect.signature(getattr(Method, hook)).parameters
            ), f"{cls.__name__}.{hook}"


# Losses, with free numbers in the roles' places


class Player(nn.Module):
    """Plays any role: log-probs [B, n, T] and scores [B, n] are free numbers, looked up by the example's index."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def logps(self, groups: Groups) -> Tensor:
        return nn.functional.pad(self.values[groups.index], (0, groups.response.shape[-1] - T)) * groups.mask

    def collisions(self, groups: Groups) -> Tensor:
        """As of a policy over e^2 tokens: never below -2."""
        return (2 * self.logps(groups).detach()).clamp(min=-2)

    width = 4
    shape = (2, 4)

    def states(self, groups: Groups, *, last: bool = False) -> Tensor:
        """Two blocks of which the last is the log-probs, as four numbers each."""
        logp = self.logps(groups)[groups.mask]
        return torch.stack([logp * k for k in (1.0, -1.0, 0.5, 0.0)], -1).expand(2, -1, -1)[-1 if last else 0 :]

    def law(self, states: Tensor) -> Tensor:
        """Of nine tokens."""
        return states @ torch.linspace(-1, 1, 36, dtype=states.dtype).sin().view(4, 9)

    def activations(self, groups: Groups) -> Tensor:
        return self.states(groups)[0].T.detach()

    def pooled(self, groups: Groups) -> Tensor:
        return self.logps(groups).sum(-1)[..., None].expand(-1, -1, self.width)

    def score(self, groups: Groups) -> Tensor:
        return self.logps(groups).sum(-1)

    def steps(self, groups: Groups) -> Tensor:
        return self.score(groups)[..., None]

    def redraw(self, generator: torch.Generator) -> None:
        """The numbers are those of the test."""

    def critic(self) -> "Valuer":
        return Valuer(torch.zeros_like(self.values))


class Valuer(Player):
    """A critic whose values are free numbers."""

    def forward(self, groups: Groups) -> Tensor:
        return self.logps(groups)


def played(role: nn.Module) -> list[nn.Parameter]:
    """The free numbers in a role that a method may have made several of."""
    return [player.values for player in role.modules() if isinstance(player, Player)]


def batch_of(kind: type[Groups], dtype: torch.dtype, *, extreme: bool = False) -> Groups:
    """B examples of ragged responses; `extreme` ones have rewards in the ten thousands."""
    draw = torch.Generator().manual_seed(1)
    n = next(RESPONSES[base] for base in kind.__mro__ if base in RESPONSES)
    length = torch.randint(1, T + 1, (B, n), generator=draw)
    length[0] = T
    mask = torch.arange(T) < length[..., None]
    more = {
        "label": torch.arange(B) % 2,
        "reward": torch.randn(B, n, generator=draw, dtype=dtype) * (1e4 if extreme else 1),
        "behaviour": -20 * torch.rand(B, n, T, generator=draw, dtype=dtype) * mask,
        "finished": torch.arange(B * n).view(B, n) % 2 == 0,
        "value": torch.randn(B, n, T, generator=draw, dtype=dtype) * mask,
        "returns": torch.randn(B, n, T, generator=draw, dtype=dtype) * mask,
        "advantage": torch.randn(B, n, T, generator=draw, dtype=dtype) * mask,
        "annotator": torch.arange(B) % 3,
        "group": torch.arange(B) % 2,
        "margin": torch.arange(B).double() / 4,
        "revised_reference": -10 * torch.rand(B, 4, generator=draw, dtype=dtype),
        "variant": torch.ones(B, 2, T, dtype=torch.long),
        "variant_length": torch.randint(1, T + 1, (B, 2), generator=draw),
        "degree": torch.randint(-1, 4, (B, 2), generator=draw),
        "given_away": torch.ones(B, 2, dtype=torch.bool),
        "judge": torch.ones(B, 2, 9, dtype=torch.long),
        "judge_length": torch.full((B, 2), 9),
        "rationale": torch.ones(B, 2, T, dtype=torch.long),
        "rationale_length": torch.randint(1, T + 1, (B, 2), generator=draw),
    }
    return kind(
        index=torch.arange(B),
        prompt=torch.randint(1, 9, (B, 3), generator=draw),
        prompt_length=torch.full((B,), 3),
        response=torch.randint(1, 9, (B, n, T), generator=draw) * mask,
        length=length,
        mean_length=length.float().mean() if n else torch.tensor(0.0),
        **{field.name: more[field.name] for field in fields(kind) if field.name in more},
    )


def given(method: Method, dtype: torch.dtype, *, extreme: bool = False) -> tuple[Method, Groups]:
    """The method with players in its roles, and a batch that it eats.

    extreme: summed log-probs and scores are 0 or -1e4 in all combinations of role and side, so that log-ratios reach
    +-1e4. A policy's own samples are not that unlikely to itself (nothing below e^-40 is ever drawn), so there only
    the reference is extreme.
    """
    draw = torch.Generator().manual_seed(2)
    batch, cast = batch_of(method.eats, dtype, extreme=extreme), {}
    own = hasattr(batch, "behaviour")
    for place, role in enumerate(method.roles):
        values = -torch.rand(B, batch.n, T, generator=draw, dtype=dtype)
        if extreme and own and role == "policy":
            values = 40 * values
        elif extreme:
            bits = torch.arange(B)[:, None] >> (2 * place + torch.arange(batch.n) % 2) & 1
            values = (-1e4 * bits[..., None] / batch.length[..., None]).expand(-1, -1, T).to(dtype)
        cast[role] = Player(values.clone())
    prepare(method, cast)
    return method, batch


def prepare(method: Method, cast: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD
    method.prepare(cast, optimizer=optimizer, schedule=lambda _: 1.0, micro_batch_size=None, clip=None, seed=0)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def test_losses_are_per_example_and_metrics_are_detached(row: Any, dtype: torch.dtype) -> None:
    method, batch = given(row.method, dtype)
    if not method.trains:
        with pytest.raises(NotImplementedError):
            method.loss(batch)
        return
    losses, metrics = method.loss(batch)
    assert losses.shape == (B,)
    assert losses.requires_grad
    assert losses.dtype == dtype
    assert {name: tuple(value.shape) for name, value in metrics.items() if value.shape not in [(B,), ()]} == {}
    assert [name for name, value in metrics.items() if value.requires_grad] == []


def test_every_example_moves_its_own_loss_and_those_of_others_only_where_that_is_declared(row: Any) -> None:
    method, batch = given(row.method, torch.float64)
    others = False
    for role in method.trains:
        losses, _ = method.loss(batch)
        values = played(getattr(method, role))
        for example in range(B):
            gradients = torch.autograd.grad(losses[example], values, retain_graph=True)
            moved = torch.stack(gradients).abs().sum((0, 2, 3)) > 0
            others |= bool(moved[torch.arange(B) != example].any())
    assert others <= method.coupled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_losses_and_gradients_are_finite_at_extremes(row: Any, dtype: torch.dtype) -> None:
    method, batch = given(row.method, dtype, extreme=True)
    for role in method.trains:
        losses, metrics = method.loss(batch)
        losses.sum().backward()
        assert losses.isfinite().all(), losses
        gradients = [values.grad for values in played(getattr(method, role))]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        assert [name for name, value in metrics.items() if not value.isfinite().all()] == []


def test_a_permuted_batch_has_permuted_losses(row: Any, dtype: torch.dtype) -> None:
    method, batch = given(row.method, dtype)
    if method.trains:
        order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
        losses, metrics = method.loss(batch)
        permuted, its_metrics = method.loss(batch.pick(order))
        torch.testing.assert_close(permuted, losses[order])
        for name, value in metrics.items():
            torch.testing.assert_close(its_metrics[name], value[order] if value.ndim else value, msg=name)


def test_losses_of_micro_batches_are_those_of_the_batch_unless_it_is_coupled(row: Any) -> None:
    method, batch = given(row.method, torch.float64)
    if method.trains:
        parts = [method.loss(micro)[0] for micro in batch.split(3)]
        assert [len(part) for part in parts] == [3, 3, 3, 3, 3, 1]
        same = torch.allclose(torch.cat(parts), method.loss(batch)[0], rtol=1e-13, atol=1e-13)
        assert same != method.coupled


def test_a_coupled_method_refuses_micro_batches(row: Any) -> None:
    if row.method.coupled:
        with pytest.raises(PrefoptError, match="micro_batch_size"):
            prefopt.run.run(row.config("micro_batch_size=3"))


def test_padding_changes_no_loss(row: Any) -> None:
    method, batch = given(row.method, torch.float64)
    wider = {
        name: nn.functional.pad(value, (0, 3))
        for name, value in vars(batch).items()
        if isinstance(value, Tensor) and value.ndim == 3
    }
    if method.trains:
        torch.testing.assert_close(
            method.loss(replace(batch, **wider))[0], method.loss(batch)[0], rtol=1e-13, atol=1e-13
        )


# Roles


class Staged(Exception):
    """Carries what a run made its method of, from just before training."""


def staged(config: DictConfig, patch: pytest.MonkeyPatch) -> tuple[Method, Any, dict[str, Any]]:
    """The method with its roles, the data, and the roles, as the run of this configuration makes them."""
    wanted, original = prefopt.run.Parts(config).settings["method"], prefopt.run.prepared

    def prepared(settings: Any, parts: Any, data: Any, roles: Any, *rest: Any) -> Any:
        if settings["method"] != wanted:
            return original(settings, parts, data, roles, *rest)
        raise Staged(parts.method, data, roles)

    patch.setattr(prefopt.run, "prepared", prepared)
    with pytest.raises(Staged) as stage:
        prefopt.run.run(config)
    method, data, roles = stage.value.args
    prepare(method, roles)
    return method, data, roles


def watched(method: Method) -> set[str]:
    """The names of the roles that the method looks at from now on."""
    touched: set[str] = set()

    def look(self: Method, name: str) -> Any:
        if name in ROLES:
            touched.add(name)
        return super(seen, self).__getattribute__(name)

    seen = type("Watched", (type(method),), {"__getattribute__": look})
    method.__class__ = seen
    return touched


def test_every_declared_role_is_used_and_no_other(row: Any, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["method.needs.reference=copy"] if "reference" in row.default.method.needs else []
    method, data, roles = staged(row.config(*more), monkeypatch)
    touched = watched(method)
    eaten = food(method, data)
    table = method.collect(eaten, 0)
    assert (table is None) == (not method.trains)
    if table is not None:
        assert issubclass(table.kind, method.eats)
        assert len(table) == (method.per_round or len(eaten))
        losses, _ = method.loss(table.batch(np.arange(8)))
        losses.sum().backward()
        for role in roles:
            if role in method.roles and isinstance(roles[role], nn.Module):
                learns = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in roles[role].parameters()]
                assert any(learns) == (role in method.trains), role
    method.finish(0)
    prompts = data.test.pairs.batch(np.arange(4))
    if "policy" in method.roles:
        answers = method.act(prompts, 3, method.generator(1))
        assert answers.length.shape == (4, 3)
        assert answers.response.shape == (4, 3, int(answers.length.max()))
    else:
        with pytest.raises(PrefoptError):
            method.act(prompts, 3, method.generator(1))
    if type(method).__mro__[1].score is not Method.score:
        assert method.score(prompts).shape == (4, 2)
    made = {name for name in touched - set(method.roles) if name in method._modules}
    assert touched - made == set(method.roles)


def test_own_samples_are_those_of_the_policy_before_the_first_step(
    row: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ratio to the policy that sampled is 1 on the first batch of a round."""
    if issubclass(row.method.eats, Rated):
        method, data, _ = staged(row.config(), monkeypatch)
        batch: Any = method.collect(food(method, data), 0).batch(np.arange(8))
        assert torch.equal((method.policy.logps(batch) - batch.behaviour).exp(), torch.ones_like(batch.behaviour))


def test_a_missing_role_is_named(row: Any) -> None:
    for role in row.method.roles:
        method = row.method
        cast = {other: None for other in method.roles if other != role}
        with pytest.raises(PrefoptError, match=f"needs the role {role}"):
            prepare(method, cast)
