#!/usr/bin/env bash
# How a training step scales over GPUs, beside what the cost model of `qat_dist plan` says: weak and strong, data
# parallel, pipeline and both, by precision and wire format; and whether losses are the same bits on all of them.
#
#   benchmarks/scaling/run.sh --gpus 1,2,4,8             what the machine lacks is marked as not measured
#   benchmarks/scaling/run.sh --cpus 1,2,4               the same on CPU ranks, with a small model
#   benchmarks/scaling/run.sh --beyond                   predictions for 16 to 1,024 GPUs; measures nothing
#   benchmarks/scaling/run.sh --help                     all options
#
# QAT_DIST names the program; without it that is build/qat_dist. QAT_COMMIT: the commit of a program that was built
# elsewhere. Needs Python 3.8, without packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v python3 >/dev/null || { echo "run.sh: python3 was not found: install it (apt-get install python3)" >&2; exit 2; }
exec python3 "$here/main.py" "$@"
