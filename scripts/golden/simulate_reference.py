#!/usr/bin/env python3
"""Makespans and bubbles of schedules by an independent simulation, for the tests.

    scripts/golden/simulate_reference.py ROWS.json GOLDEN.json

ROWS.json holds cases: name, P, M, S, rank (of each (replica, stage)), cost of a stage [F, I, W] by
(rank, stage), message time by (rank, rank), overlap, and rows of text actions with the replica of
each micro-batch. Events are taken from a heap in the order of time, one action at a time, with every
input looked up by name: nothing here is shared with the C++ simulator, which walks ranks.
"""
import heapq
import json
import re
import sys


def halves(token):
    return [(int(s), k, int(m)) for s, k, m in re.findall(r"(\d+)([FBIW])(\d+)", token)]


def simulate(case):
    P, S = case["P"], case["S"]
    replica_of = case["replica"]
    rank_of = lambda replica, stage: case["rank"][replica * S + stage]
    rows = [[halves(token) for token in row.split()] for row in case["rows"]]
    done = {}                      # (stage, "F" or "B", micro-batch) -> end
    position, now = [0] * P, [0.0] * P
    first, busy = [None] * P, [0.0] * P

    def inputs(stage, kind, m):
        """(key, sending stage or None) of what must be there."""
        if kind == "F":
            return [((stage - 1, "F", m), stage - 1)] if stage else []
        if kind == "W":
            return [((stage, "B", m), None)]
        own = [((stage, "F", m), None)]
        return own + ([((stage + 1, "B", m), stage + 1)] if stage + 1 < S else [])

    def start_of(rank):
        """When the next action of a rank can start; None while an input is not there."""
        start = now[rank]
        for stage, kind, m in rows[rank][position[rank]]:
            for key, sender in inputs(stage, kind, m):
                if key not in done:
                    return None
                lag = 0.0
                if sender is not None:
                    source = rank_of(replica_of[m], sender)
                    lag = case["message"][source][rank] if source != rank else 0.0
                start = max(start, done[key] + lag)
        return start

    events = []
    queued = [False] * P

    def offer(rank):
        if not queued[rank] and position[rank] < len(rows[rank]):
            start = start_of(rank)
            if start is not None:
                queued[rank] = True
                heapq.heappush(events, (start, rank))

    for rank in range(P):
        offer(rank)
    while events:
        start, rank = heapq.heappop(events)
        queued[rank] = False
        action = rows[rank][position[rank]]
        time = 0.0
        for stage, kind, m in action:
            f, i, w = case["cost"][rank][stage]
            time += {"F": f, "I": i, "W": w, "B": i + w}[kind]
        if len(action) == 2:
            time *= case["overlap"]
        end = start + time
        for stage, kind, m in action:
            if kind != "W":
                done[(stage, "F" if kind == "F" else "B", m)] = end
        first[rank] = start if first[rank] is None else first[rank]
        now[rank], busy[rank] = end, busy[rank] + time
        position[rank] += 1
        for other in range(P):
            offer(other)
    assert all(position[r] == len(rows[r]) for r in range(P)), case["name"]
    used = [r for r in range(P) if first[r] is not None]
    makespan = max(now[r] for r in used) - min(first[r] for r in used)
    longest = max(used, key=lambda r: now[r] - first[r])
    span = now[longest] - first[longest]
    return {"makespan": makespan, "bubble_ratio": 1 - sum(busy) / (P * makespan),
            "span_bubble_rate": (span - busy[longest]) / span}


def main():
    cases = json.load(open(sys.argv[1]))
    out = [dict({k: case[k] for k in ("name", "P", "M", "chunks", "costs")}, **simulate(case))
           for case in cases]
    with open(sys.argv[2], "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in out) + "\n]\n")


if __name__ == "__main__":
    main()
