#!/usr/bin/env bash
# From a clone to a trained quantized GPT-2: installs what is missing, builds, and trains configs/quickstart.json on 4
# MPI ranks. A second run fetches and builds nothing, and finds the run complete.
#   launch/quickstart.sh [arguments of qat_dist train, e.g. --set train.steps=50 --set run.dir=runs/short]
#   QAT_RANKS=2 launch/quickstart.sh      on another number of ranks
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/toolchain.sh"
cd "$qat_root"
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

launch/setup.sh
cmake=$(qat_find_cmake)
qat_configure "$cmake" release
"$cmake" --build --preset release --target qat_dist
launch/run_local.sh -n "${QAT_RANKS:-4}" build/qat_dist --config configs/quickstart.json "$@"

# Where it went: the last --set run.dir=..., else what the configuration says.
dir=$(sed -n 's/.*"dir" *: *"\([^"]*\)".*/\1/p' configs/quickstart.json | head -n 1)
for arg in "$@"; do
  case $arg in run.dir=* | --set=run.dir=*) dir=${arg#*run.dir=} ;; esac
done
cat <<END

Results: $dir (metrics.jsonl: a line a step; the table and the checkpoints beside it)
Next:
  launch/run_local.sh -n 4 build/qat_dist --config configs/quickstart.json --set train.steps=2000 --set run.dir=runs/long
  build/qat_dist --help
  launch/test.sh
END
