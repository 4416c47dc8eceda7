#!/usr/bin/env bash
# Writes and submits a Slurm job that trains, and goes on by itself after pre-emptions and time limits:
#
#   launch/slurm/submit.sh --nodes 2 --config configs/cpt.json [--gpus-per-node 4] [--time 4:00:00] [--dry-run]
#
#   --nodes N            nodes (1)
#   --gpus-per-node N    GPUs of each, one for each rank (0: CPU nodes)
#   --ranks-per-node N   ranks of each, where it is not one a GPU (the GPUs; 1 on CPU nodes)
#   --cpus-per-rank N    cores of each rank
#   --config FILE        the configuration
#   --set KEY=VALUE      over it, as often as needed
#   --gpu NAME           what the GPUs are, for the plan: "H100" (`qat_dist plan --help` has the names)
#   --time LIMIT         of one try, as sbatch takes it; a checkpoint is written before it ends
#   --lead SECONDS       so long before it (120)
#   --partition P, --account A, --constraint C, --exclusive    as sbatch takes them
#   --launcher srun|mpirun, --mpi TYPE    how ranks are started (srun, pmix)
#   --max-tries N        in a row without a step further (5)
#   --stage DIR          copy token files into DIR, on every node's own disk, first: those of
#   --stage-train GLOB, --stage-val GLOB
#   --program FILE       qat_dist (build/qat_dist)
#   --dry-run            write the job and print what would be submitted
#
# The configuration is checked, and the run planned, before anything is submitted. What is submitted is RUN_DIR/job.sbatch
# (launch/slurm/train.sbatch does the work); the output goes to RUN_DIR/slurm-JOB.out.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

refuse() { echo "submit.sh: $*" >&2; exit 2; }

nodes=1 gpus=0 ranks_per_node='' cpus='' config='' gpu='' time='' lead=120 launcher=srun mpi=pmix tries=5
stage='' stage_train='' stage_val='' program=$root/build/qat_dist dry=
sets=() options=()
while [ $# -gt 0 ]; do
  option=$1 value=${2-}
  case $option in
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --dry-run) dry=1; shift; continue ;;
    --exclusive) options+=(--exclusive); shift; continue ;;
    --*=*) set -- "${option%%=*}" "${option#*=}" "${@:2}"; continue ;;
  esac
  [ $# -ge 2 ] || refuse "$option: a value was expected behind it"
  case $option in
    --nodes) nodes=$value ;;
    --gpus-per-node) gpus=$value ;;
    --ranks-per-node) ranks_per_node=$value ;;
    --cpus-per-rank) cpus=$value ;;
    --config | -c) config=$value ;;
    --set) sets+=(--set "$value") ;;
    --gpu) gpu=$value ;;
    --time) time=$value ;;
    --lead) lead=$value ;;
    --launcher) launcher=$value ;;
    --mpi) mpi=$value ;;
    --max-tries) tries=$value ;;
    --stage) stage=$value ;;
    --stage-train) stage_train=$value ;;
    --stage-val) stage_val=$value ;;
    --program) program=$value ;;
    --partition | --account | --constraint | --qos | --reservation) options+=("$option=$value") ;;
    *) refuse "unknown option $option; --help has them all" ;;
  esac
  shift 2
done
for number in nodes gpus lead tries; do
  case ${!number} in '' | *[!0-9]*) refuse "$number = ${!number}: expected a whole number" ;; esac
done
[ "$nodes" -ge 1 ] || refuse "--nodes $nodes: expected at least 1"
if [ -z "$ranks_per_node" ]; then
  ranks_per_node=$((gpus > 0 ? gpus : 1))
fi
case $ranks_per_node in '' | *[!0-9]* | 0) refuse "--ranks-per-node $ranks_per_node: expected at least 1" ;; esac
[ -r "$config" ] || refuse "--config ${config:-is missing}: expected a readable configuration file"
config=$(realpath "$config")
[ -x "$program" ] || refuse "--program $program: no such program; build it with launch/setup.sh and cmake, or name it"
program=$(realpath "$program")
if [ -n "$stage" ] && [ -z "$stage_train$stage_val" ]; then
  refuse "--stage $stage: say which files, with --stage-train and --stage-val"
fi
if [ -z "$stage" ] && [ -n "$stage_train$stage_val" ]; then
  refuse "--stage-train and --stage-val need --stage DIR, a folder on every node's own disk"
fi

# The plan: refuses what is wrong with the configuration before it waits in a queue for hours.
plan=(plan --config "$config" "${sets[@]}" --ranks $((nodes * ranks_per_node)) --nodes "$nodes")
if [ -n "$gpu" ]; then
  plan+=(--gpu "$gpu")
elif [ "$gpus" -gt 0 ]; then
  plan+=(--gpu H100)
  echo "submit.sh: planned for H100s: say --gpu NAME for others" >&2
fi
code=0
planned=$("$program" "${plan[@]}" --json) || code=$?
if [ "$code" -eq 5 ] && { [ -n "$gpu" ] || [ "$gpus" -eq 0 ]; }; then
  echo "submit.sh: this run may not fit into the memory of its ranks: see \`$program ${plan[*]}\`" >&2
elif [ "$code" -ne 0 ] && [ "$code" -ne 5 ]; then
  exit "$code"  # qat_dist has said why
fi
run_dir=$(sed -n 's/^  "run_dir": "\(.*\)",\{0,1\}$/\1/p' <<< "$planned")
[ -n "$run_dir" ] || refuse "the plan names no run folder"
case $run_dir in /*) ;; *) run_dir=$PWD/$run_dir ;; esac
mkdir -p "$run_dir"

header=(--job-name="qat_${run_dir##*/}" --nodes="$nodes" --ntasks-per-node="$ranks_per_node" --requeue
  --open-mode=append --signal="B:USR1@$lead" --output="$run_dir/slurm-%j.out" "${options[@]}")
if [ "$gpus" -gt 0 ]; then header+=(--gpus-per-node="$gpus"); fi
if [ -n "$cpus" ]; then header+=(--cpus-per-task="$cpus"); fi
if [ -n "$time" ]; then header+=(--time="$time"); fi

job=$run_dir/job.sbatch
{
  echo '#!/usr/bin/env bash'
  for option in "${header[@]}"; do  # a value with blanks in quotes, as sbatch reads them
    case $option in *[[:space:]]*) option="${option%%=*}=\"${option#*=}\"" ;; esac
    echo "#SBATCH $option"
  done
  printf 'cd %q || exit 2\n' "$PWD"
  printf 'export QAT_MAX_TRIES=%q QAT_LAUNCHER=%q QAT_MPI=%q\n' "$tries" "$launcher" "$mpi"
  if [ -n "$stage" ]; then
    printf 'export QAT_STAGE_DIR=%q QAT_STAGE_TRAIN=%q QAT_STAGE_VAL=%q\n' "$stage" "$stage_train" "$stage_val"
  fi
  printf 'exec %q' "$here/train.sbatch"
  printf ' %q' "$run_dir" "$program" --config "$config" "${sets[@]}"
  echo
} > "$job"

tokens=$(sed -n 's/^  "tokens_per_second": \([0-9]*\).*/\1/p' <<< "$planned")
seconds=$(sed -n 's/^  "training_seconds": \([0-9]*\).*/\1/p' <<< "$planned")
echo "job        $job"
echo "ranks      $((nodes * ranks_per_node)): $ranks_per_node on each of $nodes node(s)$([ "$gpus" -eq 0 ] || echo ", one a GPU")"
echo "expected   ${tokens:-?} tokens/s, ${seconds:-?} s of training in all"
echo "output     $run_dir/slurm-JOB.out"
if [ -n "$dry" ]; then
  echo "submit     sbatch $job    (not done: --dry-run)"
  sed 's/^/    /' "$job"
  exit 0
fi
command -v sbatch > /dev/null || refuse "no sbatch here: run this where Slurm's commands are, or with --dry-run"
id=$(sbatch --parsable "$job")
id=${id%%;*}
echo "submitted  job $id"
echo "watch      squeue -j $id; tail -f $run_dir/slurm-$id.out"
echo "stop       scancel --signal=USR1 $id writes a checkpoint, and the job requeues itself; scancel $id ends it for good"
