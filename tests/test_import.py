"""What importing spikecredit needs, in which order its rooms import each other, and that nothing loads pickles."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spikecredit

PACKAGE = Path(spikecredit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = (
    "seeds", "neurons", "pathways", "constraints", "synapses", "network", "convert", "architectures", "losses",
    "equilibrium", "rules", "data", "analysis", "circuits", "plasticity", "training", "verbs", "cli_plasticity", "cli",
)  # fmt: skip
"""A room imports only rooms before it."""

OPTIONAL = (
    "pydantic", "yaml", "safetensors", "click", "matplotlib", "datasets", "pyarrow", "PIL", "brian2", "snntorch", "nir",
    "tensorboard", "numba", "triton",
)  # fmt: skip

WITHOUT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
import torch
before = set(sys.modules)
import spikecredit as sc
imported = {{name.partition(".")[0] for name in set(sys.modules) - before}}
assert not imported & {{*{OPTIONAL!r}, "tqdm"}}, imported
torch.manual_seed(0)  # uniform feedback under Dale's law can give the first layer no error at all: "fixed" does
net = sc.Network(sc.Flatten(), sc.Linear(4, 8), sc.LIF(tau=5.0), sc.Linear(8, 3), sc.LeakyReadout(tau=5.0),
                 pathway=sc.SignSymmetry(magnitude="fixed"), constraint=sc.Dale(), seed=0)
optimizer = torch.optim.SGD(net.parameters(), 1.0)
sc.attach(net, optimizer)
before = [p.detach().clone() for p in net.parameters()]
x = sc.encode.constant(torch.rand(5, 1, 2, 2) * 4, steps=6)
loss = sc.losses.MeanPotential()(net(x), torch.tensor([0, 1, 2, 0, 1]))
loss.backward()
optimizer.step()
assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters())) and net.violations() == 0
print("trained")
"""


def test_importing_and_training_need_torch_and_numpy_only() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True, timeout=100)
    assert done.stdout == "trained\n", done.stderr


def room(module: str) -> str | None:
    """The room of one of our modules; None for the package itself and for others' modules."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if first == "spikecredit" else None


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def upward(source: str, own: str) -> list[str]:
    """The imports of a file of the room `own` from rooms after it."""
    allowed = {*ROOMS[: ROOMS.index(own) + 1]}
    found = ((line, module, room(module)) for line, module in imports(ast.parse(source)))
    return [f"{line}: {module}" for line, module, other in found if other in ROOMS and other not in allowed]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_imports_a_later_one(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the package gathers all rooms
    assert own in ROOMS, f"{own} has no place in the order of rooms"
    assert not upward(path.read_text(), own)


def test_every_room_is_there_and_the_test_above_can_fail() -> None:
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} == {*ROOMS, "__init__"}
    inside = "def f():\n    from spikecredit.training.loop import Trainer\n"
    assert upward(inside, "data") == ["2: spikecredit.training.loop", "2: spikecredit.training.loop.Trainer"]
    assert upward("from spikecredit import cli", "data") == ["1: spikecredit.cli"]
    assert upward("import spikecredit.seeds", "data") == []


LOADERS_OF_CODE = ("pickle", "dill", "joblib", "shelve", "marshal")


def dangerous(source: str) -> list[str]:
    """Calls and imports that can run code which a file brings along."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            one = isinstance(node, ast.ImportFrom)
            names = [node.module or ""] if one else [alias.name for alias in node.names]
            found += [
                name for name in names if name.partition(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal")
            ]
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            if call in ("eval", "exec", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
                found.append(call)
            safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
            if call.endswith(("np.load", "numpy.load")) and not safe:
                found.append(call)
            found += [call for k in node.keywords if k.arg == "allow_pickle" and not safe]
    return found


KNOWN = {"plasticity/language.py": ["eval"]}
"""It evaluates expressions whose every node it has looked up in a list: tests/plasticity/test_language.py."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_loads_code_from_data(path: Path) -> None:
    assert dangerous(path.read_text()) == KNOWN.get(str(path.relative_to(PACKAGE)), [])


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "torch.load('x')", "yaml.load(x, Loader=L)", "np.load('x')",
     "eval('1')", "np.load('x', allow_pickle=True)", "numpy.save('x', y, allow_pickle=True)"],
)  # fmt: skip
def test_the_search_for_dangerous_calls_finds_them(source: str) -> None:
    assert dangerous(source)
    assert not dangerous("np.load('x', allow_pickle=False); yaml.safe_load(x); net.eval(); json.load(f)")
