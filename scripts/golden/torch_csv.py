#!/usr/bin/env python3
"""Schedules of torch.distributed.pipelining as CSV files, and Pipemark's judged by torch.

    scripts/golden/torch_csv.py make FOLDER        the goldens of tests/golden/torch_csv
    scripts/golden/torch_csv.py accept PIPEMARK    torch's loader takes what `pipemark schedule --show csv` writes
    scripts/golden/torch_csv.py survey PIPEMARK    every torch schedule at many sizes: torch's verdict beside
                                                   Pipemark's, makespan and bubbles against a second simulation

Needs PyTorch; exit code 77 (skipped, loudly) without it. The second simulation is simulate_reference.py,
which shares nothing with the C++ one.
"""
import csv
import json
import os
import subprocess
import sys
import tempfile
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import simulate_reference  # noqa: E402

try:
    import torch
    import torch.distributed.pipelining.schedules as torch_schedules
except ImportError as missing:
    print(f"SKIPPED: {missing}; PyTorch is needed", file=sys.stderr)
    sys.exit(77)

SINGLE = {"GPipe": torch_schedules.ScheduleGPipe, "1F1B": torch_schedules.Schedule1F1B}
MULTI = {
    "Interleaved1F1B": torch_schedules.ScheduleInterleaved1F1B,
    "LoopedBFS": torch_schedules.ScheduleLoopedBFS,
    "InterleavedZeroBubble": torch_schedules.ScheduleInterleavedZeroBubble,
    "ZBVZeroBubble": torch_schedules.ScheduleZBVZeroBubble,
    "DualPipeV": torch_schedules.ScheduleDualPipeV,
}
V_SHAPED = ("ZBVZeroBubble", "DualPipeV")
# The catalogue's schedules that have one rank a stage: torch's loader knows no second replica.
OURS = ("gpipe", "1f1b", "interleaved-1f1b", "breadth-first", "zb-h1", "zb-h2", "zb-v", "v-half", "v-min",
        "hanayo", "dualpipev", "zb-auto")


class Stage(types.SimpleNamespace):
    """What a schedule's constructor reads of a stage."""

    def __init__(self, ranks, stages, index=0):
        super().__init__(num_stages=stages, group_size=ranks, group_rank=0, stage_index=index, group=None,
                         is_first=index == 0, is_last=index + 1 == stages, has_backward=True,
                         device=torch.device("cpu"), submod=torch.nn.Identity(), stage_index_to_group_rank=None)


def runtime(ranks, stages, micro_batches):
    """torch's interpreter of schedules, with nothing loaded yet."""
    held = [Stage(ranks, stages, s) for s in range(0, stages, ranks)]
    made = torch_schedules._PipelineScheduleRuntime(held, n_microbatches=micro_batches,
                                                    loss_fn=torch.nn.functional.mse_loss)
    made.pipeline_order = {}
    return made


def make(name, ranks, micro_batches, chunks=1):
    """(compute-only order, order with communication) by torch."""
    loss = torch.nn.functional.mse_loss
    if name in SINGLE:
        schedule = SINGLE[name](Stage(ranks, ranks), n_microbatches=micro_batches, loss_fn=loss)
        order = schedule._get_pipeline_order()
        return order, lowered(order, ranks, ranks, micro_batches)
    if name in V_SHAPED:
        chunks = 2
    stages = ranks * chunks
    held = [Stage(ranks, stages, s) for s in ([0, stages - 1] if name in V_SHAPED
                                             else range(0, stages, ranks))]
    schedule = MULTI[name](held, n_microbatches=micro_batches, loss_fn=loss)
    return schedule.pipeline_order, schedule.pipeline_order_with_comms


def computation(order):
    """The cells of an order that compute."""
    return {rank: [a for a in row if a is not None and a.is_compute_op] for rank, row in order.items()}


def lowered(order, ranks, stages, micro_batches):
    """torch's communication added to a compute-only order; None where torch refuses it."""
    try:
        made = runtime(ranks, stages, micro_batches)
        made.pipeline_order = computation(order)
        made._validate_and_set_stage_mapping(made.pipeline_order)
        made._prepare_schedule_with_comms(made.pipeline_order)
        return made.pipeline_order_with_comms
    except (AssertionError, ValueError, KeyError) as refused:
        print(f"torch: {str(refused).splitlines()[0]}", file=sys.stderr)
        return None


def write(order, path):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(order.values())


def accepts(path, ranks, stages, micro_batches, form):
    """Empty where torch's loader takes the file, else its reason."""
    try:
        runtime(ranks, stages, micro_batches)._load_csv(path, format=form)
        return ""
    except Exception as refused:  # whatever it is, torch does not take the file
        return f"{type(refused).__name__}: {str(refused).splitlines()[0] if str(refused) else ''}"


def uneven_cost(ranks, stages):
    """As tests/schedules/requests.hpp has it."""
    cost = [[[1 + 0.1 * ((r * 7 + s * 3) % 5), 1.1 + 0.05 * ((r * 3 + s) % 7), 0.8 + 0.07 * ((r + s * 5) % 4)]
             for s in range(stages)] for r in range(ranks)]
    message = [[0 if to == r else 0.1 + 0.03 * ((r * 5 + to) % 3) for to in range(ranks)] for r in range(ranks)]
    return cost, message


def case_of(name, order, micro_batches, cost, message, overlap):
    """The input of simulate_reference for an order."""
    order = computation(order)
    leaves = [(rank, leaf) for rank, row in order.items() for a in row for leaf in (a.sub_actions or (a,))]
    stages = max(leaf.stage_index for _, leaf in leaves) + 1
    rank_of = [None] * stages
    for rank, leaf in leaves:
        rank_of[leaf.stage_index] = rank
    text = lambda a: str(a).removesuffix("OVERLAP_F_B")
    return {"name": name, "P": len(order), "S": stages, "rank": rank_of, "replica": [0] * micro_batches,
            "rows": [" ".join(text(a) for a in order[rank]) for rank in range(len(order))],
            "cost": cost, "message": message, "overlap": overlap}


def goldens(folder):
    """Two sizes of each schedule in both forms, with the expected figures in index.json."""
    os.makedirs(folder, exist_ok=True)
    index = []
    cases = [("GPipe", 4, 8, 1), ("GPipe", 3, 5, 1), ("1F1B", 4, 8, 1), ("1F1B", 3, 5, 1),
             ("Interleaved1F1B", 4, 8, 2), ("Interleaved1F1B", 2, 6, 3), ("LoopedBFS", 4, 8, 2),
             ("LoopedBFS", 2, 5, 3), ("InterleavedZeroBubble", 4, 8, 2), ("InterleavedZeroBubble", 2, 4, 3),
             ("ZBVZeroBubble", 4, 8, 2), ("ZBVZeroBubble", 3, 7, 2), ("DualPipeV", 4, 10, 2),
             ("DualPipeV", 2, 5, 2)]
    for name, ranks, micro_batches, chunks in cases:
        compute, comms = make(name, ranks, micro_batches, chunks)
        stages = ranks * chunks
        for form, order in (("compute_only", compute), ("compute_comms", comms)):
            if order is None:
                continue
            file = f"{name}_{ranks}_{micro_batches}_{chunks}_{form}.csv"
            write(order, os.path.join(folder, file))
            # Its own single-stage orders carry REDUCE_GRAD, which torch's loader takes in compute_comms only.
            bare = os.path.join(tempfile.gettempdir(), file)
            write(computation(order) if form == "compute_only" else order, bare)
            refused = accepts(bare, ranks, stages, micro_batches, form)
            row = {"file": file, "ranks": ranks, "micro_batches": micro_batches, "stages": stages,
                   "torch": refused or "accepted"}
            if not refused:
                cost, message = uneven_cost(ranks, stages)
                row.update(simulate_reference.simulate(
                    case_of(file, order, micro_batches, cost, message, 0.9)))
            index.append(row)
    with open(os.path.join(folder, "index.json"), "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(row) for row in index) + "\n]\n")


def accept(pipemark):
    failures = 0
    for name in OURS:
        for ranks, micro_batches in ((4, 8), (4, 11), (3, 7), (8, 16), (2, 4)):
            arguments = [pipemark, "schedule", name, "--ranks", str(ranks), "--micro-batches",
                         str(micro_batches), "--show", "csv"]
            made = subprocess.run(arguments, capture_output=True, text=True)
            if made.returncode == 2:  # not at this size
                continue
            path = os.path.join(tempfile.gettempdir(), f"pipemark_{name}.csv")
            with open(path, "w", newline="") as file:
                file.write(made.stdout)
            stages = 1 + max(int(leaf.stage_index) for row in csv.reader(made.stdout.splitlines())
                             for a in map(torch_schedules._Action.from_str, row)
                             for leaf in (a.sub_actions or (a,)))
            refused = accepts(path, ranks, stages, micro_batches, "compute_only")
            print(f"{name} P{ranks} M{micro_batches}: {refused or 'accepted'}")
            failures += refused != ""
    print(f"{failures} refused")
    return failures > 0


def survey(pipemark):
    """Every torch schedule at many sizes, in both forms. Where torch takes one, Pipemark must simulate it as
    the second simulation does; where torch refuses one, Pipemark must name a fault."""
    wrong = checked = faulty = 0
    path = os.path.join(tempfile.gettempdir(), "survey.csv")
    for name in list(SINGLE) + list(MULTI):
        for ranks in (1, 2, 3, 4, 5, 8):
            for micro_batches in (1, 2, 3, 4, 5, 8, 12, 16, 20):
                for chunks in ((1,) if name in SINGLE else (2,) if name in V_SHAPED else (1, 2, 3)):
                    try:
                        orders = make(name, ranks, micro_batches, chunks)
                    except (AssertionError, ValueError, KeyError, IndexError, ZeroDivisionError):
                        continue  # torch makes none at this size
                    for form, order in zip(("compute_only", "compute_comms"), orders):
                        if order is None:
                            continue
                        what = f"{name} P{ranks} M{micro_batches} chunks {chunks} {form}"
                        write(order, path)
                        bare = path + ".bare.csv"
                        write(computation(order) if form == "compute_only" else order, bare)
                        refused = accepts(bare, ranks, ranks * chunks, micro_batches, form)
                        ours = subprocess.run(
                            [pipemark, "simulate", "--schedule", path, "--time-forward", "1.1", "--time-input-grad",
                             "0.9", "--time-weight-grad", "0.7", "--time-comm", "0.13", "--format", "json"],
                            capture_output=True, text=True)
                        checked += 1
                        if refused:
                            faulty += 1
                            print(f"{what}: torch refuses ({refused[:90]}); ours: {ours.stderr.splitlines()[:1]}")
                            wrong += ours.returncode != 1
                            continue
                        if ours.returncode != 0:
                            print(f"{what}: torch accepts; ours exits {ours.returncode}: {ours.stderr}")
                            faulty += 1
                            continue
                        stage = [t / chunks for t in (1.1, 0.9, 0.7)]
                        cost = [[stage] * (ranks * chunks)] * ranks
                        message = [[0 if a == b else 0.13 for b in range(ranks)] for a in range(ranks)]
                        expected = simulate_reference.simulate(
                            case_of(what, order, micro_batches, cost, message, 1))
                        got = json.loads(ours.stdout)
                        for key, value in expected.items():
                            if abs(got[key] - value) > 1e-6:
                                print(f"{what}: {key} is {got[key]}, the second simulation has {value}")
                                wrong += 1
    print(f"{checked} files, {faulty} faulty, {wrong} wrong")
    return wrong > 0


def main():
    verbs = {"make": goldens, "accept": accept, "survey": survey}
    if len(sys.argv) != 3 or sys.argv[1] not in verbs:
        print(__doc__, file=sys.stderr)
        return 2
    return int(bool(verbs[sys.argv[1]](sys.argv[2])))


if __name__ == "__main__":
    sys.exit(main())
