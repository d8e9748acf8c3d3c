#!/usr/bin/env python3
"""Plans of DeepSeek's expert balancer, from the user's own copy of it (github.com/deepseek-ai/EPLB).

    eplb_plans.py EPLB_FOLDER                     writes tests/golden/eplb/plans.json
    eplb_plans.py EPLB_FOLDER --against PIPEMARK  compares random inputs with `pipemark balance experts`

Needs PyTorch, on the host. Ties are kept on purpose: many loads are small whole numbers, tenths (whose
sums round) or zero.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
README_LOADS = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
                [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
LOADS = {
    "few values": lambda shape, rng: torch.randint(0, 4, shape, generator=rng).float(),
    "whole": lambda shape, rng: torch.randint(0, 1000, shape, generator=rng).float(),
    "uniform": lambda shape, rng: torch.rand(shape, generator=rng),
    "skewed": lambda shape, rng: torch.exp(4 * torch.randn(shape, generator=rng)),
    "tenths": lambda shape, rng: (torch.rand(shape, generator=rng) * 8).round() / 10,
    "zero": lambda shape, rng: torch.zeros(shape),
}


def random_grid(rng, largest):
    """Layers, experts, replicas, groups, nodes, GPUs that the published code accepts."""
    while True:
        nodes = rng.choice([1, 1, 2, 2, 3, 4, 8])
        gpus = nodes * rng.choice([1, 2, 3, 4, 8])
        groups = rng.choice([1, 2, 3, 4, 6, 8, 12, 16])
        experts = groups * rng.choice([1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 20, 32, 33, 40, 64, 100])
        replicas = -(-experts // gpus) * gpus + gpus * rng.choice([0, 0, 1, 1, 2, 3])
        if experts <= largest and replicas <= 2 * largest:
            return rng.choice([1, 1, 2, 3]), experts, replicas, groups, nodes, gpus


def random_case(rng, largest):
    layers, experts, *grid = random_grid(rng, largest)
    kind = rng.choice(list(LOADS))
    torch_rng = torch.Generator().manual_seed(rng.randrange(1 << 30))
    return LOADS[kind]((layers, experts), torch_rng), grid


def plan(eplb, loads, grid):
    phy2log, log2phy, counts = eplb.rebalance_experts(loads, *grid)
    return {"phy2log": phy2log.tolist(), "log2phy": log2phy.tolist(), "counts": counts.tolist()}


def write_golden(eplb, path):
    rng = random.Random(7)
    cases = [(torch.tensor(README_LOADS), [16, 4, 2, 8])]
    cases += [random_case(rng, 48) for _ in range(40)]
    rows = [json.dumps({"loads": loads.tolist(), "grid": grid, **plan(eplb, loads, grid)},
                       separators=(",", ":")) for loads, grid in cases]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")
    print(f"wrote {len(cases)} plans to {path}")


def compare(eplb, pipemark, count, seed):
    rng = random.Random(seed)
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "loads.json"
        for _ in range(count):
            loads, grid = random_case(rng, 1000)
            file.write_text(json.dumps(loads.tolist()))
            options = [f"--{name}={value}" for name, value in zip(("replicas", "groups", "nodes", "gpus"), grid)]
            out = subprocess.run([pipemark, "balance", "experts", file, *options, "--format", "json"],
                                 check=True, capture_output=True, text=True).stdout
            ours, theirs = json.loads(out), plan(eplb, loads, grid)
            if any(ours[key] != theirs[key] for key in theirs):
                differ += 1
                print(f"differs: {tuple(loads.shape)} {options}")
    print(f"{count} random inputs compared with PyTorch {torch.__version__}, {differ} plans differ")
    return differ


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("eplb", type=pathlib.Path, help="folder that holds eplb.py")
    parser.add_argument("--against", help="path of the pipemark binary")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.eplb))
    import eplb
    torch.set_num_threads(1)
    if arguments.against:
        sys.exit(compare(eplb, arguments.against, arguments.cases, arguments.seed) > 0)
    write_golden(eplb, ROOT / "tests/golden/eplb/plans.json")


if __name__ == "__main__":
    main()
