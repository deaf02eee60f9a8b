"""Checks that a device computes what the CPU does, in float64; they need torch and spikecredit only."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.data import Digits


def _nets() -> dict[str, tuple[sc.Network, tuple[int, int, int]]]:
    shape = (1, 8, 8)
    cases: dict[str, tuple[sc.Network, tuple[int, int, int]]] = {}
    for name, neuron in {
        "lif": sc.LIF(3.0, refractory=2),
        "alif": sc.ALIF(3.0),
        "current": sc.CurrentLIF(3.0, learn_tau=True),
    }.items():
        cases[f"mlp {name}"] = (sc.MLP((30, 20), norm=True).build(shape, 10, neuron, pathway=sc.SignSymmetry()), shape)
    cases["recurrent"] = (sc.MLP((30,), recurrent=True).build(shape, 10, pathway=sc.FeedbackAlignment()), shape)
    lenet = sc.LeNet((4, 8), 3, (16,), norm=True, pool="max")
    cases["lenet dale"] = (
        lenet.build(shape, 10, sc.LIF(3.0), pathway=sc.SignSymmetry(magnitude="fixed"), constraint=sc.Dale()),
        shape,
    )
    residual = sc.ResNet((1, 1), 4, shortcut="membrane")
    cases["resnet"] = (residual.build(shape, 10, sc.LIF(3.0), pathway=sc.FeedbackAlignment()), shape)
    residual = sc.ResNet((1, 1), 4)
    cases["resnet direct"] = (residual.build(shape, 10, sc.LIF(3.0), pathway=sc.DirectKolenPollack()), shape)
    cases["recurrent direct"] = (
        sc.MLP((30, 20), recurrent=True).build(shape, 10, pathway=sc.DirectFeedbackAlignment("sign")),
        shape,
    )
    return cases


def same_outputs_and_gradients(device: str) -> None:
    """Every kind of network gives the CPU's output and gradients, float64, to 1e-9."""
    for name, (net, shape) in _nets().items():
        net = net.double()
        twin = copy.deepcopy(net).to(device)
        images = torch.rand(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
        labels = torch.arange(6)
        for module, place in ((net, "cpu"), (twin, device)):
            out = module(sc.encode.constant(images.to(place), 5))
            F.cross_entropy(out.mean(0), labels.to(place)).backward()
        for (parameter, here), there in zip(net.named_parameters(), twin.parameters(), strict=True):
            assert here.grad is not None and there.grad is not None, f"{name}: {parameter} has no gradient"
            scale = float(here.grad.abs().max()) + 1e-12
            error = float((here.grad - there.grad.cpu()).abs().max()) / scale
            assert error < 1e-9, f"{name}: the gradient of {parameter} differs by {error:.1e}"


def autocast_trains(device: str) -> None:
    """bf16 autocast: 60 steps on a batch of digits reduce the loss under each pathway, and Dale's law holds."""
    data = Digits().load()
    images = data.normalise(data.train.images[:64]).to(device)
    labels = data.train.labels[:64].to(device)
    for pathway, constraint in (
        (sc.Backprop(), sc.Dale()),
        (sc.FeedbackAlignment(), sc.Unconstrained()),
        (sc.SignSymmetry(magnitude="batch"), sc.Dale()),
        (sc.DirectFeedbackAlignment(), sc.Dale()),
    ):
        net = sc.LeNet((8, 16), 3, (32,), norm=True).build(
            (1, 8, 8), 10, sc.LIF(3.0), pathway=pathway, constraint=constraint, seed=1
        )
        net = net.to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        sc.attach(net, optimizer)
        losses = []
        for _ in range(60):
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                out = net(sc.encode.constant(images, 4))
            loss = F.cross_entropy(out.float().mean(0), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0], f"{pathway}: loss {losses[0]:.3f} -> {losses[-1]:.3f}"
        assert net.violations() == 0, f"{pathway}: {net.violations()} weights break Dale's law"


def streams_equal_sequences(device: str) -> None:
    """A stream split anywhere equals the whole sequence, in evaluation mode."""
    for name, (net, shape) in _nets().items():
        net = net.double().to(device).eval()
        x = torch.rand(7, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(device) * 3
        whole = net(x)
        first, state = net.stream(x[:2])
        second, _ = net.stream(x[2:], state)
        assert torch.allclose(torch.cat([first, second]), whole, atol=1e-9), name


def kernels_equal_the_reference(device: str) -> None:
    """Each neuron's kernel on the device gives the plain loop's spikes bit for bit, and its gradients to 1e-6."""
    generator = torch.Generator().manual_seed(5)
    for (label, make), steps, dtype in itertools.product(
        _neurons().items(), (1, 4, 25, 70), (torch.float32, torch.float64)
    ):
        x = (0.4 + torch.randn((steps, 3, 50), generator=generator, dtype=torch.float64)).to(device, dtype)
        weights = torch.randn((steps, 3, 50), generator=generator, dtype=torch.float64).to(device, dtype)
        results = []
        for backend in ("auto", "reference"):
            neuron = make(backend).to(device, dtype)
            given = x.clone().requires_grad_()
            out = neuron(given)
            gradient = torch.autograd.grad((out * weights).sum(), [given, *neuron.parameters()], allow_unused=True)
            results.append((out, gradient))
        (out, ours), (wanted, theirs) = results
        case = f"{label}, T = {steps}, {dtype}"
        assert torch.equal(out, wanted), f"{case}: {int((out != wanted).sum())} outputs differ"
        for got, reference in zip(ours, theirs, strict=True):
            if reference is None:
                continue
            scale = max(1.0, float(reference.abs().max()))
            error = float((got - reference).abs().max()) / scale
            # a time constant's gradient is a sum over all neurons and steps, in another order
            bound = (1e-6 if dtype == torch.float32 else 1e-12) * (100 if reference.ndim < 3 else 1)
            assert error < bound, f"{case}: gradients differ by {error:.1e}"


def _neurons() -> dict[str, Callable[[str], torch.nn.Module]]:
    learned = {"learn_tau": True}
    return {
        "lif": lambda b: sc.LIF(5.0, backend=b, **learned),
        "lif, zero, attached": lambda b: sc.LIF(5.0, reset="zero", detach_reset=False, backend=b, **learned),
        "lif, refractory": lambda b: sc.LIF(5.0, refractory=3, surrogate=sc.ArcTan(), backend=b),
        "alif": lambda b: sc.ALIF(5.0, backend=b, **learned),
        "current": lambda b: sc.CurrentLIF(5.0, backend=b, shape=(50,), learn_tau=True),
        "readout": lambda b: sc.LeakyReadout(5.0, backend=b, **learned),
    }


def large_tensors_are_addressed(device: str) -> None:
    """On CUDA: a sequence of more than 2^31 elements, whose offsets need 64 bits, equals its last rows run alone."""
    if device == "cpu":
        return
    free, _ = torch.cuda.mem_get_info()
    n = 2**26 + 3
    if free < 200 * n:
        return
    x = torch.full((34, n), 0.3, device=device, dtype=torch.bfloat16)
    neuron = sc.LIF(5.0)
    with torch.no_grad():
        whole, part = neuron(x), neuron(x[:, -5:])
    assert torch.equal(whole[:, -5:], part)


def equilibrium_settles_and_learns_alike(device: str) -> None:
    """Free states and gradients of equilibrium networks, dense and convolutional, to 1e-9 in float64."""
    for pool, pathway in ((sc.AvgPool2d, None), (sc.MaxPool2d, None), (sc.MaxPool2d, sc.FeedbackAlignment())):
        net = sc.Network(
            sc.Conv2d(1, 4, 3), pool(2), sc.HardSigmoid(), sc.Flatten(), sc.Linear(36, 20), sc.Logistic(),
            sc.Linear(20, 10), sc.Identity(), pathway=pathway, seed=0,
        ).double()  # fmt: skip
        images = torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        found = []
        for module, place in ((net, "cpu"), (copy.deepcopy(net).to(device), device)):
            cost, labels = sc.equilibrium.CrossEntropy(), torch.arange(6, device=place)
            gradients, settled = sc.equilibrium.gradient(module, images.to(place), labels, cost)
            found.append([*settled.activities, *(tensor for pair in gradients.values() for tensor in pair)])
        for here, there in zip(*found, strict=True):
            error = float((here - there.cpu()).abs().max() / here.abs().max().clamp_min(1e-12))
            assert error < 1e-9, f"{pool.__name__}, {pathway}: differs by {error:.1e}"


def compiled_relaxations_equal_plain_ones(device: str) -> None:
    """Compiled blocks and CUDA graphs settle and learn as plain sweeps do, to 1e-9 in float64; what a batch gave
    stays as it is while the next one runs. On a CPU tests/test_compile.py has it."""
    eq = sc.equilibrium
    if device == "cpu":
        return
    net = sc.Network(
        sc.Conv2d(1, 4, 3), sc.MaxPool2d(2), sc.HardSigmoid(), sc.Flatten(), sc.Linear(36, 10), sc.Identity(), seed=0
    ).double().to(device)  # fmt: skip
    images = torch.rand(3, 6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(6, device=device)

    def settled(mode: Any) -> list[torch.Tensor]:
        found = [
            eq.gradient(net, x, labels, eq.CrossEntropy(), relaxation=eq.Sweeps(19, 10, compile=mode)) for x in images
        ]
        tensors = [[*free.activities, *(t for pair in g.values() for t in pair)] for g, free in found]
        return [t for batch in tensors for t in batch]

    plain = settled(None)
    for mode in ("default", "reduce-overhead"):
        for here, there in zip(plain, settled(mode), strict=True):
            error = float((here - there).abs().max() / here.abs().max().clamp_min(1e-12))
            assert error < 1e-9, f"compile={mode}: differs by {error:.1e}"


def equilibrium_networks_settle_by_spikes(device: str) -> None:
    """Sigma-delta and LIF networks find the same rates, and learn in the same direction. Spikes may differ: sums in
    another order move one by a step."""
    eq = sc.equilibrium
    images = torch.rand(16, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for unit, relaxation in ((sc.HardSigmoid, eq.SigmaDelta(300, 300)), (sc.LIF, eq.Spikes(400, 400))):
        net = sc.Network(
            sc.Conv2d(1, 4, 3), sc.AvgPool2d(2), unit(), sc.Flatten(), sc.Linear(36, 10), unit(), seed=0
        ).double()  # fmt: skip
        found = []
        for module, place in ((net, "cpu"), (copy.deepcopy(net).to(device), device)):
            labels = torch.arange(16, device=place) % 10
            gradients, settled = eq.gradient(
                module, images.to(place), labels, eq.SquaredError(), relaxation=relaxation, estimator=eq.Centred(0.5)
            )
            found.append((settled.activities[0].cpu(), torch.cat([w.flatten().cpu() for w, _ in gradients.values()])))
        (rates, learned), (rates_there, learned_there) = found
        apart = float((rates - rates_there).abs().mean())
        assert apart < 5e-3, f"{relaxation}: rates differ by {apart:.1e}"
        cosine = float(torch.cosine_similarity(learned, learned_there, dim=0))
        assert cosine > 0.95 and learned.any(), f"{relaxation}: gradients have a cosine of {cosine:.3f}"


def plasticity_rules_change_weights_alike(device: str) -> None:
    """A population of synapses under the triplet and the dopamine rule, float64: the CPU's rows and columns against
    the device's masks; a rule in a network, with errors that come back."""
    from spikecredit.plasticity import DeltaRule, DopamineSTDP, ErrorSTDP, Plastic, TripletSTDP
    from spikecredit.plasticity.engines.batched import Batch

    g = torch.Generator().manual_seed(0)
    pre, post = (torch.rand(300, 1, n, generator=g) < 0.05 for n in (40, 30))
    reward = torch.rand(300, 1, generator=g) < 0.01
    for rule in (TripletSTDP(), DopamineSTDP()):
        found = []
        for where in ("cpu", device):
            batch = Batch(rule.equations(), 1, 30, 40, device=where)
            state = batch.start()
            for a, b, r in zip(pre, post, reward, strict=True):
                batch.step(state, a.to(where), b.to(where), r.to(where))
            found.append(batch.strength(state).cpu())
        apart = float((found[0] - found[1]).abs().max())
        assert apart < 1e-12, f"{type(rule).__name__}: weights differ by {apart:.1e}"
        assert float(found[0].std()) > 1e-4
    changed = []
    x = (torch.rand(60, 5, 8, generator=g) < 0.3).double()
    for where in ("cpu", device):
        torch.manual_seed(0)
        net = sc.Network(sc.Linear(8, 10), sc.LIF(tau=5.0), sc.Linear(10, 3), seed=0).double().to(where)
        plastic = Plastic(net, {"layers.0": ErrorSTDP(eta=0.1), "layers.2": DeltaRule(eta=1.0)}, signed=True)
        plastic(x.to(where), torch.arange(5, device=where) % 3)
        changed.append(torch.cat([p.detach().flatten().cpu() for p in net.parameters()]))
    apart = float((changed[0] - changed[1]).abs().max())
    assert apart < 1e-9, f"weights of a plastic network differ by {apart:.1e}"


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        kernels_equal_the_reference,
        same_outputs_and_gradients,
        autocast_trains,
        streams_equal_sequences,
        large_tensors_are_addressed,
        equilibrium_settles_and_learns_alike,
        compiled_relaxations_equal_plain_ones,
        equilibrium_networks_settle_by_spikes,
        plasticity_rules_change_weights_alike,
    )
}
