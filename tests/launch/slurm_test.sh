#!/usr/bin/env bash
# A run under a real Slurm of two nodes: pre-emption, time limit, requeue, a node that is killed. Brings its own cluster,
# two namespaces on this machine (slurm_cluster.sh).
#
#   tests/launch/slurm_test.sh build/qat_dist          as root; packages: slurm-wlm munge iproute2. Fifteen minutes.
#   tests/launch/slurm_test.sh build/qat_dist NAME...  only these of the cases below (functions case_NAME)
#   tests/launch/slurm_test.sh --keep build/qat_dist   leaves the cluster running; --stop ends it
#
# Exit code 77 (skipped) where there is no root or no Slurm. What it writes goes below the program's folder, which all
# nodes share. It changes /etc/slurm and /etc/hosts while it runs, and refuses where a Slurm is configured already.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=$(cd "$here/../.." && pwd)
state=/run/qat_slurm
nodes=2

# shellcheck source=tests/launch/slurm_cluster.sh
. "$here/slurm_cluster.sh"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if [ $SECONDS -ge $end ]; then
      squeue >&2 || true
      sinfo -N >&2 || true
      tail -n 30 "${dir:-/nowhere}"/slurm-*.out >&2 2> /dev/null || true
      fail "waited for $what"
    fi
    sleep 0.2
  done
}

steps_of() { if [ -f "$1/metrics.jsonl" ]; then wc -l < "$1/metrics.jsonl"; else echo 0; fi; }
has_steps() { [ "$(steps_of "$1")" -ge "$2" ]; }
job_state() { scontrol show job "$1" 2> /dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p' | head -n 1; }
is_in() { [ "$(job_state "$1")" = "$2" ]; }
has_ended() { case $(job_state "$1") in '' | COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL) ;; *) return 1 ;; esac; }
restarts_of() { scontrol show job "$1" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p'; }
was_requeued() { [ "$(restarts_of "$1")" -ge "$2" ]; }

# What must not depend on when and where a run was stopped: all but times, memory, and bytes on the wire (a resumed run need
# not send weights first).
numbers() {
  sed -E 's/"(tokens_per_s|step_ms|exposed_ms|time|saving)":[^,{}]*,?//g; s/"(time|memory|wire)":\{[^}]*\},?//g' "$1/metrics.jsonl"
}

settings() {  # STEPS
  echo "--set train.steps=$1 --set precision.cycles=1 --set checkpoint.every=20 --set eval.max_tokens=512"
}

# submit_config CONFIG NAME [OPTION...]: sets dir and job.
submit_config() {
  dir=$work/$2
  local config=$1 said
  shift 2
  said=$("$source_dir/launch/slurm/submit.sh" --program "$program" --config "$source_dir/configs/$config.json" \
    --set "run.dir=$dir" "$@")
  job=$(sed -n 's/^submitted  job //p' <<< "$said")
  [ -n "$job" ] || fail "nothing was submitted: $said"
}

# submit NAME STEPS [OPTION...]: of the smallest model, on both nodes.
submit() {
  local name=$1 steps=$2
  shift 2
  # shellcheck disable=SC2046
  submit_config tiny_cpu "$name" --nodes 2 --ranks-per-node 1 $(settings "$steps") "$@"
}

reference() {  # STEPS: the uninterrupted run, once
  whole=$work/whole_$1
  if [ ! -f "$whole/report.json" ]; then
    # shellcheck disable=SC2046
    srun -N2 -n2 --mpi=pmix "$program" --config "$source_dir/configs/tiny_cpu.json" \
      --set "run.dir=$whole" $(settings "$1") > "$work/whole.log" 2>&1 || { cat "$work/whole.log"; fail "the whole run"; }
  fi
}

same_as_whole() {
  if ! diff <(numbers "$whole") <(numbers "$dir") > "$work/difference"; then
    head -n 4 "$work/difference" >&2
    fail "$1: its metrics are not those of the uninterrupted run"
  fi
}

# Two pre-emptions: a signal to the ranks, and the time limit, before which Slurm tells the batch script (20 s after the
# beginning, where it is punctual; it may be earlier).
case_preemption() {
  reference 150
  submit preempted 150 --time 0:02:00 --lead 100
  wait_for 60 "the first steps" has_steps "$dir" 20
  scancel --signal=USR1 "$job"
  wait_for 60 "the first requeue" was_requeued "$job" 1
  wait_for 300 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "the job is $(job_state "$job"), not COMPLETED: $(tail -n 5 "$dir"/slurm-*.out)"
  [ "$(restarts_of "$job")" -ge 2 ] || fail "the time limit did not end a try: is the run longer than 20 s here?"
  grep -q "requeueing" "$dir/slurm-$job.out" || fail "nothing says that it was requeued"
  [ ! -e "$dir/tries" ] || fail "a finished run leaves its tries behind"
  same_as_whole preemption
}

# The quickstart as it is, on 2 x 2 ranks, over the same two pre-emptions: 256 steps and the table at their end.
case_quickstart() {
  whole=$work/whole_quickstart
  srun -N2 -n4 --ntasks-per-node=2 --mpi=pmix "$program" --config "$source_dir/configs/quickstart.json" \
    --set "run.dir=$whole" > "$work/whole_quickstart.log" 2>&1 || fail "$(tail -n 5 "$work/whole_quickstart.log")"
  submit_config quickstart quickstart --nodes 2 --ranks-per-node 2 --time 0:02:00 --lead 80
  wait_for 300 "the first steps" has_steps "$dir" 10
  scancel --signal=USR1 "$job"
  wait_for 60 "the first requeue" was_requeued "$job" 1
  wait_for 300 "the second one: is the run shorter than 40 s here?" was_requeued "$job" 2
  scontrol update JobId="$job" TimeLimit=0:30:00  # twice is enough
  wait_for 900 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "the job is $(job_state "$job"), not COMPLETED: $(tail -n 5 "$dir"/slurm-*.out)"
  [ "$(steps_of "$dir")" -eq 256 ] || fail "$(steps_of "$dir") lines of metrics for 256 steps"
  same_as_whole quickstart
  echo "quickstart: $(restarts_of "$job") restarts, metrics of 256 steps equal"
}

# A user's scancel ends it, and what was saved goes on by hand.
case_cancel() {
  submit cancelled 150
  wait_for 60 "the first steps" has_steps "$dir" 20
  scancel "$job"
  wait_for 60 "the end of the job" has_ended "$job"
  is_in "$job" CANCELLED || fail "a cancelled job is $(job_state "$job")"
  [ "$(restarts_of "$job")" -eq 0 ] || fail "a cancelled job was requeued"
  ls "$dir"/checkpoints/step_* > /dev/null || fail "no checkpoint was written"
}

# Also while it waits before another try.
case_cancel_pause() {
  dir=$work/pause
  mkdir -p "$dir"
  job=$(sbatch --parsable -N1 -n1 --output="$dir/slurm-%j.out" "$source_dir/launch/slurm/train.sbatch" "$dir" \
    bash -c 'exit 75' | cut -d';' -f1)
  wait_for 60 "the pause" grep -qs "requeueing in" "$dir/slurm-$job.out"
  scancel "$job"
  wait_for 60 "the end of the job" has_ended "$job"
  is_in "$job" CANCELLED || fail "a job that was cancelled while it waited is $(job_state "$job")"
  [ "$(restarts_of "$job")" -eq 0 ] || fail "a job that was cancelled while it waited was requeued"
}

# scontrol requeue, and another failure than a pre-emption is not requeued.
case_requeue() {
  reference 150
  submit requeued 150
  wait_for 60 "a checkpoint" test -e "$dir/checkpoints/step_00000020/manifest.json"
  scontrol requeue "$job"
  wait_for 60 "the requeue" was_requeued "$job" 1
  wait_for 240 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "the job is $(job_state "$job"), not COMPLETED"
  same_as_whole requeue
}

# A job of one node whose node is drained goes on on the other one. The lock, and the socket and the folders of the first
# try, are the other host's.
node_of() { scontrol show job "$1" | sed -n 's/^ *BatchHost=//p'; }
undrain() { scontrol update NodeName="$1" State=RESUME; }

case_other_node() {
  local before after
  reference 150
  # shellcheck disable=SC2046
  submit_config tiny_cpu moved --nodes 1 --ranks-per-node 2 $(settings 150)
  wait_for 60 "a checkpoint" test -e "$dir/checkpoints/step_00000020/manifest.json"
  before=$(node_of "$job")
  scontrol update NodeName="$before" State=DRAIN Reason="to be repaired"
  scontrol requeue "$job"
  wait_for 60 "the requeue" was_requeued "$job" 1
  wait_for 60 "its second start" is_in "$job" RUNNING
  after=$(node_of "$job")
  undrain "$before"
  [ "$before" != "$after" ] || fail "it began again on $before, which is drained"
  wait_for 240 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "on $after the job is $(job_state "$job"): $(tail -n 5 "$dir"/slurm-*.out)"
  grep -q "resuming after step" "$dir/slurm-$job.out" || fail "nothing says that it was resumed"
  same_as_whole "another node"
}

# The same where nobody has ended the first try: its node is dead, and its lock is left.
case_dead_node() {
  local before
  reference 150
  # shellcheck disable=SC2046
  submit_config tiny_cpu left --nodes 1 --ranks-per-node 2 $(settings 150)
  wait_for 60 "a checkpoint" test -e "$dir/checkpoints/step_00000020/manifest.json"
  before=$(node_of "$job")
  ip netns pids "$before" | xargs -r kill -9
  [ -e "$dir/run.lock" ] || fail "the dead node has left no lock: what does this test?"
  wait_for 120 "the requeue" was_requeued "$job" 1
  wait_for 60 "its second start" is_in "$job" RUNNING
  [ "$(node_of "$job")" != "$before" ] || fail "it began again on $before, which is dead"
  wait_for 240 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "the job is $(job_state "$job"), not COMPLETED: $(tail -n 5 "$dir"/slurm-*.out)"
  start_slurmd "${before#qat}"
  wait_for 60 "both nodes back" nodes_are_up
  same_as_whole "a dead node"
}

case_failure() {
  submit failing 40 --set 'data.train=["nowhere.bin"]'
  wait_for 60 "the end of the job" has_ended "$job"
  is_in "$job" FAILED || fail "a run without data is $(job_state "$job")"
  [ "$(restarts_of "$job")" -eq 0 ] || fail "exit 3 was requeued"
}

# Tries that come no further end.
case_tries() {
  dir=$work/tries
  mkdir -p "$dir"
  job=$(QAT_MAX_TRIES=2 sbatch --parsable -N1 -n1 --output="$dir/slurm-%j.out" "$source_dir/launch/slurm/train.sbatch" \
    "$dir" bash -c 'exit 75' | cut -d';' -f1)
  wait_for 240 "the end of the job" has_ended "$job"
  is_in "$job" FAILED || fail "the job is $(job_state "$job")"
  [ "$(restarts_of "$job")" -eq 2 ] || fail "$(restarts_of "$job") restarts with QAT_MAX_TRIES=2"
  grep -q "not requeued any more" "$dir/slurm-$job.out" || fail "nothing says why"
}

# A node's slurmd, stepd and ranks are killed: the job ends, is requeued, and goes on where nodes are.
case_lost_node() {
  reference 150
  submit lost 150
  wait_for 60 "a checkpoint" test -e "$dir/checkpoints/step_00000020/manifest.json"
  ip netns pids qat2 | xargs -r kill -9
  wait_for 120 "the requeue" was_requeued "$job" 1
  start_slurmd 2
  wait_for 60 "both nodes back" nodes_are_up
  wait_for 240 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "the job is $(job_state "$job"), not COMPLETED"
  same_as_whole "lost node"
}

# srun without PMIx is an error with its fix, within seconds; so is an interface that srun does not have.
case_launchers() {
  local said code type begin=$SECONDS
  for type in none pmi2; do
    code=0
    # shellcheck disable=SC2046
    said=$(srun -N2 -n4 --ntasks-per-node=2 --mpi=$type "$program" --config "$source_dir/configs/tiny_cpu.json" \
      --set "run.dir=$work/launch_$type" $(settings 40) 2>&1) || code=$?
    [ "$code" -eq 2 ] || fail "--mpi=$type ends with $code: $said"
    grep -q -- "--mpi=pmix" <<< "$said" || fail "--mpi=$type does not say what to do: $said"
    [ "$(grep -c "finds no other ranks" <<< "$said")" -eq 1 ] || fail "--mpi=$type says it more than once: $said"
  done
  [ $((SECONDS - begin)) -le 20 ] || fail "two wrong --mpi took $((SECONDS - begin)) s"
  for type in openmpi pmi2; do  # as a job: that srun does not have, and that this Open MPI does not speak
    submit "job_$type" 40 --mpi $type
    wait_for 60 "the end of the job" has_ended "$job"
    is_in "$job" FAILED || fail "with --mpi $type the job is $(job_state "$job")"
    [ "$(restarts_of "$job")" -eq 0 ] || fail "a job with --mpi $type was requeued"
    grep -q -- "--launcher mpirun\|mpirun -np" "$dir/slurm-$job.out" || fail "nothing says what to do: $(cat "$dir"/slurm-*.out)"
  done
}

# mpirun inside an allocation, by hand and as a job that is pre-empted and cancelled.
case_mpirun() {
  reference 150
  # shellcheck disable=SC2046
  salloc -N2 -n2 --ntasks-per-node=1 mpirun --allow-run-as-root "$program" --config "$source_dir/configs/tiny_cpu.json" \
    --set "run.dir=$work/allocated" $(settings 150) > "$work/allocated.log" 2>&1 || fail "$(tail -n 5 "$work/allocated.log")"
  dir=$work/allocated
  same_as_whole "mpirun in salloc"
  submit with_mpirun 150 --launcher mpirun
  wait_for 60 "the first steps" has_steps "$dir" 20
  scancel --signal=USR1 "$job"
  wait_for 100 "the requeue" was_requeued "$job" 1
  wait_for 240 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "with mpirun the job is $(job_state "$job"): $(tail -n 5 "$dir"/slurm-*.out)"
  same_as_whole "mpirun"
  submit cancelled_mpirun 2000 --launcher mpirun --set checkpoint.every=0
  wait_for 60 "the first steps" has_steps "$dir" 20
  scancel "$job"
  wait_for 60 "the end of the job" has_ended "$job"
  ls "$dir"/checkpoints/step_* > /dev/null || fail "scancel of a job with mpirun leaves no checkpoint"
}

# Token files on the nodes' own disks (here /tmp is each node's own).
case_staging() {
  mkdir -p "$work/data"
  for ((i = 0; i < 3000; i++)); do echo "line $i of a text that is long enough to train on"; done > "$work/data/text.txt"
  "$program" tokenize "$work/data/text.txt" --val-fraction 0.1 --output "$work/data/tokens" > "$work/tokenize.log" 2>&1 ||
    fail "$(cat "$work/tokenize.log")"
  submit staged 40 --stage /tmp/qat_stage --stage-train "$work/data/tokens_train_*.bin" \
    --stage-val "$work/data/tokens_val.bin"
  wait_for 120 "the end of the run" has_ended "$job"
  is_in "$job" COMPLETED || fail "the job is $(job_state "$job"): $(tail -n 5 "$dir"/slurm-*.out)"
  for ((n = 1; n <= nodes; n++)); do
    ls "$state/tmp$n"/qat_stage/*.bin > /dev/null || fail "no copies on qat$n"
  done
  grep -q qat_stage "$dir/config.json" || fail "the copies were not read"
}

# The doctor over all ranks, and a sweep as an array job.
case_doctor() {
  local said
  said=$(srun -N2 -n4 --ntasks-per-node=2 --mpi=pmix "$program" doctor --cpu --dir "$work" 2>&1) || fail "$said"
  for part in "4 ranks on 2 hosts" "between nodes" "0 faults" clocks; do
    grep -q "$part" <<< "$said" || fail "the doctor does not speak of $part: $said"
  done
}

# An array: a task that is pre-empted is requeued alone, also the one whose number stands for the whole array; and what
# is missing is run by the same array again.
case_sweep() {
  local last
  cat > "$work/sweep.json" << END
{"config": "$source_dir/configs/tiny_cpu.json", "runs_dir": "$work/sweep", "set": {"lr.peak": [1e-3, 2e-3, 3e-3]},
 "fixed": {"train.steps": 200, "precision.cycles": 1, "eval.max_tokens": 256}}
END
  "$program" sweep "$work/sweep.json" --slurm "$source_dir/launch/slurm/train.sbatch" > /dev/null
  job=$(sbatch --parsable -N1 -n1 "$work/sweep/sweep.sbatch" | cut -d';' -f1)
  last=$work/sweep/lr.peak=0.003
  dir=$last
  wait_for 120 "the last task's first steps" has_steps "$last" 20
  scancel --signal=USR1 "${job}_2"
  wait_for 60 "its requeue" was_requeued "${job}_2" 1
  wait_for 600 "all runs" bash -c "[ \$(ls $work/sweep/*/report.json 2> /dev/null | wc -l) -eq 3 ]"
  for ((i = 0; i < 2; i++)); do
    if was_requeued "${job}_$i" 1; then fail "task $i was requeued with task 2"; fi
  done
  [ "$("$program" sweep "$work/sweep.json" --table | grep -c finished)" -eq 3 ] || fail "the table does not have all runs"
  rm -r "$work/sweep/lr.peak=0.002"
  wait_for 60 "the end of the array" bash -c "[ -z \"\$(squeue -h --name=qat_sweep)\" ]"
  sbatch -N1 -n1 "$work/sweep/sweep.sbatch" > /dev/null
  wait_for 600 "the missing run" test -e "$work/sweep/lr.peak=0.002/report.json"
  wait_for 60 "the end of the array" bash -c "[ -z \"\$(squeue -h --name=qat_sweep)\" ]"
  [ "$("$program" sweep "$work/sweep.json" --table | grep -c finished)" -eq 3 ] || fail "the missing run was not run"
}

all_cases=(launchers mpirun failure tries cancel cancel_pause preemption requeue other_node lost_node dead_node staging doctor sweep
  quickstart)

keep=
if [ "${1:-}" = --keep ]; then keep=1; shift; fi
if [ "${1:-}" = --stop ]; then stop_cluster; exit 0; fi
if [ $# -lt 1 ]; then sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 2; fi
program=$(realpath "$1")
shift
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" -eq 0 ] || skip "needs root, to make namespaces"
for tool in slurmctld slurmd munged ip nsenter unshare; do command -v "$tool" > /dev/null || skip "no $tool: slurm-wlm munge iproute2"; done
unshare --net true 2> /dev/null || skip "namespaces are not allowed here"
if [ ! -f "$state/ours" ]; then
  if pgrep -x slurmctld > /dev/null || [ -e /etc/slurm/slurm.conf ]; then skip "a Slurm is configured here already"; fi
  [ -n "$keep" ] || trap stop_cluster EXIT
  start_cluster
fi
export OMPI_MCA_mpi_yield_when_idle=1  # the nodes share this machine's cores
work=$(dirname "$program")/slurm_test
rm -rf "$work"
mkdir -p "$work"
cd "$work"
if [ $# -eq 0 ]; then set -- "${all_cases[@]}"; fi
for name; do
  start=$SECONDS
  "case_$name"
  echo "ok: $name ($((SECONDS - start)) s)"
done
