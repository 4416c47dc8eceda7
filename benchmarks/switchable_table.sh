#!/usr/bin/env bash
# One model at many widths, beside a model for each: perplexities of a GPT-2 whose adapters and layer norms learn from its
# own 32-bit pass, before, after, and as dedicated runs of as many steps have them.
#
#   benchmarks/switchable_table.sh OUT 'data/train_*.bin' data/val.bin        124M on one GPU
#   benchmarks/switchable_table.sh OUT builtin builtin small                  minutes on CPUs
#
# Environment: RANKS (1), BASE_STEPS (1000) of 32 bits, STEPS (500) of distillation, WIDTHS ("2,3,4,5,6,8"), DEDICATED
# ("2 4 8"), STUDENTS: how many widths a step of the one model trains (4, or all there are), DRAW: how they are chosen
# (sandwich: the narrowest always), PEAK: their learning rate (2e-3), BATCH sequences a step (64; small: 32), MICRO of a
# pass (32; small: 4), SETS more settings for every run.
# What is there in OUT already is not run again. Prints a Markdown table, and keeps it in OUT/table.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -ge 3 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$1 train=$2 val=$3 size=${4:-gpt2}
widths=${WIDTHS:-2,3,4,5,6,8} base_steps=${BASE_STEPS:-1000} steps=${STEPS:-500}
if [ "$size" = small ]; then
  model=(model.preset=micro data.sequence_length=128 compute.device=cpu) batch=${BATCH:-32} micro=${MICRO:-4} peak=2e-3 rank=16
else
  model=("model.preset=$size" data.sequence_length=1024) batch=${BATCH:-64} micro=${MICRO:-32} peak=6e-4 rank=64
fi
mkdir -p "$out"

run() {  # run NAME KEY=VALUE...: to its end, or the rest of it
  local name=$1 arguments=() set
  shift
  [ ! -e "$out/$name/report.json" ] || return 0
  for set in "${model[@]}" "data.train=[\"$train\"]" "data.val=[\"$val\"]" "train.batch_size=$batch" \
    "train.micro_batch_size=$micro" "run.dir=$out/$name" "$@" ${SETS:-}; do
    arguments+=(--set "$set")
  done
  echo "$name ..." >&2
  echo '{}' >"$out/empty.json"
  "$here/launch/run_local.sh" -n "${RANKS:-1}" "$here/build/qat_dist" --config "$out/empty.json" "${arguments[@]}" \
    >"$out/$name.log" 2>&1 || { tail -20 "$out/$name.log" >&2; exit 1; }
}
students() {  # students NAME WIDTHS COUNT: teaches these widths from the base's 32 bits
  run "$1" model.init=checkpoint "model.init_from=$out/base" model.freeze_base=true model.norm_slots=per_width \
    lora.slots=per_width "lora.rank=$rank" "lora.alpha=$rank" train.recipe=sp "train.students=$3" \
    "train.student_draw=${DRAW:-sandwich}" \
    "quant.widths=[$2,32]" distill.cross_entropy=0 distill.temperature=3 "train.steps=$steps" "lr.peak=${PEAK:-2e-3}" \
    lr.warmup_steps=20 lr.min_ratio=0 optim.weight_decay=0.01
}

run base precision.kind=constant precision.max_bits=32 "quant.widths=[$widths,32]" lora.rank=0 \
  "train.steps=$base_steps" "lr.peak=$peak" lr.warmup_steps=100
commas=${widths//[^,]/} most=4
[ ${#commas} -ge 3 ] || most=$((${#commas} + 1))
students switchable "$widths" "${STUDENTS:-$most}"
for bits in ${DEDICATED-2 4 8}; do students "dedicated_$bits" "$bits" 1; done

python3 - "$out" "$widths" <<'END' | tee "$out/table.md"
import json, os, sys
out, widths = sys.argv[1], [int(bits) for bits in sys.argv[2].split(",")] + [32]

def perplexities(name):
    path = os.path.join(out, name, "report.json")
    if not os.path.exists(path):
        return {}
    return {row["bit_width"]: row["perplexity"]["held_out"] for row in json.load(open(path))["widths"]}

before, after = perplexities("base"), perplexities("switchable")
print("| bits | before | one model | a model for it | one model / that |\n| --- | --- | --- | --- | --- |")
for bits in sorted(widths, reverse=True):
    own = perplexities(f"dedicated_{bits}").get(bits)
    ratio = f"{after[bits] / own:.4f}" if own else "-"
    print(f"| {bits} | {before[bits]:.3f} | {after[bits]:.3f} | {f'{own:.3f}' if own else '-'} | {ratio} |")
END
