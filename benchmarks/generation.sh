#!/usr/bin/env bash
# How fast text comes out of GPT-2 small: 32 prompts of about 128 tokens, 256 new tokens each, at 8 bits and at 32, with
# and without keys and values kept, and drawn by top-p. Random weights: the time is the same.
#
#   benchmarks/generation.sh build/qat_dist [FOLDER]         FOLDER keeps the model from run to run
#   PRESET=nano PROMPTS=4 NEW=32 benchmarks/generation.sh build/qat_dist      a try on a CPU
#
# Prints the program's own line of each: wall time of all, tokens a second of the prompts, and behind them.
# benchmarks/generation_transformers.py measures transformers on the same shapes.
set -euo pipefail
program=$(realpath "${1:?usage: benchmarks/generation.sh PROGRAM [FOLDER]}")
folder=${2:-}
if [ -z "$folder" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
preset=${PRESET:-gpt2}
prompts=${PROMPTS:-32}
new=${NEW:-256}

if [ ! -d "$folder/run/checkpoints" ]; then
  mkdir -p "$folder"
  echo '{}' >"$folder/empty.json"
  "$program" --config "$folder/empty.json" --set run.dir="$folder/run" --set model.preset="$preset" --set train.steps=2 --set train.batch_size=1 \
    --set train.micro_batch_size=1 --set quant.widths='[8,32]' --set precision.cycles=1 --set precision.min_bits=8 \
    --set precision.max_bits=8 --set lora.rank="${RANK:-16}" --set eval.bits='[32]' --set eval.max_tokens=256 \
    --set lr.warmup_steps=0 >"$folder/train.log" 2>&1 || { tail "$folder/train.log" >&2; exit 1; }
fi
for i in $(seq 1 "$prompts"); do
  # Bytes are tokens: lengths from 112 to 128.
  printf "%03d %s\n" "$i" "$(printf 'It was the year %04d, and nobody in the town had heard of the ship that lay in the harbour since the night before, dark' "$i" | cut -c 1-$((107 + i % 17)))"
done >"$folder/prompts.txt"

measure() {
  local name=$1 new=$2
  shift 2
  "$program" generate "$folder/run" --tokenizer byte --prompts "$folder/prompts.txt" --max-new-tokens "$new" \
    --ignore-end --batch-size "$prompts" "$@" | sed -n "s/^\([0-9]* new tokens behind .*\)/$name: \1/p"
}
measure "8 bits, warm-up" 8 --bits 8
measure "8 bits, kept" "$new" --bits 8
measure "8 bits, kept, not recorded" "$new" --bits 8 --no-graph
measure "8 bits, not kept" "$new" --bits 8 --no-cache
measure "32 bits, kept" "$new" --bits 32
measure "8 bits, kept, drawn" "$new" --bits 8 --temperature 0.8 --top-k 50 --top-p 0.95
