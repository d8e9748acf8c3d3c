#!/usr/bin/env python3
"""PyTorch's side of gpu_single.py: one process, one model shape, compiled, bf16, fused AdamW.

Prints one JSON line: step times by device events, peak memory, versions, and, with "curve", the loss of
each step from Pipemark's own initial weights and batches. The vocabulary is padded as the others pad it.
In the timed steps the padding takes part in the softmax, which is the fastest form; in the curve it does
not, and the model runs uncompiled.
"""
import argparse
import json
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

MASK, GAMMA = (1 << 64) - 1, 0x9E3779B97F4A7C15
BATCH_STREAM = 1 << 32
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key_of(seed, stream):
    return mix(mix((seed + GAMMA) & MASK) ^ mix((stream * GAMMA + 1) & MASK))


def normals(seed, stream, count, deviation):
    """trainer/random.hpp's normal numbers, many at a time."""
    pairs = (count + 1) // 2
    with np.errstate(over="ignore"):
        z = np.uint64(key_of(seed, stream)) + (np.arange(2 * pairs, dtype=np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    uniform = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform[0::2])) * deviation
    angle = 2.0 * math.pi * uniform[1::2]
    values = np.empty(2 * pairs)
    values[0::2], values[1::2] = radius * np.cos(angle), radius * np.sin(angle)
    return values[:count].astype(np.float32)


class Block(nn.Module):
    def __init__(self, C, H):
        super().__init__()
        self.H = H
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.projection = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.expand, self.contract = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(a.transpose(1, 2).reshape(B, T, C))
        return x + self.contract(F.gelu(self.expand(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, shape):
        super().__init__()
        C = shape["channels"]
        self.columns = padded = (shape["vocabulary"] + 127) // 128 * 128
        self.token, self.position = nn.Embedding(padded, C), nn.Embedding(shape["context"], C)
        self.blocks = nn.ModuleList(Block(C, shape["heads"]) for _ in range(shape["layers"]))
        self.norm = nn.LayerNorm(C)

    def forward(self, tokens, targets):
        x = self.token(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.token.weight)[..., :self.columns]
        return F.cross_entropy(logits.reshape(-1, self.columns), targets.reshape(-1))


def parameters_in_order(model):
    """Pipemark's order of tensors (trainer/parameters.cpp), for their streams of random numbers."""
    yield model.token.weight
    yield model.position.weight
    for b in model.blocks:
        for module in (b.norm1, b.qkv, b.projection, b.norm2, b.expand, b.contract):
            yield module.weight
            yield module.bias
    yield model.norm.weight
    yield model.norm.bias


@torch.no_grad()
def initialise(model, shape, seed):
    residual = 0.02 / math.sqrt(2 * shape["layers"])
    small = {id(b.projection.weight) for b in model.blocks} | {id(b.contract.weight) for b in model.blocks}
    for stream, parameter in enumerate(parameters_in_order(model)):
        if parameter.dim() == 1:
            continue  # biases and norms below
        rows = shape["vocabulary"] if parameter is model.token.weight else parameter.shape[0]
        deviation = residual if id(parameter) in small else 0.02
        values = normals(seed, stream, rows * parameter.shape[1], deviation)
        parameter.zero_()
        parameter[:rows] = torch.from_numpy(values).view(rows, -1).to(parameter.device)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, nn.Linear):
            module.bias.zero_()


class Batches:
    """trainer/data.cpp's training batches of a token file with a header of 256 int32."""

    def __init__(self, path, shape, train):
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r", offset=1024)
        self.T, self.batch = shape["context"], train["batch"]
        self.key = key_of(train["seed"], BATCH_STREAM)
        self.training = len(self.tokens)  # validation_fraction = 0

    def of(self, step):
        rows = []
        for i in range(self.batch):
            bits = mix((self.key + (step * self.batch + i + 1) * GAMMA) & MASK)
            start = (bits * (self.training - self.T)) >> 64
            rows.append(self.tokens[start:start + self.T + 1])
        window = torch.from_numpy(np.stack(rows).astype(np.int64)).pin_memory().cuda(non_blocking=True)
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()


def learning_rate(train, step):
    if step <= train["warmup_steps"]:
        return train["learning_rate"] * step / train["warmup_steps"]
    progress = min(1.0, (step - train["warmup_steps"]) / max(1, train["steps"] - train["warmup_steps"]))
    low = train["final_learning_rate_fraction"]
    return train["learning_rate"] * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


class Trainer:
    def __init__(self, shape, train, attention, mode):
        torch.set_float32_matmul_precision("high")
        self.train, self.shape = train, shape
        self.model = GPT(shape).cuda()
        decay = [p for p in self.model.parameters() if p.dim() == 2]
        plain = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [dict(params=decay, weight_decay=train["weight_decay"]), dict(params=plain, weight_decay=0.0)],
            lr=train["learning_rate"], betas=(train["beta1"], train["beta2"]), eps=train["epsilon"], fused=True)
        self.compiled = self.model if mode == "eager" else torch.compile(
            self.model, mode=None if mode == "default" else mode, dynamic=False)
        self.attention = BACKENDS[attention]

    def step(self, number, tokens, targets):
        """Leaves the loss on the device: nothing here waits for it."""
        M = self.train["micro_batches"]
        loss_sum = torch.zeros((), device="cuda")
        for t, g in zip(tokens.chunk(M), targets.chunk(M)):
            with torch.autocast("cuda", dtype=torch.bfloat16), sdpa_kernel(self.attention):
                loss = self.compiled(t, g) / M
            loss.backward()
            loss_sum += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train["clip"], foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.train, number + 1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss_sum


def timed(trainer, batches, steps):
    """Seconds of each step, from event to event: the gap to the next one's launch is in it; and losses."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    losses = torch.zeros(steps, device="cuda")
    marks[0].record()
    for step in range(steps):
        losses[step] = trainer.step(step, *batches.of(step))
        marks[step + 1].record()
    torch.cuda.synchronize()
    return [marks[i].elapsed_time(marks[i + 1]) * 1e-3 for i in range(steps)], losses.tolist()


def table(trainer, batches):
    """Device time of one step by class of kernel, from torch's profiler, in seconds."""
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        trainer.step(0, *batches.of(0))
        torch.cuda.synchronize()
    classes = {}
    for event in trace.key_averages():
        name, seconds = event.key.lower(), event.device_time_total * 1e-6
        kind = ("matrix products" if any(w in name for w in ("gemm", "nvjet", "cutlass_80", "cublas"))
                else "attention" if any(w in name for w in ("flash", "cudnn", "fmha", "sdpa"))
                else "optimizer" if any(w in name for w in ("adam", "multi_tensor", "foreach"))
                else "softmax, loss" if "softmax" in name or "nll" in name
                else "norm, pointwise" if "triton" in name else "copies, other")
        classes[kind] = classes.get(kind, 0.0) + seconds
    return classes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="JSON: shape, train, tokens, attention, mode (eager: a loss curve)")
    job = json.loads(parser.parse_args().job)
    shape, train = job["shape"], job["train"]
    curve = job["mode"] == "eager"
    trainer = Trainer(shape, train, job["attention"], job["mode"])
    batches = Batches(job["tokens"], shape, train)
    if curve:
        trainer.model.columns = shape["vocabulary"]
        initialise(trainer.model, shape, train["seed"])
    else:
        timed(trainer, batches, 6)  # compiles
    torch.cuda.reset_peak_memory_stats()
    seconds, losses = timed(trainer, batches, train["steps"])
    result = {"steps_s": seconds, "losses": losses if curve else [],
              "peak_bytes": torch.cuda.max_memory_allocated(),
              "classes_s": {} if curve else table(trainer, batches),
              "versions": f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
