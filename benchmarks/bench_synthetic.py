"""Speed of the synthetic hospital, and what an encoder can learn from its pictures.

    python benchmarks/bench_synthetic.py                          studies/s and persons/s in one process
    python benchmarks/bench_synthetic.py --grid 96x96x48          the grid of the target: 20 studies/s on 2 cores
    python benchmarks/bench_synthetic.py --latents 2000           train on the latents themselves, print R2 of each

Time is CPU time of one process, so that other work on the machine does not count; wall time stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from presage_etl.synthetic.hazards import build_model
from presage_etl.synthetic.images import ImageTask, make_images, picture
from presage_etl.synthetic.parameters import Parameters, parse_grid, read_parameters
from presage_etl.synthetic.persons import draw_person
from presage_etl.synthetic.scanner import draw_acquisition, scan
from presage_etl.synthetic.shards import ShardTask, make_shard, orphan_scan
from presage_etl.synthetic.streams import Stage, stream

TARGET_STUDIES_PER_S = 20.0  # at 96 x 96 x 48 on 2 cores, DICOM included
WINDOWS = ((-1000.0, 200.0), (-1000.0, -700.0), (-150.0, 250.0), (300.0, 1300.0))


def main() -> None:
    """Run what is asked and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="64x64x32")
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--latents", type=int, default=0, help="phantoms to train on; 0 = measure speed")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    parameters = read_parameters("demo", grid=parse_grid(arguments.grid))
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "grid": arguments.grid,
    }
    if arguments.latents:
        result["r2"] = learn(parameters, arguments.latents, arguments.epochs)
    else:
        result |= speed(parameters, arguments.studies)
        result["target_studies_per_s_2_cores"] = TARGET_STUDIES_PER_S
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result, indent=1))


def speed(parameters: Parameters, number: int) -> dict[str, float]:
    """Studies and persons a second of CPU time in one process, files included."""
    folder = Path(tempfile.mkdtemp())
    try:
        scanned = [index for index in range(2 * number) if draw_person(parameters, index).scanned][:number]
        make_images(ImageTask(folder, parameters, ((scanned[0], 0),)))  # compiles
        images = _timed(lambda: make_images(ImageTask(folder, parameters, tuple((index, 0) for index in scanned))))
        model = build_model(parameters)
        records = _timed(lambda: make_shard(ShardTask(folder, parameters, model, 0, 0, number)))
    finally:
        shutil.rmtree(folder)
    return {
        "studies_per_cpu_s": round(number / images[0], 1),
        "studies_per_wall_s": round(number / images[1], 1),
        "persons_per_cpu_s": round(number / records[0], 1),
        "persons_per_wall_s": round(number / records[1], 1),
    }


def learn(parameters: Parameters, number: int, epochs: int) -> list[float]:
    """R2 of each latent on 15 % of the phantoms, by a small convolutional net trained on the others."""
    import torch
    from torch import nn

    volumes, scores = [], []
    for index in range(number):
        person = draw_person(parameters, index)
        made = draw_acquisition(parameters, index, 0, male=person.male)
        phantom = picture(parameters, person, orphan_scan(person), made)
        volume = scan(phantom, made, stream(parameters.seed, index, Stage.NOISE, 0))
        # as every recipe of training hands it over: rows to the left, slices to the head
        volumes.append(volume[::-1, :, ::-1] if made.feet_first else volume)
        scores.append(person.z)
    stack = np.stack(volumes).astype(np.float32)
    x = torch.from_numpy(np.stack([np.clip((stack - low) / (high - low), 0, 1) for low, high in WINDOWS], axis=1))
    y = torch.from_numpy(np.array(scores, dtype=np.float32))
    torch.manual_seed(0)

    def block(width_in: int, width: int, stride: tuple[int, int, int]) -> nn.Sequential:
        layer = nn.Conv3d(width_in, width, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm3d(width), nn.ReLU())

    net = nn.Sequential(
        block(4, 12, (2, 2, 2)),
        block(12, 24, (1, 2, 2)),
        block(24, 48, (2, 2, 2)),
        block(48, 64, (2, 2, 2)),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(64, y.shape[1]),
    )
    train = int(0.85 * number)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * (train // 16 + 1))
    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(train).split(16):
            loss = ((net(x[rows]) - y[rows]) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        guess = torch.cat([net(part) for part in x[train:].split(64)])
    return [round(float(r), 3) for r in 1 - ((guess - y[train:]) ** 2).mean(0) / y[train:].var(0)]


def _timed(work: Any) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
