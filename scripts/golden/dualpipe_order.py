#!/usr/bin/env python3
"""Writes DualPipe's and DualPipeV's order, rank by rank, from the published phases.

    scripts/golden/dualpipe_order.py tests/golden/dualpipe

Independent of the C++ generator: a rank is a script of phases in DeepSeek's own terms (phase 0 and
1, counters by direction, a queue of weight gradients), one file a (P, M): dualpipe_P_M.txt and
dualpipev_P_M.txt, one line a rank, in Pipemark's text form.
"""
import sys
from collections import deque
from pathlib import Path


class Rank:
    def __init__(self, stage_of_phase, first_of_phase):
        self.stage, self.first = stage_of_phase, first_of_phase
        self.forwards, self.backwards = [0, 0], [0, 0]
        self.queue, self.out = deque(), []

    def _forward(self, phase):
        name = f"{self.stage[phase]}F{self.first[phase] + self.forwards[phase]}"
        self.forwards[phase] += 1
        return name

    def _backward(self, phase, letter):
        micro_batch = self.first[phase] + self.backwards[phase]
        self.backwards[phase] += 1
        if letter == "I":
            self.queue.append(f"{self.stage[phase]}W{micro_batch}")
        return f"{self.stage[phase]}{letter}{micro_batch}"

    def F(self, phase):
        self.out.append(self._forward(phase))

    def B(self, phase):
        self.out.append(self._backward(phase, "B"))

    def I(self, phase):
        self.out.append(self._backward(phase, "I"))

    def W(self):
        self.out.append(self.queue.popleft())

    def FB(self, f, b):
        self.out.append(f"({self._forward(f)};{self._backward(b, 'B')})")


def phases(rank, depth, half, per_direction):
    """The eight published steps; depth r', half H, per_direction micro-batches of one direction."""
    for _ in range((half - depth - 1) * 2):                 # step 1: F0
        rank.F(0)
    for _ in range(depth + 1):                              # step 2: F0 F1
        rank.F(0)
        rank.F(1)
    for _ in range(half - depth - 1):                       # step 3: B1 (split) W1 F1
        rank.I(1)
        rank.W()
        rank.F(1)
    for i in range(per_direction - half * 2 + depth + 1):   # step 4: F0&B1 F1&B0
        if i == 0 and depth == half - 1:
            rank.F(0)
            rank.B(1)
        else:
            rank.FB(0, 1)
        rank.FB(1, 0)
    for _ in range(half - depth - 1):                       # step 5: B1 F1&B0
        rank.B(1)
        rank.FB(1, 0)
    split = False
    for i in range(depth + 1):                              # step 6: B1 B0, second half split
        if i == (depth + 1) // 2 and depth % 2 == 1:
            split = True
        (rank.I if split else rank.B)(1)
        if i == (depth + 1) // 2 and depth % 2 == 0:
            split = True
        (rank.I if split else rank.B)(0)
    for _ in range(half - depth - 1):                       # step 7: W B0 (split)
        rank.W()
        rank.I(0)
    for _ in range(depth + 1):                              # step 8: W
        rank.W()
    assert not rank.queue
    return rank.out


def dualpipe(P, M):
    rows = []
    for r in range(P):
        # Replica 0 enters at rank 0 and has micro-batches 0 .. M/2-1; replica 1 the rest.
        stages, firsts = [r, P - 1 - r], [0, M // 2]
        if r >= P // 2:
            stages.reverse()
            firsts.reverse()
        rows.append(phases(Rank(stages, firsts), min(r, P - 1 - r), P // 2, M // 2))
    return rows


def dualpipev(P, M):
    return [phases(Rank([r, 2 * P - 1 - r], [0, 0]), r, P, M) for r in range(P)]


def main():
    folder = Path(sys.argv[1])
    for P in (2, 4, 8):
        for M in sorted({2 * P, 20, 32}):
            for name, make in (("dualpipe", dualpipe), ("dualpipev", dualpipev)):
                text = "".join(" ".join(row) + "\n" for row in make(P, M))
                (folder / f"{name}_{P}_{M}.txt").write_text(text)


if __name__ == "__main__":
    main()
