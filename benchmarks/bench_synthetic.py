"""Speed and memory of the synthetic hospital, and what an encoder can learn from its pictures.

    python benchmarks/bench_synthetic.py studies                     studies/s with DICOM at 96x96x48 on 2 processes
    python benchmarks/bench_synthetic.py records                     persons/s with FHIR in one process
    python benchmarks/bench_synthetic.py timeline --persons 3000     events/s a core, straight into the timeline store
    python benchmarks/bench_synthetic.py volumes --volumes 256       MB/s a core of derived volumes at 160x160x160
    python benchmarks/bench_synthetic.py latents --preset demo       R2 of the tiny encoder trained on the latents
    python benchmarks/bench_synthetic.py latents --preset planted    the same at 96x96x64
    python benchmarks/bench_synthetic.py latents --plain             the same by a plain net without pooling in its stem

Each prints one JSON object: what was found beside its target, and `missed` where it was. Rates are by the wall clock;
CPU seconds stand beside them, and the load of the machine before and after. `--write` adds the object to
benchmarks/results/ with hardware, versions, command and commit. A first, small run compiles; it is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from presage_etl.synthetic.lives.hazards import build_model
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import Parameters, parse_grid, read_parameters
from presage_etl.synthetic.pictures.images import ImageTask, make_images, picture
from presage_etl.synthetic.pictures.scanner import draw_acquisition, scan
from presage_etl.synthetic.records.export import EXPORT, SECOND_EXPORT
from presage_etl.synthetic.scale.cohort import make_cohort
from presage_etl.synthetic.scale.phantoms import make_volumes, to_ras
from presage_etl.synthetic.shards import ShardTask, make_shard, orphan_scan
from presage_etl.synthetic.streams import Stage, stream

TARGETS = {
    "studies_per_s": (20.0, "at least"),
    "peak_mb_images": (300.0, "at most"),
    "events_per_s_a_core": (2_000_000.0, "at least"),
    "peak_mb_timeline": (1000.0, "at most"),
    "derived_mb_per_s_a_core": (200.0, "at least"),
    "smallest_r2": (0.5, "at least"),
}
PACKAGES = ("numpy", "numba", "pyarrow", "pydicom", "torch", "monai")
RESULTS = Path(__file__).parent / "results"
Result = dict[str, Any]


def main() -> None:
    """Run what is asked and print one JSON object."""
    arguments = _arguments()
    load_before = os.getloadavg()
    found = MODES[arguments.mode](arguments)
    result: Result = {
        "mode": arguments.mode,
        "command": " ".join(["python", "benchmarks/bench_synthetic.py", *sys.argv[1:]]),
        **found,
        "missed": [name for name, value in found.items() if _misses(name, value)],
        "targets": {name: f"{TARGETS[name][1]} {TARGETS[name][0]:g}" for name in found if name in TARGETS},
        "load_before": [round(x, 2) for x in load_before],
        "load_after": [round(x, 2) for x in os.getloadavg()],
        "hardware": _hardware(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": _commit(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.write:
        day = datetime.now(UTC).date().isoformat()
        path = RESULTS / f"synthetic_{arguments.mode}_{platform.machine()}_{day}.md"
        missed = ", ".join(result["missed"]) or "none"
        path.write_text(
            REPORT.format(mode=arguments.mode, question=QUESTIONS[arguments.mode], missed=missed, text=text)
        )
        print(f"written to {path}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=sorted(MODES))
    parser.add_argument("--grid", help="voxels as columns x rows x slices (default: that of the target)")
    parser.add_argument("--studies", type=int, default=400, help="studies of one run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--persons", type=int, default=3000, help="of one timeline; 19402 = the paper's 225 million")
    parser.add_argument("--events", type=int, default=11_600, help="mean events a person")
    parser.add_argument("--volumes", type=int, default=256, help="of one store, 2 of them painted")
    parser.add_argument("--preset", choices=("demo", "planted"), default="demo", help="whose pictures are learned")
    parser.add_argument("--latents", type=int, default=2400, help="scans to train on and to test with")
    parser.add_argument("--plain", action="store_true", help="a plain convolutional net instead of the tiny encoder")
    parser.add_argument("--epochs", type=int, help="(default: the recipe's)")
    parser.add_argument("--encoder", action="append", default=[], help="change of the tiny recipe: encoder.x=y")
    parser.add_argument("--runs", type=int, default=5, help="repetitions; the median counts")
    parser.add_argument("--write", action="store_true", help="write a report into benchmarks/results/")
    return parser.parse_args()


def studies(arguments: argparse.Namespace) -> Result:
    """Studies a second with DICOM on several processes, and the memory of one."""
    parameters = read_parameters("demo", grid=parse_grid(arguments.grid or "96x96x48"))
    scanned = [index for index in range(2 * arguments.studies) if draw_person(parameters, index).scanned]
    batches = np.array_split(np.array(scanned[: arguments.studies]), arguments.studies // 25 + arguments.processes)
    rates, cpu, peak = [], [], 0.0
    # New processes that import nothing of this one: their memory is that of a worker.
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for run in range(arguments.runs + 1):
            with _folder() as folder:
                start = time.perf_counter()
                made = list(pool.map(_make_batch, ((folder, parameters, batch.tolist()) for batch in batches)))
                seconds = time.perf_counter() - start
            if run:  # the first one compiles
                rates.append(arguments.studies / seconds)
                cpu.append(sum(used for used, _ in made) / arguments.studies)
                peak = max(peak, *(memory for _, memory in made))
    return _spread("studies_per_s", rates) | {
        "grid": list(parameters.grid),
        "processes": arguments.processes,
        "cpu_ms_a_study": round(1000 * statistics.median(cpu), 1),
        "peak_mb_images": round(peak, 1),
    }


def _make_batch(work: tuple[Path, Parameters, list[int]]) -> tuple[float, float]:
    folder, parameters, persons = work
    start = time.process_time()
    make_images(ImageTask(folder, parameters, tuple((index, 0) for index in persons)))
    return time.process_time() - start, _peak_mb()


def records(arguments: argparse.Namespace) -> Result:
    """Persons a second in one process, FHIR written and truth gathered."""
    parameters = read_parameters("demo")
    model, rates, cpu = build_model(parameters), [], []
    for _ in range(arguments.runs):
        with _folder() as folder:
            for export in (EXPORT, SECOND_EXPORT):
                (folder / export).mkdir(parents=True)
            task = ShardTask(folder, parameters, model, 0, 0, arguments.studies)
            used, wall, _ = _timed(partial(make_shard, task))
        rates.append(arguments.studies / wall)
        cpu.append(arguments.studies / used)
    return _spread("persons_per_s", rates) | {
        "persons_per_cpu_s": round(statistics.median(cpu), 1),
        "peak_mb": round(_peak_mb(), 1),
    }


def timeline(arguments: argparse.Namespace) -> Result:
    """Events a second in one process, from drawing lives to the snapshot on disk; the ontology is a fixed cost."""
    sizes = {"events_per_person": arguments.events, "sample": 0}

    def made(persons: int) -> tuple[float, float, int]:
        parameters = read_parameters(None, patients=persons, output="timeline", timeline=sizes)
        with _folder() as folder:
            cpu, wall, report = _timed(lambda: make_cohort(folder / "cohort", parameters, workers=1))
        return cpu, wall, report.counts["events"]

    made(10)
    fixed = min((made(10) for _ in range(2)), key=lambda one: one[1])
    rates, cpu, events = [], [], 0
    for _ in range(arguments.runs):
        run_cpu, run_wall, events = made(arguments.persons)
        rates.append(_rate(events - fixed[2], run_wall, fixed[1]))
        cpu.append(_rate(events - fixed[2], run_cpu, fixed[0]))
    return _spread("events_per_s_a_core", rates, digits=0) | {
        "events": events,
        "persons": arguments.persons,
        "events_per_cpu_s": round(statistics.median(cpu)),
        "fixed_s": round(fixed[1], 2),
        "peak_mb_timeline": round(_peak_mb(), 1),
    }


def volumes(arguments: argparse.Namespace) -> Result:
    """Megabytes a second of derived volumes in one process, until the store is committed."""
    grid = parse_grid(arguments.grid or "160x160x160")
    painted = 2

    def made(number: int) -> tuple[float, float]:
        sizes = {"studies": number, "distinct": painted}
        parameters = read_parameters(None, output="volumes", grid=grid, volumes=sizes)
        with _folder() as folder:
            return _timed(lambda: make_volumes(folder / "volumes", parameters, workers=1))[:2]

    made(painted)
    fixed = made(painted)
    megabytes = (arguments.volumes - painted) * float(np.prod(grid)) * 2 / 1e6  # type: ignore[arg-type]
    runs = [made(arguments.volumes) for _ in range(arguments.runs)]
    return _spread("derived_mb_per_s_a_core", [_rate(megabytes, wall, fixed[1]) for _, wall in runs]) | {
        "grid": list(grid or ()),
        "volumes": arguments.volumes,
        "mb_per_cpu_s": round(statistics.median(_rate(megabytes, cpu, fixed[0]) for cpu, _ in runs), 1),
        "peak_mb": round(_peak_mb(), 1),
    }


def latents(arguments: argparse.Namespace) -> Result:
    """R2 of each latent on 15 % of the scans: the tiny encoder, its windows and budget, trained on the others."""
    from presage_modeling.recipe import read_recipe

    parameters = read_parameters(arguments.preset, grid=parse_grid(arguments.grid))
    recipe = read_recipe("tiny", arguments.encoder)
    images, scores = _pictures(parameters, arguments.latents)
    start = time.perf_counter()
    r2 = _learn(images, scores, recipe, arguments.epochs or recipe.schedule.epochs, plain=arguments.plain)
    return {
        "preset": arguments.preset,
        "grid": list(parameters.grid),
        "scans": arguments.latents,
        "encoder": "plain" if arguments.plain else recipe.encoder.model_dump(mode="json"),
        "r2": dict(zip(parameters.latents.names, r2, strict=True)),
        "smallest_r2": min(r2),
        "training_s": round(time.perf_counter() - start, 1),
        "peak_mb": round(_peak_mb(), 1),
    }


def _pictures(parameters: Parameters, number: int) -> tuple[Any, Any]:
    """Pictures in HU as the store would hold them, shape (n, z, y, x), and the scores that they show."""
    images, scores = [], []
    for index in range(number):
        person = draw_person(parameters, index)
        shown = orphan_scan(person)
        made = draw_acquisition(parameters, index, 0, male=person.male, biomarkers=shown.biomarkers)
        phantom = picture(parameters, person, shown, made)
        array = scan(phantom, made, stream(parameters.seed, index, Stage.NOISE, 0))
        images.append(to_ras(array, made.grid)[0])
        scores.append(shown.score)
    return np.stack(images), np.array(scores, dtype=np.float32)


def _learn(images: Any, scores: Any, recipe: Any, epochs: int, *, plain: bool) -> list[float]:
    import torch
    from torch import nn

    from presage_modeling.augment import Windows, volumes_to_device
    from presage_modeling.encoders.interface import build_encoder

    torch.manual_seed(0)
    windows, device = Windows(recipe.input.windows), torch.device("cpu")
    channels = len(recipe.input.windows)
    if plain:
        net = _plain_net(channels, scores.shape[1])
    else:
        encoder = build_encoder(recipe.encoder, channels)
        net = nn.Sequential(encoder, nn.Linear(encoder.width, scores.shape[1]))
    y = torch.from_numpy(scores)
    train, batch = int(0.85 * len(y)), recipe.schedule.effective_batch
    optimiser = torch.optim.AdamW(net.parameters(), recipe.optimiser.lr, weight_decay=1e-2)
    steps = epochs * -(-train // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2 * recipe.optimiser.lr, total_steps=steps)

    def read(rows: Any) -> Any:
        return windows(volumes_to_device(torch.from_numpy(images[rows.numpy()]), device))

    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(train).split(batch):
            loss = ((net(read(rows)) - y[rows]) ** 2).mean() if len(rows) > 1 else None
            if loss is not None:
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        guess = torch.cat([net(read(rows)) for rows in torch.arange(train, len(y)).split(64)])
    return [round(float(r), 3) for r in 1 - ((guess - y[train:]) ** 2).mean(0) / y[train:].var(0)]


def _plain_net(channels: int, outputs: int) -> Any:
    """Four convolutions, each of which halves what it sees; across slices the second one does not."""
    from torch import nn

    def block(width_in: int, width: int, stride: tuple[int, int, int]) -> nn.Sequential:
        layer = nn.Conv3d(width_in, width, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm3d(width), nn.ReLU())

    return nn.Sequential(
        block(channels, 12, (2, 2, 2)),
        block(12, 24, (2, 2, 1)),
        block(24, 48, (2, 2, 2)),
        block(48, 64, (2, 2, 2)),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(64, outputs),
    )


MODES: dict[str, Callable[[argparse.Namespace], Result]] = {
    "studies": studies,
    "records": records,
    "timeline": timeline,
    "volumes": volumes,
    "latents": latents,
}
QUESTIONS = {
    "studies": "How many studies a second does the generator write as DICOM, and in how much memory?",
    "records": "How many persons a second does one core simulate and write as FHIR?",
    "timeline": "How many events a second does one core write into the timeline store, and in how much memory?",
    "volumes": "How many megabytes a second of derived volumes does one core write into the volume store?",
    "latents": "How much of each latent does the tiny encoder see, trained on the latents themselves?",
}
REPORT = """# Synthetic hospital: {mode}

{question}

Targets missed: {missed}. Data: synthetic, of the seed and size that the command names.

```json
{text}
```
"""


def _spread(name: str, values: list[float], digits: int = 1) -> Result:
    """Median and range of the runs."""
    rounded = [round(value, digits) for value in values]
    return {name: round(statistics.median(values), digits), f"{name}_runs": sorted(rounded)}


def _rate(amount: float, seconds: float, fixed_s: float) -> float:
    """Amount a second beyond a fixed cost, which must not be most of what was measured."""
    if seconds < 2 * fixed_s:
        sys.exit(f"a run took {seconds:.2f} s, {fixed_s:.2f} s of it a fixed cost: too short to measure, ask for more")
    return amount / (seconds - fixed_s)


def _misses(name: str, value: Any) -> bool:
    if name not in TARGETS:
        return False
    target, side = TARGETS[name]
    return bool(value < target) if side == "at least" else bool(value > target)


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    cpu, wall = time.process_time(), time.perf_counter()
    value = work()
    return time.process_time() - cpu, time.perf_counter() - wall, value


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="presage-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hardware() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def _commit() -> str:
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
