#!/usr/bin/env python3
"""check_record.py RECORD.h5: a result file is what DESIGN.md says, seen by h5py and pandas.

Exit code 77 (skipped, loudly) where h5py or pandas is missing."""
import subprocess
import sys

try:
    import h5py
    import pandas
except ImportError as missing:
    print(f"SKIPPED: {missing}; install python3-h5py and python3-pandas", file=sys.stderr)
    sys.exit(77)

path = sys.argv[1]
with h5py.File(path, "r") as file:
    # The two lines a reader needs:
    runs = pandas.DataFrame(file["runs"][:])
    samples = pandas.DataFrame(file["samples"][:])

    for name in ("format", "schema_version", "uuid", "created", "command_line", "git_hash", "git_dirty",
                 "seed", "configuration", "environment"):
        assert name in file.attrs, f"root attribute {name} is missing"
    assert file.attrs["schema_version"] == 2
    units = file["runs"].attrs["units"]
    assert units["median_step_s"] == b"s" and units["tokens_per_s"] == b"token/s"
    assert set(units.dtype.names) == set(file["runs"].dtype.names)

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            assert "units" in item.attrs, f"{name} has no units"
            assert item.compression in (None, "gzip"), f"{name} is compressed by {item.compression}"
            for field, (kind, _) in item.dtype.fields.items():
                assert h5py.check_string_dtype(kind) is None or h5py.check_string_dtype(kind).length, \
                    f"{name}.{field} is of variable length"
    file.visititems(visit)

    assert runs["valid"].dtype == bool
    for _, run in runs.iterrows():
        if not run["steps_done"]:
            continue
        mine = samples[(samples.run == run["run"]) & (samples.metric == b"step_s") & ~samples.warmup]
        assert abs(mine.value.median() - run["median_step_s"]) < 1e-12
        timeline = pandas.DataFrame(file[f"timeline/{run['run']}"][:])
        if len(timeline):
            busy = (timeline.end_s - timeline.start_s).sum()
            makespan = timeline.end_s.max() - timeline.start_s.min()
            bubble = 1 - busy / (timeline["rank"].nunique() * makespan)
            assert abs(bubble - run["bubble_ratio"]) < 1e-9

header = subprocess.run(["h5dump", "-a", "schema_version", path], capture_output=True, text=True).stdout
assert "(0): 2" in header, header
shown = subprocess.run(["h5dump", "-w", "0", "-A", path], capture_output=True, text=True).stdout
assert '"token/s"' in shown and '"FLOP/s"' in shown, "h5dump does not show the units"
print(f"{path}: {len(runs)} runs, {len(samples)} samples")
