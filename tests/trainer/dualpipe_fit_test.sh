#!/usr/bin/env bash
# dualpipe_fit_test EXAMPLE SOURCE: the example trains (its loss falls by half a nat or more in 30 steps) and
# tells a mistake in one line with exit code 2.
set -u
example=$1 source=$2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for _ in 1 2 3 4 5 6; do cat "$source"/suite/*.cpp; done >"$work/text.txt"
run() { timeout 100 "$source/scripts/mpirun-local" 2 "$example" "$@" >"$work/out.txt" 2>"$work/err.txt"; }

run "$work/text.txt" 30 || { echo "FAILED: exit code $?"; cat "$work/err.txt"; exit 1; }
cat "$work/out.txt"
[ "$(wc -l <"$work/out.txt")" -eq 1 ] || { echo "FAILED: not one line, from rank 0"; exit 1; }
read -r first last < <(sed -n 's/^loss \([0-9.]*\) -> \([0-9.]*\),.*([a-z]*)$/\1 \2/p' "$work/out.txt")
awk -v a="${first:-0}" -v b="${last:-9}" 'BEGIN { exit !(a - b > 0.5) }' || { echo "FAILED: the loss did not fall"; exit 1; }

run "$work/nowhere.txt" 2; code=$?
[ "$code" -eq 2 ] && grep -q '^error: .*nowhere.txt' "$work/err.txt" && grep -q '^hint: ' "$work/err.txt" ||
  { echo "FAILED: a missing text gave exit code $code: $(cat "$work/err.txt")"; exit 1; }
echo "all good"
