#!/usr/bin/env python3
"""readme_test.py SOURCE PIPEMARK: what README.md says is so.

Blocks marked `console` are run, `build/release/pipemark` being the binary given, and must print exactly
what is shown (a line `...` stands for any lines). Programs and files that other blocks and links name must
be there, and options of `sh` blocks known. Blocks marked `python` are run where pandas is."""
import os
import re
import subprocess
import sys

source, pipemark = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
os.chdir(source)
text = open("README.md", encoding="utf-8").read()
failures = []
counts = {"console": 0, "sh": 0, "python": 0, "link": 0}


def matches(shown, printed):
    """Whether `printed` is `shown`, where a line ... may stand for any lines."""
    pattern = "".join(r"(?:.*\n)*" if line.strip() == "..." else re.escape(line.rstrip()) + r" *\n"
                      for line in shown)
    return re.fullmatch(pattern, printed) is not None


def check_console(block):
    command, shown = None, []
    for line in block + ["$ "]:
        if not line.startswith("$ "):
            shown.append(line)
            continue
        if command is not None:
            counts["console"] += 1
            run = subprocess.run(["bash", "-c", command.replace("build/release/pipemark", pipemark)],
                                 capture_output=True, text=True, timeout=60)
            if run.returncode != 0 or not matches(shown, run.stdout):
                failures.append(f"$ {command}\nexit code {run.returncode}, printed\n{run.stdout}{run.stderr}"
                                f"instead of\n" + "\n".join(shown))
        command, shown = line[2:], []


def check_sh(block):
    for line in block:
        words = line.split("#")[0].split()
        counts["sh"] += 1
        for word in words:
            if word.startswith(("scripts/", "suite/configs/")) and not os.path.exists(word):
                failures.append(f"{line}: there is no {word}")
        if "build/release/pipemark" in words:
            command = words[words.index("build/release/pipemark") + 1]
            usage = subprocess.run([pipemark, command, "--help"], capture_output=True, text=True)
            for option in re.findall(r"--[a-z-]+", " ".join(words[words.index(command):])):
                if usage.returncode != 0 or option not in usage.stdout:
                    failures.append(f"{line}: pipemark {command} has no {option}")


def check_python(block):
    counts["python"] += 1
    probe = subprocess.run([sys.executable, "-c", "import h5py, pandas"], capture_output=True)
    if probe.returncode != 0:
        print("SKIPPED: no h5py or pandas, the Python of README.md was not run", file=sys.stderr)
        return
    run = subprocess.run([sys.executable, "-c", "\n".join(block + ["assert len(runs)"])],
                         capture_output=True, text=True)
    if run.returncode != 0:
        failures.append(run.stderr)


for kind, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
    {"console": check_console, "sh": check_sh, "python": check_python}.get(kind, lambda _: None)(
        body.splitlines())
for target in re.findall(r"\]\(([^)#:]+)\)", text):
    counts["link"] += 1
    if not os.path.exists(target):
        failures.append(f"a link to {target}, which is not there")
for kind, count in counts.items():
    if count == 0:
        failures.append(f"README.md has no {kind} block")
if matches(["wrong"], "right\n") or not matches(["a", "...", "z"], "a\nb\nz\n"):
    failures.append("matches() does not tell right from wrong")
print("\n\n".join(failures) if failures else f"README.md: {counts} are so")
sys.exit(bool(failures))
