"""The guard around an optimizer: what it measures, edits, drops, remembers and restores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from asyncrl_worker.alignment import (
    AlignmentConfig,
    AlignmentDecision,
    AlignmentState,
    GradientAlignment,
    Regime,
    project,
)

CLASSIC = AlignmentConfig(calibration="fixed", memory_dtype="float32")


def parameter(elements: int = 4) -> nn.Parameter:
    return nn.Parameter(torch.zeros(elements))


def feed(
    guard: GradientAlignment, target: nn.Parameter, values: Iterable[float]
) -> AlignmentDecision:
    target.grad = torch.tensor(list(values), dtype=target.dtype)
    return guard.step()


def classic(**options: object) -> AlignmentConfig:
    return AlignmentConfig(calibration="fixed", memory_dtype="float32", **options)  # type: ignore[arg-type]


def at_cosine(cosine: float) -> list[float]:
    """A unit vector at this cosine to the first axis."""
    return [cosine, math.sqrt(1.0 - cosine**2), 0.0, 0.0]


AXIS = [1.0, 0.0, 0.0, 0.0]


def test_first_step_has_no_cosine() -> None:
    weight = parameter()
    decision = feed(GradientAlignment([weight], CLASSIC), weight, AXIS)
    assert decision.apply
    assert decision.regime is Regime.PASS
    assert decision.reason == "first"
    assert decision.cosine is None
    assert decision.smoothed is None
    assert decision.gradient_norm == 1.0


@pytest.mark.parametrize(
    ("cosine", "regime"),
    [(-0.5, Regime.PASS), (0.0, Regime.PASS), (0.2, Regime.PROJECT), (0.8, Regime.SKIP)],
)
def test_classic_regimes(cosine: float, regime: Regime) -> None:
    weight = parameter()
    guard = GradientAlignment([weight], CLASSIC)
    feed(guard, weight, AXIS)
    decision = feed(guard, weight, at_cosine(cosine))
    assert decision.cosine == pytest.approx(cosine, abs=1e-6)
    assert decision.regime is regime
    assert decision.apply is (regime is not Regime.SKIP)
    assert decision.reason is None


@pytest.mark.parametrize(("projection", "kept"), [("cap", 0.05 / 0.2), ("remove", 0.0)])
def test_projection_edits_the_gradient(projection: str, kept: float) -> None:
    weight = parameter()
    guard = GradientAlignment([weight], classic(projection=projection))
    feed(guard, weight, [3.0, 0.0, 0.0, 0.0])
    decision = feed(guard, weight, at_cosine(0.2))
    expected = project(torch.tensor(at_cosine(0.2)), torch.tensor([3.0, 0.0, 0.0, 0.0]), kept)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, expected)
    assert decision.projected_norm == pytest.approx(float(expected.norm()), rel=1e-6)
    assert decision.scale == pytest.approx(float(expected.norm()), rel=1e-6)
    assert decision.gradient_norm == pytest.approx(1.0)
    assert decision.learning_rate_factor == 1.0


def test_adam_damping_reports_the_factor() -> None:
    weight = parameter()
    guard = GradientAlignment(
        [weight], classic(adam_damping=True, projection="remove", max_skips=0)
    )
    feed(guard, weight, AXIS)
    decision = feed(guard, weight, at_cosine(0.6))
    assert decision.regime is Regime.PROJECT
    assert decision.learning_rate_factor == pytest.approx(0.8)
    assert decision.scale == decision.learning_rate_factor
    assert feed(guard, weight, [-1.0, 0.0, 0.0, 0.0]).learning_rate_factor == 1.0


def test_passing_and_skipping_leave_the_gradient_alone() -> None:
    weight = parameter()
    guard = GradientAlignment([weight], CLASSIC)
    feed(guard, weight, AXIS)
    for cosine in (0.9, -0.9):
        feed(guard, weight, at_cosine(cosine))
        assert weight.grad is not None
        assert torch.equal(weight.grad, torch.tensor(at_cosine(cosine)))


def test_raw_gradient_is_remembered_after_projection_and_skip() -> None:
    weight = parameter()
    guard = GradientAlignment([weight], CLASSIC)
    feed(guard, weight, AXIS)
    assert feed(guard, weight, at_cosine(0.2)).regime is Regime.PROJECT
    again = feed(guard, weight, at_cosine(0.2))
    assert again.cosine == pytest.approx(1.0)
    assert again.regime is Regime.SKIP
    assert feed(guard, weight, at_cosine(0.2)).cosine == pytest.approx(1.0)


def test_remembering_the_projected_gradient_alternates() -> None:
    """A steady direction at cosine .999: raw projects always, projected every other step."""
    regimes = {}
    for memory in ("raw", "projected"):
        weight = parameter(64)
        guard = GradientAlignment(
            [weight], classic(memory=memory, projection="remove", max_skips=0)
        )
        sequence = []
        for step in range(21):
            values = torch.zeros(64)
            values[0], values[step + 1] = math.sqrt(0.999), math.sqrt(0.001)
            sequence.append(feed(guard, weight, values.tolist()).regime)
        regimes[memory] = sequence[1:]
    assert regimes["raw"] == [Regime.PROJECT] * 20
    assert regimes["projected"] == [Regime.PROJECT, Regime.PASS] * 10


def test_skips_are_bounded_and_counted_anew_after_a_step() -> None:
    weight = parameter()
    guard = GradientAlignment([weight], classic(max_skips=2))
    regimes = [feed(guard, weight, AXIS).regime for _ in range(7)]
    skip, step = Regime.SKIP, Regime.PROJECT
    assert regimes == [Regime.PASS, skip, skip, step, skip, skip, step]


@pytest.mark.parametrize("mode", ["observe", "control"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_gradient_drops_the_step(mode: str, bad: float) -> None:
    weight = parameter()
    guard = GradientAlignment([weight], classic(mode=mode))
    feed(guard, weight, AXIS)
    feed(guard, weight, at_cosine(0.01))
    decision = feed(guard, weight, [bad, 0.0, 0.0, 0.0])
    assert not decision.apply
    assert decision.reason == "non-finite"
    assert decision.cosine is None
    assert decision.gradient_norm is None
    after = feed(guard, weight, AXIS)
    assert after.reason == "first"
    assert after.cosine is None
    assert feed(guard, weight, AXIS).cosine == pytest.approx(1.0)


def test_zero_gradient_has_no_cosine() -> None:
    weight = parameter()
    guard = GradientAlignment([weight], CLASSIC)
    feed(guard, weight, AXIS)
    decision = feed(guard, weight, [0.0] * 4)
    assert (decision.apply, decision.reason, decision.cosine) == (True, "zero", None)
    assert feed(guard, weight, AXIS).cosine is None


def test_rebase_forgets_the_gradient_and_keeps_the_rest() -> None:
    weight = parameter()
    guard = GradientAlignment([weight], CLASSIC)
    feed(guard, weight, AXIS)
    smoothed = feed(guard, weight, at_cosine(0.2)).smoothed
    guard.rebase()
    decision = feed(guard, weight, AXIS)
    assert (decision.reason, decision.cosine, decision.smoothed) == ("first", None, smoothed)


def test_smoothed_is_a_mean_first_and_exponential_later() -> None:
    weight = parameter()
    guard = GradientAlignment([weight], classic(smoothing=0.4, mode="observe"))
    expected, cosines = 0.0, []
    for step in range(12):
        decision = feed(guard, weight, at_cosine(math.cos(step)))
        if decision.cosine is not None:
            cosines.append(decision.cosine)
            expected += max(0.4, 1 / len(cosines)) * (decision.cosine - expected)
            assert decision.smoothed == pytest.approx(expected)
            if len(cosines) == 2:
                assert decision.smoothed == pytest.approx(sum(cosines) / 2)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def loop(
    network: nn.Module,
    guard: GradientAlignment | None,
    optimizer: torch.optim.Optimizer,
    steps: range,
) -> list[AlignmentDecision]:
    """A plain training loop on data that depends on the step number alone."""
    decisions = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(32, 6, generator=generator)
        targets = inputs[:, :3] + torch.randn(32, 3, generator=generator)
        optimizer.zero_grad()
        (network(inputs) - targets).square().mean().backward()
        if guard is None:
            optimizer.step()
            continue
        decision = guard.step()
        decisions.append(decision)
        if decision.apply:
            optimizer.step()
    return decisions


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_off_and_observe_are_bitwise_a_plain_loop(mode: str) -> None:
    plain, guarded = model(), model()
    loop(plain, None, torch.optim.Adam(plain.parameters(), lr=0.01), range(60))
    guard = GradientAlignment(guarded.parameters(), AlignmentConfig(mode=mode, calibration="fixed"))  # type: ignore[arg-type]
    decisions = loop(guarded, guard, torch.optim.Adam(guarded.parameters(), lr=0.01), range(60))
    assert all(map(torch.equal, weights(plain), weights(guarded)))
    if mode == "off":
        assert {d.reason for d in decisions} == {"off"}
        assert guard.state_dict()["tensors"] == {}
    else:
        # It reports what control would have done, or the comparison above would be empty.
        assert {d.regime for d in decisions} == set(Regime)
        assert all(d.apply and d.scale == 1.0 for d in decisions)


def test_control_differs_from_a_plain_loop() -> None:
    plain, guarded = model(), model()
    loop(plain, None, torch.optim.SGD(plain.parameters(), lr=0.05), range(60))
    guard = GradientAlignment(guarded.parameters(), AlignmentConfig(calibration="fixed"))
    loop(guarded, guard, torch.optim.SGD(guarded.parameters(), lr=0.05), range(60))
    assert not all(map(torch.equal, weights(plain), weights(guarded)))


def through_storage(state: AlignmentState) -> AlignmentState:
    """The state as a checkpoint keeps it: plain JSON scalars and contiguous tensors."""
    scalars = json.loads(json.dumps(state["scalars"]))
    return {
        "tensors": {n: t.clone().contiguous() for n, t in state["tensors"].items()},
        "scalars": scalars,
    }


@pytest.mark.parametrize("stop", [1, 20, 70])
@pytest.mark.parametrize("calibration", ["auto", "fixed"])
def test_state_round_trip_resumes_bitwise(calibration: str, stop: int) -> None:
    config = AlignmentConfig(calibration=calibration)  # type: ignore[arg-type]
    whole = model()
    guard = GradientAlignment(whole.parameters(), config)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05)
    loop(whole, guard, optimizer, range(stop))
    state = through_storage(guard.state_dict())
    saved = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    expected = loop(whole, guard, optimizer, range(stop, 100))

    resumed = model(seed=1)
    resumed.load_state_dict(saved)
    second = GradientAlignment(resumed.parameters(), config)
    second.load_state_dict(state)
    decisions = loop(
        resumed, second, torch.optim.SGD(resumed.parameters(), lr=0.05), range(stop, 100)
    )
    assert decisions == expected
    assert all(map(torch.equal, weights(whole), weights(resumed)))


def test_state_without_the_gradient_starts_as_after_rebase() -> None:
    weight = parameter()
    guard = GradientAlignment([weight], CLASSIC)
    feed(guard, weight, AXIS)
    smoothed = feed(guard, weight, at_cosine(0.2)).smoothed
    state = guard.state_dict()
    del state["tensors"]["previous"]
    resumed = GradientAlignment([weight], CLASSIC)
    resumed.load_state_dict(state)
    decision = feed(resumed, weight, AXIS)
    assert (decision.reason, decision.smoothed) == ("first", smoothed)


def test_state_of_another_model_is_refused() -> None:
    small, large = parameter(4), parameter(5)
    guard = GradientAlignment([small], CLASSIC)
    feed(guard, small, AXIS)
    with pytest.raises(ValueError, match=r"\(4,\).* stored, \(5,\).* needed"):
        GradientAlignment([large], CLASSIC).load_state_dict(guard.state_dict())


def test_auto_calibration_is_silent_then_acts_then_rests() -> None:
    weight = parameter(8)
    guard = GradientAlignment([weight], AlignmentConfig(memory_dtype="float32"))
    generator = torch.Generator().manual_seed(0)
    drift = torch.zeros(8)
    drift[0] = 12.0

    def run(updates: int, signal: float) -> list[AlignmentDecision]:
        return [
            feed(guard, weight, (torch.randn(8, generator=generator) + signal * drift).tolist())
            for _ in range(updates)
        ]

    healthy = run(300, 0.0)
    assert {d.regime for d in healthy} == {Regime.PASS}
    assert healthy[0].low is None
    assert [d.reason for d in healthy[1:51]] == ["calibrating"] * 50
    assert not healthy[50].calibrated
    assert all(d.calibrated and d.reason is None for d in healthy[51:])
    aligned = run(60, 1.0)
    acted = [index for index, d in enumerate(aligned) if d.regime is not Regime.PASS]
    assert acted[0] < 20
    assert len(acted) >= 40
    assert {Regime.SKIP, Regime.PROJECT} <= {d.regime for d in aligned}
    # The healthy cosine here is below the least target, so that is what a projection leaves.
    for decision in (d for d in aligned if d.regime is Regime.PROJECT):
        assert decision.cosine is not None
        across = math.sqrt(1.0 - decision.cosine**2)
        assert decision.scale == pytest.approx(math.hypot(0.05, across), abs=1e-6)
    again = run(60, 0.0)
    assert {d.regime for d in again[5:]} == {Regime.PASS}


def test_a_projection_of_the_guard_leaves_the_healthy_cosine() -> None:
    """Where healthy gradients are aligned themselves, they are not taken below that."""
    weight = parameter(512)
    guard = GradientAlignment([weight], AlignmentConfig(memory_dtype="float32"))
    generator = torch.Generator().manual_seed(0)
    previous = [torch.ones(512)]

    def run(updates: int, cosine: float) -> list[tuple[AlignmentDecision, float]]:
        """Decisions on gradients of this mean cosine, and the cosines that they left."""
        outcomes = []
        for _ in range(updates):
            values = torch.randn(512, generator=generator)
            values[0] += math.sqrt(512 * cosine / (1.0 - cosine))
            previous.append(values)
            decision = feed(guard, weight, values.tolist())
            assert weight.grad is not None
            left = torch.dot(weight.grad, previous[-2]) / values.norm() / previous[-2].norm()
            outcomes.append((decision, float(left)))
        return outcomes

    healthy = [decision for decision, _ in run(200, 0.3)]
    assert {decision.regime for decision in healthy} == {Regime.PASS}
    cosines = [decision.cosine for decision in healthy if decision.cosine is not None]
    level = sum(cosines) / len(cosines)
    assert level == pytest.approx(0.3, abs=0.03)
    projected = [left for decision, left in run(20, 0.7) if decision.regime is Regime.PROJECT]
    assert projected == pytest.approx([level] * len(projected), abs=0.02)
    assert projected


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_silent_on_steady_descent(rate: float) -> None:
    """Least squares on the whole data: the gradient hardly turns, and the level is .999."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    targets = inputs @ torch.randn(8, generator=generator)
    weight = parameter(8)
    guard = GradientAlignment([weight], AlignmentConfig())
    optimizer = torch.optim.SGD([weight], lr=rate)
    decisions = []
    for _ in range(300):
        optimizer.zero_grad()
        (inputs @ weight - targets).square().mean().backward()
        decisions.append(guard.step())
        optimizer.step()
    smoothed = decisions[60].smoothed
    assert smoothed is not None and smoothed > 0.998
    assert {decision.regime for decision in decisions} == {Regime.PASS}


def test_policy_gradient_only() -> None:
    """The value loss of an actor-critic hides the policy's signal: scope matters."""
    torch.manual_seed(0)
    policy, value = nn.Linear(8, 4), nn.Linear(8, 1)
    both = [*policy.parameters(), *value.parameters()]
    config = AlignmentConfig(mode="observe")
    guards = {
        "policy": GradientAlignment(policy.parameters(), config),
        "all": GradientAlignment(both, config),
    }
    cosines: dict[str, list[float]] = {name: [] for name in guards}
    for _ in range(100):
        states = torch.randn(256, 8)
        for tensor in both:
            tensor.grad = None
        distribution = torch.distributions.Categorical(logits=policy(states))
        advantages = torch.randn(256)
        loss = -(distribution.log_prob(distribution.sample()) * advantages).mean()
        (loss + (value(states) - 20.0).square().mean()).backward()
        for name, guard in guards.items():
            cosine = guard.step().cosine
            if cosine is not None:
                cosines[name].append(cosine)
    assert sum(cosines["all"]) / 99 > 0.95
    assert abs(sum(cosines["policy"]) / 99) < 0.1


@pytest.mark.parametrize("length", [10_000, 100_000])
@pytest.mark.parametrize("target", [0.0, 0.5, 0.95])
def test_bfloat16_memory_is_accurate(length: int, target: float) -> None:
    torch.manual_seed(length)
    weight = parameter(length)
    guard = GradientAlignment([weight], AlignmentConfig(mode="observe"))
    first, noise = torch.randn(length), torch.randn(length)
    second = target * first + math.sqrt(1 - target**2) * noise
    weight.grad = first.clone()
    guard.step()
    weight.grad = second.clone()
    decision = guard.step()
    exact = torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=0)
    assert decision.cosine == pytest.approx(float(exact), abs=4e-5)


class Zoo(nn.Module):
    """Parameters of every awkward kind: large, small, scalar, empty, unused, permuted."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = [(3,), (20_000,), (), (0,), (7, 5), (600_000,), (11,), (130, 130)]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes
        )
        self.unused = nn.Parameter(torch.ones(9, dtype=dtype))

    def set_gradients(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for weight in self.weights:
            gradient = torch.randn(weight.shape, generator=generator) + 0.5
            weight.grad = gradient.to(weight.dtype)
        # Same values and shape, other strides.
        matrix = self.weights[4]
        assert matrix.grad is not None
        matrix.grad = matrix.grad.t().contiguous().t()

    def flat(self) -> Tensor:
        return torch.cat([w.grad.reshape(-1).double() for w in self.weights if w.grad is not None])


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float64, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)],
)
def test_measures_and_edits_every_kind_of_parameter(dtype: torch.dtype, tolerance: float) -> None:
    zoo = Zoo(dtype)
    guard = GradientAlignment(zoo.parameters(), classic(max_skips=0))
    zoo.set_gradients(1)
    previous = zoo.flat()
    guard.step()
    zoo.set_gradients(2)
    present = zoo.flat()
    decision = guard.step()
    cosine = float(previous @ present / previous.norm() / present.norm())
    assert decision.cosine == pytest.approx(cosine, abs=1e-5)
    assert decision.gradient_norm == pytest.approx(float(present.norm()), rel=1e-5)
    expected = project(present, previous, 0.05 / cosine)
    torch.testing.assert_close(zoo.flat(), expected, rtol=tolerance, atol=tolerance)
    assert zoo.unused.grad is None
    zoo.set_gradients(2)
    assert guard.step().cosine == pytest.approx(1.0, abs=1e-5)


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="none given"):
        GradientAlignment([])
    meta = nn.Parameter(torch.zeros(2, device="meta"))
    with pytest.raises(ValueError, match="several devices"):
        GradientAlignment([parameter(), meta])


def test_sparse_gradient_is_refused() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    guard = GradientAlignment(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        guard.step()
