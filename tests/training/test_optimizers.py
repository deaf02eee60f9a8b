"""Schedules against closed formulas, optimisers against their update rules written out."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from spikecredit.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    SGD,
    Adam,
    AdamW,
    Cosine,
    Flat,
    Optimizer,
    Schedule,
    Step,
)

STEPS, PER_EPOCH = 60, 10


def factors(schedule: Schedule) -> list[float]:
    return [schedule.factor(step, STEPS, PER_EPOCH) for step in range(STEPS)]


def test_flat_is_one() -> None:
    assert factors(Flat()) == [1.0] * STEPS


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_cosine_is_half_a_cosine_down_to_its_floor(floor: float) -> None:
    expected = [floor + (1 - floor) * math.cos(math.pi * step / STEPS / 2) ** 2 for step in range(STEPS)]
    assert factors(Cosine(floor=floor)) == pytest.approx(expected, abs=1e-15)
    assert factors(Cosine(floor=floor))[0] == 1.0


def test_step_falls_at_the_first_step_of_each_milestone() -> None:
    assert factors(Step((2, 5), 0.1)) == pytest.approx([1.0] * 20 + [0.1] * 30 + [0.01] * 10)


@pytest.mark.parametrize("shape", [Flat, Cosine, Step])
def test_warmup_rises_in_equal_steps_and_multiplies_the_shape(shape: type[Schedule]) -> None:
    cold, warm = factors(shape()), factors(shape(warmup=2.5))  # type: ignore[call-arg]
    assert warm[:25] == pytest.approx([value * (step + 1) / 25 for step, value in enumerate(cold[:25])])
    assert warm[25:] == cold[25:]


@given(
    st.sampled_from([Flat(), Flat(0.3), Cosine(1.0, 0.2), Step((1, 2), 0.5)]),
    st.integers(1, 50),
    st.integers(1, 8),
    st.integers(0, 400),
)
def test_a_factor_is_a_pure_function_in_its_range(schedule: Schedule, per_epoch: int, epochs: int, step: int) -> None:
    steps = per_epoch * epochs
    step %= steps
    first = schedule.factor(step, steps, per_epoch)
    schedule.factor(steps - 1 - step, steps, per_epoch)  # others asked in between change nothing
    assert first == schedule.factor(step, steps, per_epoch)
    assert 0 < first <= 1


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Flat(-1), "warmup is a number of epochs >= 0, got -1"),
        (lambda: Cosine(-1), "warmup"),
        (lambda: Step(warmup=-0.1), "warmup"),
        (lambda: Cosine(floor=1.5), "floor is a fraction of the base rate, 0 to 1; got 1.5"),
        (lambda: Adam(0.0), "lr must be a finite number above 0, got 0.0"),
        (lambda: AdamW(math.inf), "lr must be"),
        (lambda: SGD(math.nan), "lr must be"),
        (lambda: SGD(momentum=0.0, nesterov=True), "nesterov: true needs a momentum above 0"),
        (lambda: SGD(momentum=0.0, nesterov=True, batch_manhattan=True), "nesterov: true needs a momentum above 0"),
    ],
)
def test_what_cannot_be_is_refused_at_construction(build: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build()  # type: ignore[operator]


# ---- optimisers ------------------------------------------------------------------------------------------------------


def trained(optimizer: Optimizer, steps: int = 5) -> Tensor:
    """Parameters after steps on the gradients g[t] = sin(t + i)."""
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    built = optimizer.build([p])
    for t in range(steps):
        p.grad = gradient(t)
        built.step()
    return p.detach()


def gradient(t: int) -> Tensor:
    return torch.sin(torch.arange(3, dtype=torch.float64) + t)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_and_adamw(decoupled: bool) -> None:
    lr, (b1, b2), eps, decay = 0.05, (0.8, 0.95), 1e-3, 0.1
    p, m, v = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), 0.0, 0.0
    for t in range(5):
        g = gradient(t)
        if decoupled:
            p = p * (1 - lr * decay)
        else:
            g = g + decay * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p - lr * (m / (1 - b1 ** (t + 1))) / ((v / (1 - b2 ** (t + 1))).sqrt() + eps)
    kind = AdamW if decoupled else Adam
    torch.testing.assert_close(trained(kind(lr, (b1, b2), eps, decay)), p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov: bool) -> None:
    lr, momentum, decay = 0.05, 0.7, 0.1
    p, velocity = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), None
    for t in range(5):
        g = gradient(t) + decay * p
        velocity = g if velocity is None else momentum * velocity + g
        p = p - lr * (g + momentum * velocity if nesterov else velocity)
    torch.testing.assert_close(trained(SGD(lr, momentum, nesterov, decay)), p, rtol=1e-12, atol=1e-12)


# ---- batch Manhattan -------------------------------------------------------------------------------------------------


def manhattan(lr: float, momentum: float, nesterov: bool, decay: float, signed: str) -> Tensor:
    """Five steps written out; `signed` is what the sign is taken of."""
    p, velocity = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for t in range(5):
        g = gradient(t).sign() if signed == "gradient" else gradient(t)
        g = g + decay * p
        g = g.sign() if signed == "gradient and decay" else g
        velocity = momentum * velocity + g
        step = g + momentum * velocity if nesterov else velocity
        p = p - lr * (step.sign() if signed == "step" else step)
    return p


@pytest.mark.parametrize("nesterov", [False, True])
def test_batch_manhattan_signs_the_gradient_before_decay_and_momentum(nesterov: bool) -> None:
    found = trained(SGD(0.05, 0.7, nesterov, 0.1, batch_manhattan=True))
    torch.testing.assert_close(found, manhattan(0.05, 0.7, nesterov, 0.1, "gradient"), rtol=1e-12, atol=1e-12)
    for wrong in ("gradient and decay", "step", "nothing"):
        assert not torch.allclose(found, manhattan(0.05, 0.7, nesterov, 0.1, wrong), rtol=1e-3)


def test_every_weight_moves_by_the_rate_and_one_without_gradient_stays() -> None:
    torch.manual_seed(0)
    p, unused = nn.Parameter(torch.zeros(4, 5)), nn.Parameter(torch.ones(2))
    built = SGD(0.25, momentum=0.0, batch_manhattan=True).build([p, unused])
    p.grad = 10.0 ** torch.linspace(-30, 3, 20).view(4, 5) * torch.randn(4, 5).sign()
    p.grad[2] = 0
    before = p.grad.clone()
    built.step()
    assert torch.equal(p.detach(), -0.25 * before.sign())
    assert torch.equal(p.detach().abs().unique(), torch.tensor([0.0, 0.25]))
    assert not p.detach()[2].any()
    assert torch.equal(p.grad, before)  # .grad is the gradient still
    assert torch.equal(unused.detach(), torch.ones(2))


def test_batch_manhattan_steps_once_with_hooks_and_closures_and_takes_its_state_along() -> None:
    """A step that called SGD's own, which torch has wrapped as well, would run each hook twice."""
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # its class's step is wrapped from here on
    options = SGD(0.1, 0.9, batch_manhattan=True)
    p = nn.Parameter(torch.tensor([1.0, -1.0]))
    built = options.build([p])
    calls: list[str] = []
    built.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        built.zero_grad()
        loss = (p * torch.tensor([3.0, 0.5])).sum()
        loss.backward()
        return float(loss.detach())

    assert built.step(closure) == pytest.approx(2.5)  # type: ignore[arg-type]
    assert calls == ["after"]
    assert p.tolist() == pytest.approx([0.9, -1.1])
    q = nn.Parameter(p.detach().clone())
    resumed = options.build([q])
    resumed.load_state_dict(copy.deepcopy(built.state_dict()))
    for each, optimizer in ((p, built), (q, resumed)):
        each.grad = torch.tensor([1e-3, -2.0])
        optimizer.step()
    assert torch.equal(p, q)
    assert p.tolist() == pytest.approx([0.9 - 0.1 * 1.9, -1.1 - 0.1 * (0.9 - 1)])


def test_registries_hold_every_subclass() -> None:
    assert set(OPTIMIZERS.values()) == set(Optimizer.__subclasses__())
    assert set(SCHEDULES.values()) == set(Schedule.__subclasses__())


def test_the_tests_above_see_a_wrong_rule() -> None:
    a, b = trained(SGD(0.05, 0.7)), trained(SGD(0.05, 0.7, nesterov=True))
    assert not torch.allclose(a, b)
    assert all(x != y for x, y in pairwise(factors(Cosine())))
