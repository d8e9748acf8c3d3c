#!/usr/bin/env python3
"""One GPU: Pipemark beside llm.c and PyTorch, the same model, tokens and step, in one run and one record.

    scripts/peers/gpu_single.py --llmc /path/to/train_gpt2cu [-o gpu-single.h5] [--cases gpt2-124m:32:1 ...]

A case is PRESET:BATCH:MICRO_BATCHES. Each is run by Pipemark, by llm.c (where its binary is given: built by
you with cuDNN attention) and by PyTorch (compiled, bf16 autocast, fused AdamW; each attention of
--torch-attention, the better counts). A step is data, forward, backward, clipping and AdamW. All read one
file of uint16 tokens, made from --text by words unless --tokens names one in llm.c's format.
Prints tokens/s, ratios and peak memory, and joins all runs, peers too, into the record. Pipemark runs with
PIPEMARK_DETERMINISTIC=0 (attention adds dq by atomics, as PyTorch's does; llm.c's does not).
Needs a python3 with torch (CUDA), numpy and h5py, and one GPU that nothing else uses.
"""
import argparse
import collections
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile

import h5py

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = {  # trainer/config.cpp's presets
    "gpt2-124m": dict(layers=12, channels=768, heads=12), "350m": dict(layers=24, channels=1024, heads=16),
    "774m": dict(layers=36, channels=1280, heads=20)}
WARM_UP = 5  # steps that no figure counts: tuning, compilation, first touch
STEP = re.compile(r"step\s+(\d+)/\d+ \| loss ([\d.]+).*\| ([\d.]+) ms \|")


def write_tokens(text, path):
    """Words, spaces and marks of a text, the most frequent first, behind llm.c's header."""
    with open(text, encoding="utf-8", errors="replace") as file:
        words = re.findall(r" ?[A-Za-z']+| ?\d|\s|[^\w\s]", file.read())
    rank = {word: i for i, (word, _) in enumerate(collections.Counter(words).most_common(50257))}
    tokens = [rank[word] for word in words if word in rank]
    with open(path, "wb") as file:
        file.write(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253))
        file.write(struct.pack(f"<{len(tokens)}H", *tokens))
    return len(tokens), len(rank)


def train_settings(batch, micro_batches, steps):
    return dict(steps=steps, batch=batch, micro_batches=micro_batches, learning_rate=6e-4, warmup_steps=20,
                final_learning_rate_fraction=0.1, weight_decay=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8,
                clip=1.0, seed=1)


def run(command, environment=None, timeout=580):
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False,
                            env=dict(os.environ, **(environment or {})))
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {result.returncode}:\n"
                           f"{result.stdout[-800:]}{result.stderr[-1200:]}")
    return result.stdout


def pipemark_command(args, preset, train, output):
    settings = [f'model.preset="{preset}"', f'data.train="{args.tokens}"', 'data.format="uint16"',
                "data.validation_fraction=0.0", 'device.backend="cuda"', 'schedule.name="1f1b"',
                "train.validation_batches=0"]
    settings += [f"train.{key}={value}" for key, value in train.items()]
    command = [args.pipemark, "train", args.base, "-o", output]
    for setting in settings:
        command += ["--set", setting]
    return command


def run_pipemark(args, preset, train, output, log, deterministic=False):
    command = pipemark_command(args, preset, train, output)
    with Memory() as memory:
        log.write(run(command, {"PIPEMARK_DETERMINISTIC": str(int(deterministic))}))
    with h5py.File(output, "r") as file:
        samples, arena = file["samples"][()], int(file["runs"][0]["peak_arena_bytes"])
    values = {name: [float(s["value"]) for s in samples if s["metric"] == name.encode()]
              for name in ("step_s", "loss")}
    return {"name": "pipemark", "steps_s": values["step_s"], "losses": values["loss"], "record": output,
            "peak_bytes": memory.peak_bytes,
            "settings": f"arena {arena >> 20} MiB" + (", deterministic" if deterministic else "")}


def run_llmc(args, preset, train, log, gelu):
    """Its own defaults but for what the case says: no recomputation (-r 0), GELU fused or not."""
    depth, B, M = SHAPES[preset]["layers"], train["batch"], train["micro_batches"]
    command = [args.llmc, "-i", args.tokens, "-j", args.tokens, "-e", f"gpt2:d{depth}", "-b", str(B // M), "-t",
               "1024", "-d", str(B * 1024), "-x", str(train["steps"]), "-v", "1000000", "-m", "1", "-s", "0", "-h", "0", "-r",
               "0", "-ge", str(gelu), "-l", str(train["learning_rate"]), "-c", str(train["weight_decay"]),
               "-u", str(train["warmup_steps"])]
    with Memory() as memory:
        text = run(command)
    log.write(text)
    steps = STEP.findall(text)
    if not steps:
        raise RuntimeError(f"no step times in the output of {args.llmc}: this reads the lines of May 2025")
    return {"name": "llm.c", "steps_s": [float(ms) * 1e-3 for _, _, ms in steps], "command": " ".join(command),
            "losses": [float(loss) for _, loss, _ in steps], "settings": f"cuDNN attention, -r 0 -ge {gelu}",
            "gelu": gelu,
            "peak_bytes": memory.peak_bytes}


def run_torch(args, preset, train, attention, mode):
    shape = dict(SHAPES[preset], context=1024, vocabulary=50257)
    job = dict(shape=shape, train=train, tokens=args.tokens, attention=attention, mode=mode)
    with Memory() as memory:
        text = run([sys.executable, os.path.join(HERE, "torch_gpu.py"), json.dumps(job)])
    out = json.loads(text.splitlines()[-1])
    return dict(out, name="torch", attention=attention, command="scripts/peers/torch_gpu.py", allocated_bytes=out["peak_bytes"],
                peak_bytes=memory.peak_bytes,
                settings=f"{attention} attention, {mode}, bf16 autocast, fused AdamW; {out['versions']}")


class Memory:
    """Most device memory in use meanwhile, less what was before: contexts and all, for every program."""

    def __enter__(self):
        self.process = subprocess.Popen(
            ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0", "-lms", "500"],
            stdout=subprocess.PIPE, text=True)
        self.before = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_):
        self.process.terminate()
        used = [int(line) for line in self.process.stdout.read().split() if line.isdigit()]
        self.peak_bytes = (max(used, default=self.before) - self.before) << 20


def median_of(result):
    return statistics.median(result["steps_s"][WARM_UP:])


def attempt(work):
    """A peer that does not run is told, and the others go on."""
    try:
        work()
    except (RuntimeError, subprocess.TimeoutExpired, ValueError) as failed:
        print(f"    NOT RUN: {failed}", flush=True)


def best(results):
    return min(results, key=median_of)


def show(case, ours, peers):
    preset, batch, micro_batches = case
    tokens = batch * 1024
    print(f"{preset}, batch {batch}, {micro_batches} micro-batch(es): {'median step':>20s} {'tokens/s':>10s} "
          f"{'peak MiB':>9s}  Pipemark is")
    for result in [ours] + peers:
        ratio = median_of(result) / median_of(ours)
        print(f"  {result['name']:9s} {result.get('settings', '')[:44]:44s} {median_of(result) * 1e3:9.2f} ms "
              f"{tokens / median_of(result):10.0f} {result['peak_bytes'] >> 20:9d}  "
              + ("" if result is ours else f"{ratio:.3f} x"))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pipemark", default="build/release/pipemark")
    parser.add_argument("--llmc", help="llm.c's train_gpt2cu")
    parser.add_argument("--cases", nargs="+", default=["gpt2-124m:32:1", "350m:32:1", "350m:32:4"])
    parser.add_argument("--rounds", type=int, default=2, help="of all programs in turn")
    parser.add_argument("--steps", type=int, default=30, help=f"a run; the first {WARM_UP} don't count")
    parser.add_argument("--torch-attention", nargs="*", default=["flash", "cudnn"])
    parser.add_argument("--torch-mode", default="default", help="of torch.compile, such as max-autotune-no-cudagraphs")
    parser.add_argument("--llmc-gelu", nargs="+", type=int, default=[2, 0], help="its -ge values to try")
    parser.add_argument("--deterministic", action="store_true", help="also a run with it, for each case")
    parser.add_argument("--curve", type=int, default=0, help="steps of a loss curve beside PyTorch's, first case")
    parser.add_argument("--text", default="build/data/kjv.txt")
    parser.add_argument("--tokens", help="uint16 tokens behind llm.c's header, instead of --text")
    parser.add_argument("--log", default="/dev/null")
    parser.add_argument("-o", "--output", default="gpu-single.h5")
    return parser.parse_args()


def run_case(args, case, folder, log):
    """Programs in turn, `rounds` times; each one's median run of its rounds."""
    preset, batch, micro_batches = case
    train = train_settings(batch, micro_batches, args.steps)
    name = f"{preset}-{batch}-{micro_batches}"
    ours, llmc, torches = [], [], []
    for number in range(args.rounds):
        output = os.path.join(folder, f"{name}-{number}.h5")
        ours.append(run_pipemark(args, preset, train, output, log))
        for gelu in args.llmc_gelu if args.llmc else []:
            attempt(lambda: llmc.append(run_llmc(args, preset, train, log, gelu)))
        if llmc:  # its better setting from here on
            args.llmc_gelu = [best(llmc)["gelu"]]
    for attention in args.torch_attention:
        attempt(lambda: torches.append(run_torch(args, preset, train, attention, args.torch_mode)))
    if torches:
        args.torch_attention = [best(torches)["attention"]]
    peers = ([best(llmc)] if llmc else []) + ([best(torches)] if torches else [])
    ours.sort(key=median_of)
    middle = ours[(len(ours) - 1) // 2]
    show(case, middle, peers)
    print("    all runs: " + ", ".join(f"{r['name']} {median_of(r) * 1e3:.2f}" for r in ours + llmc + torches))
    if args.deterministic:
        output = os.path.join(folder, f"{name}-deterministic.h5")
        fixed = run_pipemark(args, preset, train, output, log, deterministic=True)
        print(f"    with attention's dq in a fixed order: {median_of(fixed) * 1e3:.2f} ms, "
              f"{fixed['peak_bytes'] >> 20} MiB")
    for result in torches:
        print(f"    torch, {result['settings'][:30]}: {median_of(result) * 1e3:.2f} ms, "
              f"{result['allocated_bytes'] >> 20} MiB allocated")
        total = sum(result["classes_s"].values())
        print("    torch's kernels: " + ", ".join(
            f"{kind} {seconds * 1e3:.1f} ms ({seconds / total:.0%})"
            for kind, seconds in sorted(result["classes_s"].items(), key=lambda item: -item[1])))
    sys.stdout.flush()
    return middle, peers


def compare_curves(args, case, folder, log):
    preset, batch, micro_batches = case
    train = train_settings(batch, micro_batches, args.curve)
    output = os.path.join(folder, "curve.h5")
    ours = run_pipemark(args, preset, train, output, log)
    peer = run_torch(args, preset, train, args.torch_attention[0], "eager")
    differences = [abs(a - b) for a, b in zip(ours["losses"], peer["losses"])]
    print(f"loss curve of {preset}, {args.curve} steps, same weights and batches: "
          f"Pipemark {ours['losses'][0]:.4f} -> {ours['losses'][-1]:.4f}, "
          f"PyTorch {peer['losses'][0]:.4f} -> {peer['losses'][-1]:.4f}; "
          f"largest difference {max(differences):.4f}, mean {statistics.mean(differences):.4f}")
    return [ours["record"]] + peer_files(folder, ours, [peer], "curve")


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as folder, open(args.log, "a", encoding="utf-8") as log:
        args.base = os.path.join(folder, "base.toml")
        with open(args.base, "w", encoding="utf-8") as file:
            file.write("[model]\n")
        if args.tokens is None:
            args.tokens = os.path.join(folder, "tokens.bin")
            print("{} tokens of {} words".format(*write_tokens(args.text, args.tokens)))
        args.tokens = os.path.abspath(args.tokens)
        joined = []
        for text in args.cases:
            preset, batch, micro_batches = text.split(":")
            case = (preset, int(batch), int(micro_batches))
            ours, peers = run_case(args, case, folder, log)
            joined.append(ours["record"])
            joined += peer_files(folder, ours, peers, len(joined))
            run([args.pipemark, "join", "-o", args.output] + joined)
        if args.curve:
            preset, batch, micro_batches = args.cases[0].split(":")
            case = (preset, int(batch), int(micro_batches))
            attempt(lambda: joined.extend(compare_curves(args, case, folder, log)))
        print(run([args.pipemark, "join", "-o", args.output] + joined).strip())


def peer_files(folder, ours, peers, number):
    """What `pipemark join` reads of another program's run; model and training are those of `like`."""
    files = []
    for i, peer in enumerate(peers):
        path = os.path.join(folder, f"peer-{number}-{i}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"like": ours["record"], "program": peer["name"], "settings": peer["settings"],
                       "command": peer["command"], "step_s": peer["steps_s"], "loss": peer.get("losses", []),
                       "warm_up": WARM_UP, "device_bytes": peer["peak_bytes"]}, file)
        files.append(path)
    return files


if __name__ == "__main__":
    main()
