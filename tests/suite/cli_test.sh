#!/usr/bin/env bash
# cli_test PIPEMARK SOURCE: the binary as a user meets it: exit codes, one error and one hint line, nothing
# written after a mistake, a run, its record, a killed rank, a sweep that goes on.
set -u
pipemark=$1 source=$2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect CODE TEXT COMMAND...: the exit code, TEXT in one `error:` line, at most one hint, no record.
expect() {
  local code=$1 text=$2; shift 2
  timeout 60 "$@" >out.txt 2>err.txt; local got=$?
  [ "$got" -eq "$code" ] || fail "$* exited with $got instead of $code"
  [ "$(grep -c '^error: ' err.txt)" -eq 1 ] || fail "$* gave not one error line: $(cat err.txt)"
  [ "$(grep -c '^hint: ' err.txt)" -le 1 ] || fail "$* gave more than one hint"
  grep '^error: \|^hint: ' err.txt | grep -qF -- "$text" || fail "$* did not say '$text': $(cat err.txt)"
  [ ! -e run.h5 ] || fail "$* left a record"
}
train() { "$source/scripts/mpirun-local" "$1" "$pipemark" train run.toml -o run.h5 "${@:2}"; }
export -f train; export source pipemark

head -c 60000 "$source/suite/config.cpp" >text.txt
for _ in 1 2 3 4 5 6; do cat text.txt text.txt >more.txt; mv more.txt text.txt; done
head -c 60000 text.txt >short.txt && mv short.txt text.txt
cat >run.toml <<T
[model]
layers = 2
channels = 32
context = 32
[data]
train = "text.txt"
[train]
steps = 6
batch = 8
micro_batches = 4
validation_batches = 1
[parallel]
pipeline = 2
T
"$pipemark" --version | grep -q '^pipemark .*git' || fail "--version"
expect 2 'did you mean train' "$pipemark" trian
expect 2 'did you mean --steps' "$pipemark" train run.toml --stepz 3
expect 2 'no such file' "$pipemark" verify none.h5
expect 2 'not an HDF5 file' "$pipemark" verify run.toml
expect 2 'did you mean train.steps' bash -c 'train 2 --set train.stepz=3'
expect 2 'must be a whole number' bash -c 'train 2 --set train.batch=many'
expect 2 'mpirun -n 2' bash -c 'train 1'
expect 2 'dualpipe' bash -c 'train 1 --schedule dualpipe --set parallel.pipeline=1'
expect 2 'dualpipe' bash -c 'train 2 --schedule dualpipe --micro-batches 2'
expect 2 'fewer than' bash -c 'train 2 --set parallel.pipeline=2 --set model.layers=1 --schedule interleaved-1f1b --set schedule.chunks=4'
# Terabytes: refused before the first step, with what would fit, or that nothing would.
expect 3 'needs' bash -c 'train 1 --set parallel.pipeline=1 --set model.channels=512 --set train.batch=16777216 --micro-batches 1'
grep -q '^hint: train.micro_batches = [0-9]* .* would fit$' err.txt || fail "no hint of what would fit: $(cat err.txt)"
grep -q 'largest tensor is' err.txt || fail "the largest tensor is not named: $(cat err.txt)"
expect 3 'use more stages' bash -c 'train 2 --set model.layers=200 --set model.channels=12800'
expect 2 'nowhere.txt' bash -c 'train 2 --set data.train=nowhere.txt'
: >empty.txt; expect 2 'empty.txt' bash -c 'train 2 --set data.train=empty.txt'
echo hi >tiny.txt; expect 2 'tiny.txt' bash -c 'train 2 --set data.train=tiny.txt'
expect 2 'vocabulary' bash -c 'train 2 --set model.vocabulary=64'
for _ in $(seq 200); do printf '\001\000\054\001'; done >tokens.bin  # uint16: 1, 300, 1, 300 ...
expect 2 'token 300' bash -c 'train 2 --set data.train=tokens.bin --set data.format=uint16 --set model.context=8'
printf '\001' >odd.bin
expect 2 'odd.bin' bash -c 'train 2 --set data.train=odd.bin --set data.format=uint16'
expect 2 'parallel.data = 3' bash -c 'train 6 --set parallel.data=3'
expect 2 'dualpipe' bash -c 'train 3 --schedule dualpipe --set parallel.pipeline=3 --set train.batch=12 --micro-batches 12'
expect 2 'dualpipe' bash -c 'train 2 --schedule dualpipe --set train.batch=10 --micro-batches 5'
expect 2 'output.file' bash -c '"$source/scripts/mpirun-local" 2 "$pipemark" train run.toml -o /nowhere/run.h5'

train 2 >out.txt 2>&1 || fail "a run: $(cat out.txt)"
"$pipemark" verify run.h5 || fail "verify of a run"
cp run.h5 good.h5
train 2 --set data.train=nowhere.txt >out.txt 2>&1 && fail "a mistake beside an earlier record"
cmp -s run.h5 good.h5 || fail "a mistake touched the earlier record"

rm -f run.h5
(train 2 --steps 100000 >killed.txt 2>&1; echo $? >code.txt) &
for _ in $(seq 100); do [ -e run.h5 ] && break; sleep 0.1; done
victim=$(pgrep -f "pipemark train run.toml.*--steps 100000" | while read -r pid; do
  tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx 'OMPI_COMM_WORLD_RANK=1' &&
  [ "$(readlink "/proc/$pid/cwd")" = "$work" ] && echo "$pid"; done)
[ -n "$victim" ] && kill -9 "$victim"
SECONDS=0; wait
[ "$SECONDS" -lt 30 ] || fail "a killed rank: the job went on for $SECONDS s"
[ "$(cat code.txt)" -ne 0 ] || fail "a killed rank: exit code 0"
"$pipemark" verify run.h5 || fail "verify of the partial record"
h5dump -d /runs run.h5 | grep -q 'ended by signal\|had not ended' || fail "the partial record names no failure"

cat >sweep.toml <<T
[base]
path = "run.toml"
[factors]
"schedule.name" = ["1f1b", "dualpipe"]
T
"$pipemark" sweep sweep.toml -o sweep.h5 >out.txt 2>&1 || fail "a sweep: $(cat out.txt)"
"$pipemark" verify sweep.h5 || fail "verify of a sweep"
"$pipemark" sweep sweep.toml -o sweep.h5 --resume >out.txt 2>&1 || fail "resuming"
[ "$(grep -c 'already done' out.txt)" -eq 3 ] || fail "resuming ran again: $(cat out.txt)"
[ "$failures" -eq 0 ] && echo "all good"
exit $((failures > 0))
