#!/usr/bin/env python3
"""CPU training throughput of Pipemark beside PyTorch, in one run, rounds of the two in turn.

One rank against one thread; two ranks (data 2, and pipeline 2) against two threads. The model is
GPT-2 style, L4 C256 H8 T128 V256, batch 16, fp32, tied; a step is forward + backward + AdamW. PyTorch
is given the better of eager and torch.compile, scaled_dot_product_attention and fused AdamW.

    scripts/peers/torch_cpu.py [--pipemark build/release/pipemark] [--rounds 3] [--steps 30]

Needs a python3 with torch and h5py. Prints, for each, the median step, model GFLOP/s (6N + 6LCT a
token) and the ratio of medians, round by round.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

L, C, H, T, V, B = 4, 256, 8, 128, 256, 16


def flops_per_step():
    blocks = L * (12 * C * C + 13 * C) + 2 * C
    parameters = blocks + V * C + T * C
    # The same count as ModelConfig::flops_per_token: every parameter that is multiplied by, attention
    # causal.
    return B * T * (6 * (blocks + V * C) + 6 * L * C * T)


def torch_worker(threads, mode, steps):
    """Runs in a process of its own, so that thread counts and compilation don't leak."""
    import time

    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.fc, self.out = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

        def forward(self, x):
            b, t, c = x.shape
            q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, H, c // H).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(a.transpose(1, 2).reshape(b, t, c))
            return x + self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
            self.blocks = nn.ModuleList(Block() for _ in range(L))
            self.ln = nn.LayerNorm(C)

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe.weight
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.ln(x), self.wte.weight)
            return F.cross_entropy(logits.view(-1, V), targets.view(-1))

    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    step_model = torch.compile(model) if mode == "compiled" else model
    tokens = torch.randint(V, (B, T))
    targets = torch.randint(V, (B, T))
    times = []
    for step in range(steps + 3):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        step_model(tokens, targets).backward()
        optimizer.step()
        if step >= 3:
            times.append(time.perf_counter() - start)
    print(json.dumps({"median_s": statistics.median(times)}))


def run_torch(threads, mode, steps):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    out = subprocess.run(
        [sys.executable, __file__, "--torch-worker", str(threads), mode, "--steps", str(steps)],
        check=True, capture_output=True, text=True, env=environment, timeout=900).stdout
    return json.loads(out.splitlines()[-1])["median_s"]


CONFIG = """
[model]
layers = {L}
channels = {C}
heads = {H}
context = {T}
vocabulary = {V}
[data]
train = "{text}"
format = "bytes"
[train]
steps = {steps}
batch = {B}
micro_batches = {micro_batches}
learning_rate = 3e-4
warmup_steps = 3
validation_batches = 0
[parallel]
pipeline = {pipeline}
data = {data}
[schedule]
name = "{schedule}"
[balancer]
name = "{balancer}"
[device]
backend = "kokkos"
[output]
file = "{output}"
"""


def run_pipemark(binary, folder, text, pipeline, data, micro_batches, schedule, steps):
    import h5py

    output = os.path.join(folder, f"p{pipeline}d{data}.h5")
    config = os.path.join(folder, "config.toml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(
            L=L, C=C, H=H, T=T, V=V, B=B, text=text, steps=steps + 3, micro_batches=micro_batches,
            pipeline=pipeline, data=data, schedule=schedule, output=output,
            balancer="static-cost" if pipeline > 1 else "static-even"))
    if os.path.exists(output):
        os.remove(output)
    launcher = os.path.join(os.path.dirname(__file__), "..", "mpirun-local")
    result = subprocess.run([launcher, str(pipeline * data), binary, "train", config],
                            capture_output=True, text=True, timeout=900, check=False)
    if result.returncode != 0:
        sys.exit(f"pipemark failed ({result.returncode}):\n{result.stdout}{result.stderr}")
    with h5py.File(output, "r") as file:
        samples = file["samples"][()]
        steps_s = [float(s["value"]) for s in samples if s["metric"] == b"step_s" and s["step"] >= 3]
    return statistics.median(steps_s)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pipemark", default="build/release/pipemark")
    parser.add_argument("--text", default="build/data/kjv.txt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--schedule", default="zb-h1", help="of the pipeline of two")
    parser.add_argument("--micro-batches", type=int, default=8, help="of the pipeline of two")
    parser.add_argument("--torch-worker", nargs=2, metavar=("THREADS", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_worker:
        torch_worker(int(arguments.torch_worker[0]), arguments.torch_worker[1], arguments.steps)
        return

    gflop = flops_per_step() / 1e9
    text = os.path.abspath(arguments.text)
    ours = {  # name -> (threads or ranks, pipeline, data, micro-batches, schedule)
        "pipemark, 1 rank": (1, 1, 1, 1, "1f1b"),
        "pipemark, data 2": (2, 1, 2, 1, "1f1b"),
        f"pipemark, pipeline 2 ({arguments.schedule}, M {arguments.micro_batches})":
            (2, 2, 1, arguments.micro_batches, arguments.schedule),
    }
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for threads in (1, 2):
                for mode in ("eager", "compiled"):
                    times.setdefault((threads, f"torch {mode}, {threads} thread(s)"), []).append(
                        run_torch(threads, mode, arguments.steps))
                for name, (ranks, pipeline, data, m, schedule) in ours.items():
                    if ranks == threads:
                        times.setdefault((threads, name), []).append(run_pipemark(
                            arguments.pipemark, folder, text, pipeline, data, m, schedule,
                            arguments.steps))
    print(f"L{L} C{C} H{H} T{T} V{V} B{B} fp32, {gflop:.1f} GFLOP a step, {arguments.rounds} rounds, measured")
    print(f"{'':48s} {'median step':>12s} {'GFLOP/s':>8s}  x best PyTorch, by round")
    for threads in (1, 2):
        torch_rows = [v for (n, name), v in times.items() if n == threads and name.startswith("torch")]
        best = [min(row[i] for row in torch_rows) for i in range(arguments.rounds)]
        for (n, name), row in times.items():
            if n != threads:
                continue
            ratios = " ".join(f"{b / t:.2f}" for b, t in zip(best, row))
            median = statistics.median(row)
            print(f"{name:48s} {median * 1e3:9.1f} ms {gflop / median:8.1f}  {ratios}")


if __name__ == "__main__":
    main()
