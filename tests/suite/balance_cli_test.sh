#!/usr/bin/env bash
# balance_cli_test PIPEMARK SOURCE: balance, fingerprint and tune as a user meets them: the published
# example, mistakes (exit code 2, one error line), tables, and a search that measures.
set -u
pipemark=$1 source=$2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
expect() {  # expect CODE TEXT COMMAND...: TEXT in one error line or its hint
  local code=$1 text=$2; shift 2
  timeout 60 "$@" >out.txt 2>err.txt; local got=$?
  [ "$got" -eq "$code" ] || fail "$* exited with $got instead of $code"
  [ "$(grep -c '^error: ' err.txt)" -eq 1 ] || fail "$* gave not one error line: $(cat err.txt)"
  grep '^error: \|^hint: ' err.txt | grep -qF -- "$text" || fail "$* did not say '$text': $(cat err.txt)"
}

# The published example, from JSON and CSV.
echo '[[90,132,40,61,104,165,39,4,73,56,183,86],[20,107,104,64,19,197,187,157,172,86,16,27]]' >loads.json
printf '90,132,40,61,104,165,39,4,73,56,183,86\n20,107,104,64,19,197,187,157,172,86,16,27\n' >loads.csv
grid=(--replicas 16 --groups 4 --nodes 2 --gpus 8)
plan='"phy2log":[[5,6,5,7,8,4,3,4,10,9,10,2,0,1,11,1],[7,10,6,8,6,11,8,9,2,4,5,1,5,0,3,1]]'
for file in loads.json loads.csv; do
  "$pipemark" balance experts $file "${grid[@]}" --format json >plan.json || fail "experts $file"
  grep -qF "$plan" plan.json || fail "experts $file: $(cat plan.json)"
done
grep -q '"log2phy":\[\[\[12,-1\],\[15,13\]' plan.json || fail "log2phy: $(cat plan.json)"
grep -q '"counts":\[\[1,2,1,1,2,2' plan.json || fail "counts: $(cat plan.json)"
# From that plan, with a move that costs much, nothing moves.
"$pipemark" balance experts loads.json "${grid[@]}" --current plan.json --move-cost 1e9 --format json >stay.json
grep -qF '"moved":0' stay.json && grep -qF "$plan" stay.json || fail "staying: $(cat stay.json)"

expect 2 'multiple of gpus' "$pipemark" balance experts loads.json --replicas 17 --gpus 8
expect 2 'at least 12' "$pipemark" balance experts loads.json --replicas 8 --gpus 8
expect 2 'did you mean --replicas' "$pipemark" balance experts loads.json --replica 16 --gpus 8
expect 2 'did you mean experts' "$pipemark" balance expert loads.json
expect 2 'none.json' "$pipemark" balance experts none.json "${grid[@]}"
echo '[[1,-2]]' >bad.json; expect 2 'expert 1' "$pipemark" balance experts bad.json --replicas 2 --gpus 1
echo '[[1,2],[3]]' >bad.json; expect 2 'layer 1' "$pipemark" balance experts bad.json --replicas 2 --gpus 1
echo '[[1,' >bad.json; expect 2 'no JSON' "$pipemark" balance experts bad.json --replicas 2 --gpus 1
printf '1,2\n1,y\n' >bad.csv; expect 2 'bad.csv:2' "$pipemark" balance experts bad.csv --replicas 2 --gpus 1
expect 2 '--speeds' "$pipemark" balance experts loads.json "${grid[@]}" --speeds 1,1

"$pipemark" balance partition resnet152 --ranks 8 --micro-batches 32 >table.txt || fail "partition"
for name in static-even static-parameters static-cost optimal step; do
  grep -q "^$name .*%" table.txt || fail "partition has no row $name: $(cat table.txt)"
done
"$pipemark" balance partition gpt3 --schedule dualpipe --ranks 8 --micro-batches 16 --speeds 1,1,1,1,1,1,1,0.5 \
  --format json | grep -q '"balancer": "optimal"' || fail "partition json"
expect 2 'resnet152' "$pipemark" balance partition resnet15
expect 2 '--speeds' "$pipemark" balance partition gpt3 --ranks 4 --speeds 1,1
expect 2 'no cut fits' "$pipemark" balance partition gpt3 --ranks 4 --memory-gb 1
expect 2 'fewer' "$pipemark" balance partition resnet152 --ranks 64 --micro-batches 64
expect 2 'did you mean' "$pipemark" balance partition gpt3 --schedule 1f1

"$pipemark" fingerprint --show h200 | grep -q 'kind = "data sheet"' || fail "fingerprint --show"
expect 2 'h200' "$pipemark" fingerprint --show h20
expect 2 'tiny' "$pipemark" fingerprint --model tinny
"$source/scripts/mpirun-local" 2 "$pipemark" fingerprint -o here.toml >out.txt 2>&1 || fail "fingerprint: $(cat out.txt)"
grep -q '^link 0 - 1 .*GB/s' out.txt && grep -q '^model *all ' out.txt || fail "fingerprint: $(cat out.txt)"
"$pipemark" fingerprint --show here.toml | cmp - here.toml || fail "fingerprint --show of its own file"
sed 's/memory_gb /memory_gib /' here.toml >bad.toml; expect 2 'bad.toml:' "$pipemark" fingerprint --show bad.toml

head -c 60000 "$source/suite/config.cpp" >one.txt; for _ in 1 2 3 4 5 6; do cat one.txt; done >text.txt
cat >run.toml <<T
[model]
layers = 4
channels = 32
context = 32
[data]
train = "text.txt"
[train]
steps = 50
batch = 16
micro_batches = 4
[parallel]
pipeline = 2
T
"$pipemark" tune run.toml --best 1 --steps 4 --repetitions 1 --schedules gpipe,1f1b >out.txt 2>&1 ||
  fail "tune: $(cat out.txt)"
for row in 'as given' recipe 'found 1'; do grep -q "^$row " out.txt || fail "tune has no '$row': $(cat out.txt)"; done
grep -q 'steps = 50' tuned.toml || fail "tuned.toml: $(cat tuned.toml)"
"$pipemark" verify tune.h5 || fail "verify of the measured runs"
expect 2 'device.pace' "$pipemark" tune run.toml --set device.pace=x.toml
expect 2 'did you mean' "$pipemark" tune run.toml --schedules 1f1
expect 2 '--best' "$pipemark" tune run.toml --best 0
expect 2 'nowhere' "$pipemark" tune run.toml -o nowhere/tuned.toml
[ "$failures" -eq 0 ] && echo "all good"
exit $((failures > 0))
