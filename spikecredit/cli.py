"""The command line: demo, train, compare, evaluate, simulate, plasticity, list, doctor."""

import glob
import inspect
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

import spikecredit
from spikecredit.cli_plasticity import catalogue, plasticity
from spikecredit.training.document import ConfigError, nearest
from spikecredit.verbs import Failure, RunFailure, Verbs

CONFIGS = Path(spikecredit.__file__).parent / "configs"


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(spikecredit.__version__, prog_name="spikecredit")
def main() -> None:
    """Spiking networks that learn under biology's constraints."""
    warnings.showwarning = _show_warning


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    click.echo(f"warning: {message}", err=True)


# ---- shared ----------------------------------------------------------------------------------------------------------


def find_config(name: str) -> Path:
    """A path to a configuration, or the name of one that ships with spikecredit."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = {p.stem: p for p in sorted(CONFIGS.glob("*.yaml"))}
    if path.name == name and path.stem in shipped:
        return shipped[path.stem]
    known = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    known += sorted(shipped) if path.name == name else []
    raise Failure(f"no configuration {name!r}{nearest(path.name, known)}")


def pick_device(name: str) -> torch.device:
    """auto: CUDA if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        hint = "; write --device cuda" if name.startswith("gpu") else nearest(name, ["auto", "cpu", "cuda"])
        raise Failure(f"--device {name}: expected auto, cpu, cuda or cuda:N{hint}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count() or "no"
        use = "--device cuda" if torch.cuda.device_count() else "--device cpu"
        raise Failure(f"--device {name}: torch {torch.__version__} sees {seen} CUDA device here; use {use}")
    return device


def load_config(source: Path, overrides: tuple[str, ...] = ()) -> Any:
    """The experiment and its resolved configuration; a mistake ends the program before anything else is touched."""
    from spikecredit.training.experiment import load_experiment

    try:
        return load_experiment(source, overrides)
    except ConfigError as error:
        raise Failure(str(error)) from error


def load_data(experiment: Any, device: torch.device) -> Any:
    """The data on the device."""
    try:
        return experiment.data.load().to(device)
    except (ValueError, OSError, ImportError) as error:
        raise Failure(f"data: {error}") from error


def new_trainer(*arguments: Any, **options: Any) -> Any:
    """A `Trainer`; an experiment that does not fit its data ends the program before anything is written."""
    from spikecredit.training.loop import Trainer

    try:
        return Trainer(*arguments, **options)
    except ValueError as error:
        raise Failure(str(error)) from error


@contextmanager
def failures() -> Iterator[None]:
    """Turn what can stop a run into a message and an exit status: 128 + signal, or 1."""
    from spikecredit.training.checkpoint import CheckpointError
    from spikecredit.training.loop import Diverged, Interrupted
    from spikecredit.training.run import RunError

    try:
        yield
    except Interrupted as stop:
        click.echo(f"{stop}; go on with --resume", err=True)
        sys.exit(128 + stop.signum)
    except (RunError, ConfigError) as error:
        raise Failure(str(error)) from error
    except (Diverged, CheckpointError, OSError) as error:
        raise RunFailure(str(error)) from error


def progress_bar(samples: int) -> Callable[[int, int, int, Callable[[], float]], None] | None:
    """A bar per epoch with accuracy and samples/s on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    bar: Any = None

    def update(epoch: int, batch: int, batches: int, accuracy: Callable[[], float]) -> None:
        nonlocal bar
        if bar is None or bar.n >= bar.total:
            bar = tqdm(total=batches, initial=batch - 1, desc=f"epoch {epoch}", leave=False, unit="batch")
            bar.started = time.perf_counter(), batch - 1
        bar.update()
        if batch % 10 == 0 or batch == batches:
            began, first = bar.started
            rate = (batch - first) * samples / batches / max(1e-9, time.perf_counter() - began)
            bar.set_postfix_str(f"accuracy {accuracy():.2%}, {rate:.0f} samples/s")
        if batch == batches:
            bar.close()

    return update


# ---- demo ------------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--seeds", default=3, show_default=True, help="Runs per row; seeds 0, 1, ...")
@click.option(
    "--run", "folder", default="runs/demo", show_default=True, help="Folder of the report; a new one if it exists."
)
@click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda or auto; networks this small are faster on the CPU."
)
def demo(seeds: int, folder: str, device: str) -> None:
    """Train the same LIF network on handwritten digits under four kinds of feedback, and without a backward pass."""
    from spikecredit.training.demo import run_demo

    if seeds < 1:
        raise Failure(f"--seeds must be at least 1, got {seeds}")
    where = pick_device(device)
    with failures():
        run_demo(CONFIGS / "demo.yaml", seeds, Path(folder), where, click.echo)


# ---- train -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run", "folder", default=None, help="Run folder; by default runs/NAME-OF-CONFIG.")
@click.option("--resume", is_flag=True, help="Go on with the run from its last checkpoint, bit for bit.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events too (extra: tensorboard).")
def train(
    config: str, overrides: tuple[str, ...], folder: str | None, resume: bool, device: str, tensorboard: bool
) -> None:
    """Train CONFIG: a YAML file, the name of a shipped one, or (with --resume) a run folder.

    KEY=VALUE changes one value, dotted: training.epochs=3 pathway.magnitude=fixed.
    """
    from spikecredit.training.run import Run, config_hash, environment
    from spikecredit.training.summary import report_line, run_record

    is_run = (Path(config) / "config.yaml").is_file()
    if is_run and not resume:
        raise Failure(f"{config} is a run folder: add --resume to go on with it, or give a configuration")
    if is_run and overrides:
        raise Failure(f"{config} has its configuration; {' '.join(overrides)} would change it: start a new run instead")
    if is_run and folder is not None:
        raise Failure(f"{config} is the run folder itself: leave out --run {folder}")
    source = Path(config) / "config.yaml" if is_run else find_config(config)
    loaded = load_config(source, overrides)
    where = pick_device(device)
    target = Path(config) if is_run else Path(folder or f"runs/{source.stem}")
    with failures():
        run = Run.open(target) if resume else Run.prepare(target)
        if resume and config_hash(load_config(run.config).resolved) != config_hash(loaded.resolved):
            raise Failure(
                f"{target} was started with another configuration than {' '.join((config, *overrides))}: "
                f"resume it with `spikecredit train {target} --resume`, or name a new folder with --run"
            )
        if run.result() is not None:
            raise Failure(f"{target} is finished: see {target / 'report.html'} or `spikecredit evaluate {target}`")
    data = load_data(loaded.value, where)
    trainer = new_trainer(
        loaded.value,
        data,
        run,
        log=click.echo,
        progress=progress_bar(len(data.train)),
    )
    with failures(), tensorboard_writer(run.folder) if tensorboard else nullcontext() as trainer.writer:
        if not resume:
            run.start(loaded.resolved)
        env = environment(where)
        run.record_environment(env)
        if resume:
            trainer.restore()
            click.echo(f"resumed at epoch {trainer.epoch + 1}, batch {trainer.batch}, step {trainer.step}")
        result = trainer.fit()
    record = run_record(trainer, source.stem if not is_run else target.name, loaded.resolved, env)
    report = report_line(run.folder / "report.html", record.label, [record])
    click.echo(
        f"test accuracy {result['test_accuracy']:.2%}, loss {result['test_loss']:.4f} "
        f"(epoch {result['selected_epoch']}), {result['spikes_per_neuron']:.2f} spikes per neuron and image, "
        f"{result['violations']} constraint violations\n{report}"
    )


def tensorboard_writer(folder: Path) -> Any:
    """A SummaryWriter for the run's folder."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Failure("--tensorboard needs the package tensorboard: pip install 'spikecredit[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"))


# ---- compare ---------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("words", nargs=-1, metavar="[CONFIG]... [KEY=VALUE]...")
@click.option("--pathway", help="Kinds or short names, between commas: BP,FA,'sign_symmetry(magnitude=fixed)'.")
@click.option("--constraint", help="Kinds, between commas: none,dale,frozen_signs.")
@click.option("--seeds", default=3, show_default=True, help="Runs per row; seeds 0, 1, ...")
@click.option("--set", "changes", multiple=True, metavar="NAME:KEY=VALUE", help="Change the rows that NAME names.")
@click.option("--run", "folder", default=None, help="Folder; by default runs/compare-NAME-OF-CONFIG.")
@click.option("--resume", default=None, metavar="FOLDER", help="Go on with the comparison in FOLDER.")
@click.option("--jobs", type=click.IntRange(1), help="Processes, each with a share of the threads.  [default: 1]")
@click.option("--device", default=None, help="auto, cpu or cuda.  [default: auto]")
@click.pass_context
def compare(
    context: click.Context,
    words: tuple[str, ...],
    pathway: str | None,
    constraint: str | None,
    seeds: int,
    changes: tuple[str, ...],
    folder: str | None,
    resume: str | None,
    jobs: int | None,
    device: str | None,
) -> None:
    """Train CONFIG under every pathway x constraint x seed, and compare; several CONFIGs are rows of their own.

    KEY=VALUE holds for all rows, --set NAME:KEY=VALUE for those of a pathway, constraint, configuration or label.
    What is finished is kept: the same command, or --resume FOLDER, goes on.
    """
    from spikecredit.training import compare as comparing
    from spikecredit.training.loop import Interrupted

    given = {name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    if resume is not None and (foreign := given - {"resume", "jobs", "device"}):
        what = ", ".join("CONFIG" if n == "words" else "--set" if n == "changes" else f"--{n}" for n in sorted(foreign))
        raise Failure(f"{resume} has its matrix; leave out {what}, or give the whole command with --run {resume}")
    with failures():
        if resume is not None:
            target, plan = Path(resume), comparing.Plan.open(Path(resume))
        else:
            sources, overrides = find_configs(words)
            target = Path(folder or f"runs/compare-{sources[0].stem if len(sources) == 1 else 'configurations'}")
            names = [word for word in words if word not in overrides]
            plan = comparing.new_plan(sources, pathway, constraint, seeds, overrides, changes, names)
        plan = plan.on(device, jobs)
        devices = pick_devices(plan.device, plan.jobs)
        try:
            failed = comparing.compare(plan, target, devices, click.echo, progress_bar)
        except (Interrupted, KeyboardInterrupt) as stop:
            number = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
            go_on = shlex.join(["spikecredit", "compare", "--resume", str(target)])
            click.echo(f"stopped by {signal.Signals(number).name}; go on with: {go_on}", err=True)
            sys.exit(128 + number)
    if failed:
        sys.exit(1)


def find_configs(words: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """The configurations among the words, with patterns such as mnist_*.yaml expanded, and the overrides."""
    sources: list[Path] = []
    overrides = []
    for word in words:
        if re.match(r"[A-Za-z_][\w.]*=", word) and not Path(word).is_file():
            overrides.append(word)
        elif re.search(r"[*?\[]", word) and not Path(word).is_file():
            found = sorted(map(Path, glob.glob(word))) or sorted(CONFIGS.glob(f"{word.removesuffix('.yaml')}.yaml"))
            if not found:
                raise Failure(f"no configuration matches {word!r}")
            sources += found
        else:
            sources.append(find_config(word))
    if not sources:
        raise Failure("name a configuration to compare: a YAML file, or a shipped one (spikecredit list configs)")
    return list(dict.fromkeys(sources)), overrides


def pick_devices(name: str, jobs: int) -> list[torch.device]:
    """The device of each process in turn: all CUDA devices, where there are several jobs and none is named."""
    device = pick_device(name)
    if jobs > 1 and device.type == "cuda" and device.index is None:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device]


# ---- evaluate --------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("folder", metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option("--checkpoint", "kind", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def evaluate(folder: str, overrides: tuple[str, ...], kind: str, split: str, device: str) -> None:
    """Evaluate a checkpoint of RUN: accuracy, loss, firing, and an audit of the signs of all weights.

    data.KEY=VALUE names other data for it, such as data.path=FOLDER.
    """
    from spikecredit.analysis.activity import spikes_per_neuron
    from spikecredit.analysis.spectrum import sign_audit
    from spikecredit.training.loop import EVALUATION_BATCH

    trainer, part, saved = open_trained(folder, overrides, kind, split, pick_device(device))
    loss, accuracy = trainer.evaluate(part, split)
    trainer.net.eval()
    x = trainer.encode(part.images[:EVALUATION_BATCH], split, 0)
    firing = trainer.firing(x)
    click.echo(
        f"{saved} on {split} ({len(part)} images): accuracy {accuracy:.2%}, loss {loss:.4f}, "
        f"{spikes_per_neuron(firing):.2f} spikes per neuron and image, {trainer.net.violations()} constraint violations"
    )
    for name, layer in firing.items():
        click.echo(f"  {name:<24} {layer.rate:7.2%} of steps   {layer.silent:7.2%} silent   {layer.neurons} neurons")
    signs = sign_audit(trainer.net)
    if not any(layer.audited for layer in signs.values()):
        return
    held = [each for each in signs.values() if each.audited]
    violations, weights = sum(each.violations for each in held), sum(each.weights for each in held)
    click.echo(f"signs: {violations} violations in {weights} constrained weights")
    for name, each in signs.items():
        told = f"{each.violations:>5} violations" if each.audited else " exempt"
        click.echo(f"  {name:<24} {each.positive:>8} +  {each.negative:>8} -  {each.zero:>8} zero {told}")


def open_trained(
    folder: str, overrides: tuple[str, ...], kind: str, split: str, device: torch.device
) -> tuple[Any, Any, str]:
    """A trainer with the network of a run's checkpoint, a split of the data, and the checkpoint's name."""
    from spikecredit.training import checkpoint
    from spikecredit.training.run import Run

    foreign = [override for override in overrides if not override.startswith("data.")]
    if foreign:
        raise Failure(f"{' '.join(foreign)}: a trained network is taken as it is; only data.KEY=VALUE may change")
    with failures():
        run = Run.open(Path(folder))
        loaded = load_config(run.config, overrides)
        data = load_data(loaded.value, device)
        saved = checkpoint.latest(run.checkpoints, kind)
        if saved.config_hash != run.config_hash:
            raise Failure(f"{saved.path} was written under another configuration than {run.config}")
    part = getattr(data, split)
    if not len(part):
        raise Failure(f"the {split} split of {data.name} is empty")
    trainer = new_trainer(loaded.value, data)
    trainer.net.load_state_dict(saved.tensors["model"])
    return trainer, part, saved.path.name


# ---- simulate --------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("folder", metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option("--engine", type=click.Choice(["brian2"]), default="brian2", show_default=True, help="The simulator.")
@click.option("--samples", type=click.IntRange(1), default=10, show_default=True, help="Images of the test split.")
@click.option("--checkpoint", "kind", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--out", default=None, help="Folder of figures and numbers; by default RUN/brian2.")
def simulate(folder: str, overrides: tuple[str, ...], engine: str, samples: int, kind: str, out: str | None) -> None:
    """Run the trained network of RUN in Brian2 on test images, and compare every spike with torch.

    Ends with status 1 if a spike or a potential differs.
    """
    from spikecredit.circuits import simulate as simulating
    from spikecredit.training.loop import EVALUATION_BATCH

    trainer, part, saved = open_trained(folder, overrides, kind, "test", torch.device("cpu"))
    if samples > len(part):
        raise Failure(f"--samples {samples}: the test split has {len(part)} images")
    target = Path(out) if out else Path(folder) / engine
    try:
        found = simulating.of_trainer(trainer, part.images[:samples], part.labels[:samples], EVALUATION_BATCH)
        simulating.write(found, target, part.images[0])
    except (ValueError, ImportError) as error:
        raise Failure(f"{folder} cannot be simulated: {error}") from error
    click.echo(f"{saved} on {samples} test images in {engine}\n{found}\nfigures and numbers: {target}")
    if not found.exact:
        sys.exit(1)


main.add_command(plasticity)

# ---- list ------------------------------------------------------------------------------------------------------------


def registries() -> dict[str, dict[str, type]]:
    """What a configuration may name, by the word that `list` takes."""
    from spikecredit.training.experiment import KINDS

    return {word: kinds for word, (_, kinds) in KINDS.items()}


@main.command("list")
@click.argument("what", required=False)
def list_(what: str | None) -> None:
    """List what a configuration may name: neurons, pathways, ...; short names of pathways; the shipped configs; and
    what the verb plasticity takes: rules with their published sets (plasticity), protocols, datasets."""
    from spikecredit.training.matrix import short_names

    known, short, laboratory = registries(), short_names(), catalogue()
    if what == "short-names":
        for name, choice in short.items():
            click.echo(f"{name:<10} {choice}")
        return
    if what == "configs":
        for path in sorted(CONFIGS.glob("*.yaml")):
            click.echo(f"{path.stem:<40} {path.read_text().splitlines()[0].lstrip('# ')}")
        return
    if what in laboratory:
        for lines in laboratory[what].values():
            click.echo("\n".join(lines))
        return
    if what is None:
        for name, kinds in (known | laboratory).items():
            click.echo(f"{name:<15} {', '.join(kinds)}")
        click.echo(f"{'short-names':<15} {', '.join(short)}")
        click.echo(f"{'configs':<15} {', '.join(p.stem for p in sorted(CONFIGS.glob('*.yaml')))}")
        return
    if what not in known:
        raise Failure(f"nothing to list under {what!r}{nearest(what, [*known, *laboratory, 'short-names', 'configs'])}")
    for kind, cls in known[what].items():
        click.echo(f"{kind}: {cls.__name__}{signature(cls)}")
        click.echo(f"    {(inspect.getdoc(cls) or '').splitlines()[0]}")


def signature(cls: type) -> str:
    """The parameters that a configuration may name, with their defaults."""
    from spikecredit.training.experiment import REGISTRIES
    from spikecredit.training.schema import Schema

    fields = Schema(cls, REGISTRIES).fields(cls)
    return f"({', '.join(name if f.required else f'{name}={f.default!r}' for name, f in fields.items())})"


# ---- doctor ----------------------------------------------------------------------------------------------------------


@main.command()
def doctor() -> None:
    """Check this installation: versions that clash, optional parts, the device, and one gradient."""
    from spikecredit.training.doctor import examine

    failed = False
    for status, text in examine():
        click.echo(f"{status:<5} {text}")
        failed |= status == "fail"
    if failed:
        sys.exit(1)
