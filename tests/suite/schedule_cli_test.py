#!/usr/bin/env python3
"""schedule_cli_test.py PIPEMARK SOURCE: `pipemark schedule` and `simulate` as a user meets them: the zero-bubble
paper's table, the drawings as an XML and a JSON parser see them, torch's CSV files, mistakes."""
import csv
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

pipemark, source = sys.argv[1:3]
failures = 0


def expect(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def run(*arguments, code=0):
    done = subprocess.run([pipemark, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    expect(done.returncode == code, f"{' '.join(map(str, arguments))} exited with {done.returncode}: {done.stderr}")
    return done


def mistake(code, text, *arguments):
    done = run(*arguments, code=code)
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    expect(len(errors) == 1 and len(hints) <= 1 and len(lines) == len(errors) + len(hints) and text in errors[0],
           f"{' '.join(map(str, arguments))} said {done.stderr!r}, not one error line with {text!r}")


def simulate(schedule, row, *more):
    done = run("simulate", "--schedule", schedule, "--ranks", row["P"], "--micro-batches", row["M"],
               "--time-forward", row["F"], "--time-input-grad", row["I"], "--time-weight-grad", row["W"],
               "--time-comm", row["comm"], "--format", "json", *more)
    return json.loads(done.stdout)


def zero_bubble_table():
    with open(os.path.join(source, "tests/golden/zero_bubble/table.csv")) as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    expect(len(rows) == 12, f"{len(rows)} rows in the zero-bubble table")
    for row in rows:
        for schedule in ("1f1b", "zb-h1", "zb-h2"):
            made = simulate(schedule, row)
            expect(f"{made['span_bubble_rate']:.4f}" == row[schedule], f"{schedule} of {row}: {made}")
            expect(len(made["peak_activations"]) == int(row["P"]), f"peaks of {schedule}")
        expect(simulate("1f1b", row)["peak_activations"] == list(range(int(row["P"]), 0, -1)), "1F1B's peaks")
    for limit, column in ((1, "zb-1p"), (2, "zb-2p")):
        made = simulate("zb-auto", rows[0], "--memory-limit", limit)
        expect(round(made["span_bubble_rate"], 4) <= float(rows[0][column]), f"{column}: {made}")
        expect(max(made["peak_memory"]) <= limit * int(rows[0]["P"]) + 1e-9, f"memory of {column}: {made}")
        expect(0 <= made["synthesis"]["span_gap"] < 0.005, f"gap of {column}: {made['synthesis']}")


def synthesis_beyond_the_paper():
    times = ["--time-forward", "1,1.5,1,2", "--time-input-grad", "1,1.5,1,2", "--time-weight-grad", "1,1,1,1",
             "--time-comm", "0.1"]
    size = ["--ranks", 4, "--micro-batches", 8, "--format", "json"]
    made = json.loads(run("simulate", "--schedule", "zb-auto", *size, *times, "--memory-limit", "1,1,0.5,0.5").stdout)
    expect(all(peak <= limit + 1e-9 for peak, limit in zip(made["peak_memory"], (4, 4, 2, 2))),
           f"limits by rank: {made['peak_memory']}")
    expect(made["makespan"] <= json.loads(run("simulate", "--schedule", "1f1b", *size, *times).stdout)["makespan"],
           "zb-auto is slower than 1F1B on unequal stages")
    for placement in ("linear", "v", "bidirectional"):
        made = json.loads(run("simulate", "--schedule", "zb-auto", *size, "--placement", placement).stdout)
        expect(made["synthesis"]["makespan_gap"] < 0.25, f"{placement}: {made['synthesis']}")
    expect("lower bound" in run("schedule", "zb-auto", "--ranks", 2, "--micro-batches", 4).stdout, "no lower bound")


def drawings(folder):
    svg = os.path.join(folder, "a.svg")
    for schedule in ("1f1b", "zb-h2", "dualpipe", "interleaved-1f1b"):
        run("schedule", schedule, "--ranks", 4, "--micro-batches", 8, "--show", "svg", "-o", svg)
        root = ElementTree.parse(svg).getroot()
        expect(root.tag == "{http://www.w3.org/2000/svg}svg", f"root of the SVG of {schedule}: {root.tag}")
        words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        for word in ("time", "fill/drain", "F forward", "rank 3"):
            expect(word in words, f"{word} in the SVG of {schedule}")
        trace = json.loads(run("schedule", schedule, "--ranks", 4, "--micro-batches", 8, "--show", "trace").stdout)
        slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
        actions = run("schedule", schedule, "--ranks", 4, "--micro-batches", 8, "--show", "text").stdout.split()
        expect(sorted(event["name"] for event in slices) == sorted(actions), f"slices of {schedule}")
    expect("\x1b" not in run("schedule", "1f1b", "--ranks", 2, "--micro-batches", 2).stdout, "colour in a pipe")


def torch_files(folder):
    golden = os.path.join(source, "tests/golden/torch_csv")
    with open(os.path.join(golden, "index.json")) as file:
        index = json.load(file)
    for row in index:
        sound = row["torch"] == "accepted"
        path = os.path.join(golden, row["file"])
        done = run("schedule", path, "--check", code=0 if sound else 1)
        expect(("sound" if sound else "<-- HERE") in done.stdout, done.stdout)
        if sound:
            run("simulate", "--schedule", path)
        else:
            expect(f"{path}:" in done.stdout, f"no place in {done.stdout}")
            mistake(1, path + ":", "simulate", "--schedule", path)
    copy = os.path.join(folder, "copy.csv")
    run("schedule", "dualpipe", "--ranks", 4, "--micro-batches", 8, "--show", "csv", "-o", copy)
    named, read = (run("simulate", "--schedule", schedule, "--ranks", 4, "--micro-batches", 8).stdout
                   for schedule in ("dualpipe", copy))
    expect(named.splitlines()[1:] == read.splitlines()[1:], "a file's figures differ from its schedule's")


def table():
    made = run("schedule", "--table").stdout
    lines = {line.split("  ")[0]: line for line in made.splitlines()}
    for row in ("1F1B: (P-1)(F+B)", "ZB1P: (P-1)(F+B-2W)", "DualPipe: (P/2-1)(FB+B-3W)",
                "DualPipeV on 4 ranks: as DualPipe"):
        cells = lines.get(row, "")
        expect(cells.count("exact") + cells.count("bound") == 3 and "differs" not in cells, f"{row}: {cells}")
    uneven = run("schedule", "--table", "--time-forward", 1, "--time-input-grad", 1.2, "--time-weight-grad", 0.8).stdout
    expect("F = I = W" in uneven, f"no reason where DualPipe's form does not hold: {uneven}")


def mistakes():
    mistake(2, "'dualpip' is unknown", "schedule", "dualpip", "--ranks", 4, "--micro-batches", 8)
    mistake(2, "ranks = 3", "schedule", "dualpipe", "--ranks", 3, "--micro-batches", 8)
    mistake(2, "needs a size", "schedule", "1f1b")
    mistake(2, "NAME is missing", "schedule")
    mistake(2, "nowhere.csv", "simulate", "--schedule", "nowhere.csv")
    mistake(2, "nowhere.h5", "schedule", "nowhere.h5")
    mistake(2, "--time-forward = 0", "simulate", "--schedule", "1f1b", "--ranks", 2, "--micro-batches", 2,
            "--time-forward", 0)
    mistake(2, "--time-forward has 3 values", "simulate", "--schedule", "1f1b", "--ranks", 2, "--micro-batches", 2,
            "--time-forward", "1,2,3")
    mistake(2, "--memory-limit has 2 values", "simulate", "--schedule", "zb-auto", "--ranks", 3, "--micro-batches", 3,
            "--memory-limit", "1,2")
    mistake(2, "memory limit 0.3", "simulate", "--schedule", "zb-auto", "--ranks", 3, "--micro-batches", 3,
            "--memory-limit", "0.1")
    mistake(1, "4 activations are live, the limit is 3", "simulate", "--schedule", "1f1b", "--ranks", 4,
            "--micro-batches", 8, "--memory-limit", "0.75")


with tempfile.TemporaryDirectory() as scratch:
    zero_bubble_table()
    synthesis_beyond_the_paper()
    drawings(scratch)
    torch_files(scratch)
    table()
    mistakes()
print("all good" if not failures else f"{failures} failures")
sys.exit(failures > 0)
