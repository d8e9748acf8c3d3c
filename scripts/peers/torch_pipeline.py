#!/usr/bin/env python3
"""torch_pipeline.py: torch.distributed.pipelining on the model, shapes and optimizer of a Pipemark run.

    torchrun --nproc-per-node 2 scripts/peers/torch_pipeline.py --batch 32 --micro-batches 8 [--schedules 1F1B ...]

A GPT-2 (pre-LayerNorm, GELU, learned positions) of bf16 weights, compiled, with PyTorch's fused attention and
fused AdamW: its best settings. Weights and moments in bf16 are half the optimizer's bytes of Pipemark's fp32
masters, which favours PyTorch; embedding and head are not tied, which spares it a sum. Where a schedule that
splits the backward can't be compiled it runs eagerly, and the line says so. Prints one JSON line a schedule:
median step time, tokens/s, peak memory by rank.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as pp
from torch_gpu import Block  # beside this file

SINGLE = {"GPipe": pp.ScheduleGPipe, "1F1B": pp.Schedule1F1B}
MULTI = {"Interleaved1F1B": "ScheduleInterleaved1F1B", "InterleavedZeroBubble": "ScheduleInterleavedZeroBubble",
         "ZBVZeroBubble": "ScheduleZBVZeroBubble", "DualPipeV": "ScheduleDualPipeV"}
V_SHAPED = ("ZBVZeroBubble", "DualPipeV")


class Stage(nn.Module):
    """Blocks of one stage, with the embedding in the first and the head in the last."""

    def __init__(self, args, blocks, first, last):
        super().__init__()
        self.first, self.last = first, last
        if first:
            self.wte = nn.Embedding(args.vocabulary, args.channels)
            self.wpe = nn.Embedding(args.context, args.channels)
        self.blocks = nn.ModuleList(Block(args.channels, args.heads) for _ in range(blocks))
        if last:
            self.norm = nn.LayerNorm(args.channels)
            self.head = nn.Linear(args.channels, args.vocabulary, bias=False)

    def forward(self, x):
        if self.first:
            x = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) if self.last else x


def loss_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def build(args, name, device, compiled):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    per_rank = 1 if name in SINGLE else 2
    total = ranks * per_rank
    if name in SINGLE:
        mine = [rank]
    elif name in V_SHAPED:
        mine = [rank, total - 1 - rank]
    else:
        mine = [rank, rank + ranks]
    tokens = torch.zeros(args.batch // args.micro_batches, args.context, dtype=torch.long, device=device)
    hidden = torch.zeros(*tokens.shape, args.channels, dtype=torch.bfloat16, device=device)
    logits = torch.zeros(*tokens.shape, args.vocabulary, dtype=torch.bfloat16, device="meta")
    stages = []
    for s in mine:
        blocks = args.layers // total + (1 if s < args.layers % total else 0)
        module = Stage(args, blocks, s == 0, s == total - 1).to(device, torch.bfloat16)
        module = torch.compile(module) if compiled else module
        inputs = tokens if s == 0 else hidden
        outputs = logits.to(device) if s == total - 1 else hidden
        stages.append(PipelineStage(module, s, total, device, input_args=(inputs,), output_args=(outputs,)))
    if name in SINGLE:
        schedule = SINGLE[name](stages[0], args.micro_batches, loss_fn=loss_of)
    else:
        schedule = getattr(pp, MULTI[name])(stages, args.micro_batches, loss_fn=loss_of)
    return stages, schedule, 0 in mine, total - 1 in mine


def run(args, name, device, compiled):
    stages, schedule, first, last = build(args, name, device, compiled)
    parameters = [p for stage in stages for p in stage.submod.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, fused=True)
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(args.vocabulary, (args.batch, args.context + 1), generator=generator).to(device)
    tokens, targets = data[:, :-1].contiguous(), data[:, 1:].contiguous()
    times = []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(args.warm_up + args.steps):
        dist.barrier()
        torch.cuda.synchronize()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        keywords = {"target": targets, "losses": []} if last else {}
        schedule.step(*([tokens] if first else []), **keywords)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        torch.cuda.synchronize()
        slowest = torch.tensor([time.perf_counter() - start], device=device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        times.append(slowest.item())
    median = statistics.median(times[args.warm_up:])
    memory = torch.tensor([torch.cuda.max_memory_allocated()], device=device)
    dist.all_reduce(memory, op=dist.ReduceOp.MAX)
    return {"peer": "torch.distributed.pipelining", "torch": torch.__version__, "schedule": name,
            "ranks": dist.get_world_size(), "batch": args.batch, "micro_batches": args.micro_batches,
            "compiled": compiled, "median_step_s": median, "tokens_per_s": args.batch * args.context / median,
            "peak_bytes": memory.item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 24), ("channels", 1024), ("heads", 16), ("context", 1024),
                        ("vocabulary", 50304), ("batch", 32), ("micro-batches", 8), ("steps", 8), ("warm-up", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--schedules", nargs="+", default=list(SINGLE) + list(MULTI))
    args = parser.parse_args()
    dist.init_process_group("nccl")
    device = torch.device("cuda", dist.get_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")
    for name in args.schedules:
        for compiled in (True, False):
            result = None
            try:
                result = run(args, name, device, compiled)
            except Exception as error:  # the next way is tried; the line tells what failed
                result = {"peer": "torch.distributed.pipelining", "schedule": name, "compiled": compiled,
                          "failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            torch.cuda.empty_cache()
            if dist.get_rank() == 0:
                print(json.dumps(result), flush=True)
            if "failed" not in result:
                break
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
