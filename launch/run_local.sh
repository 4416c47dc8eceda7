#!/usr/bin/env bash
# Runs an MPI program on this machine: launch/run_local.sh -n 4 program args...
#
# What differs from plain mpirun: it works as root and in containers, takes more ranks than cores, and does not bury the
# program's own error message. OMP_NUM_THREADS is left alone: the program divides the cores among its ranks.
#
# SIGTERM, SIGHUP, SIGINT (Ctrl-C), SIGUSR1 and SIGUSR2 ask the program to stop, as long as it takes. This script tells
# the ranks itself: mpirun would kill them a second after most signals, and not every mpirun passes the others on. The
# exit code is then the program's 75, for Ctrl-C 130. A second signal ends everything at once. A reader of the output that
# goes away (`| head`) ends nothing.
set -eu

usage() {
  echo "usage: ${0##*/} -n RANKS PROGRAM [ARGUMENT...]" >&2
  exit 2
}

if [ $# -lt 3 ] || [ "$1" != -n ]; then
  usage
fi
ranks=$2
shift 2
case $ranks in
  '' | *[!0-9]* | 0*) usage ;;
esac
if ! command -v mpirun > /dev/null; then
  echo "${0##*/}: mpirun was not found: install it with \`apt-get install openmpi-bin\`, or run launch/setup.sh" >&2
  exit 2
fi
# mpirun would take the program's name for an option that it does not know.
if ! command -v "$1" > /dev/null || [ -d "$1" ]; then
  echo "${0##*/}: $1: no such program; build/qat_dist is there once launch/quickstart.sh or launch/test.sh has built it" >&2
  exit 2
fi

# Never bound to cores: mpirun would give a rank one core, and with it one thread, where the ranks are few.
options=(--bind-to none)

version=$(mpirun --version 2> /dev/null || true)
case $version in
  *"Open MPI"*)
    # Only shared memory inside one machine: no probing of InfiniBand (openib, ucx, psm) and no warnings about it.
    case $version in
      *"(Open MPI) "[1-4].*) shared=vader ;;
      *) shared=sm ;;
    esac
    options+=(--mca pml ob1 --mca btl "self,$shared")
    # Direct copies between processes need ptrace rights, which containers do not give.
    options+=(--mca "btl_${shared}_single_copy_mechanism" none)
    # mpirun counts cores, without their hyper-threads, and refuses more ranks than that.
    options+=(--oversubscribe)
    # A waiting rank must not keep the core that another rank, another thread or another program needs.
    options+=(--mca mpi_yield_when_idle 1)
    if [ "$(id -u)" -eq 0 ]; then
      options+=(--allow-run-as-root)
    fi
    ;;
esac

# mpirun repeats in its own words that a rank ended with an error: the rank has already said why. Its notice that a rank
# was killed by a signal stays, for then nobody else can tell. Paragraphs stand between two lines of dashes.
drop_noise() {
  trap '' HUP INT TERM USR1 USR2  # ends when mpirun has closed the pipe, not before
  exec awk '
    function noise(line) {
      return line ~ /^Primary job  terminated normally/ || line ~ /^MPI_ABORT was invoked on rank/ ||
             line ~ /detected that one or more processes exited with non-zero status/ ||
             line ~ /^prterun has exited due to process rank .* calling$/
    }
    dropping { if ($0 ~ /^-----+$/) dropping = 0; next }
    held != "" { if (noise($0)) { held = ""; dropping = 1; next } print held; held = "" }
    /^-----+$/ { held = $0; next }
    /more process(es)? ha(s|ve) sent help message help-mpi-api/ { next }
    /Set MCA parameter "orte_base_help_aggregate" to 0/ || /^mpirun: Forwarding signal/ { next }
    { print; fflush() }
    END { if (held != "") print held }'
}
# Reads on when nobody reads its own output any more, where mpirun would end the ranks for that.
keep_reading() {
  trap '' HUP INT TERM USR1 USR2
  exec tee -p /dev/null
}
exec 3> >(drop_noise | keep_reading >&2)
filter=$!
# A terminal stays a terminal, a file a file.
output=
if [ -p /dev/stdout ]; then
  exec 4> >(keep_reading)
  output=$!
else
  exec 4>&1
fi

# If this script is killed outright, so is mpirun, and with it the ranks.
tether=()
if command -v setpriv > /dev/null; then
  tether=(setpriv --pdeathsig TERM)
fi
# A job of its own gets each signal once, from the traps below, and not from the terminal as well; it may not read from
# the terminal.
if [ -t 0 ]; then
  exec < /dev/null
fi
set -m
QAT_STOP_IS_FORWARDED=1 "${tether[@]}" mpirun "${options[@]}" -n "$ranks" "$@" <&0 >&4 2>&3 3>&- 4>&- &
mpirun=$!
exec 3>&- 4>&-

# tell SIGNAL: to every rank (mpirun's children, each with a process group of its own); fails where there is none yet.
# Those that mpirun starts later need not hear it: the ranks agree to stop.
tell() {
  local told=1 children rank
  if [ -r "/proc/$mpirun/task/$mpirun/children" ]; then
    children=$(cat "/proc/$mpirun/task/"*/children 2> /dev/null) || true
  else  # a kernel without that file
    children=$(pgrep -P "$mpirun" 2> /dev/null) || true
  fi
  for rank in $children; do
    if kill -s "$1" -- "-$rank" 2> /dev/null || kill -s "$1" "$rank" 2> /dev/null; then told=0; fi
  done
  return "$told"
}

# The first signal asks, a later one does not wait any more.
asked=
asked_at=0
hurried=
# shellcheck disable=SC2317
stop() {
  interrupted=1
  if [ -z "$asked" ]; then
    asked=$1 asked_at=${EPOCHREALTIME//[.,]/}
    while kill -0 "$mpirun" 2> /dev/null && ! tell "$1"; do sleep 0.1; done
  elif [ $((${EPOCHREALTIME//[.,]/} - asked_at)) -gt 500000 ]; then  # else the same one, by another way
    hurried=$1
    tell "$1" || true
    kill -TERM "$mpirun" 2> /dev/null || true
  fi
}
for signal in HUP INT TERM USR1 USR2; do
  # shellcheck disable=SC2064
  trap "stop $signal" "$signal"
done

# A trap ends `wait` early, with a status that is not the program's.
code=0
interrupted=1
while [ "$interrupted" = 1 ]; do
  interrupted=0
  if wait "$mpirun"; then code=0; else code=$?; fi
done
# Everything is printed when this script ends.
wait "$filter" || true
if [ -n "$output" ]; then wait "$output" || true; fi

if [ -n "$hurried" ] && [ "$code" -ne 0 ]; then
  code=$((128 + $(kill -l "$hurried")))
elif [ -n "$asked" ]; then
  case $code in
    75 | $((128 + $(kill -l "$asked"))))  # the second: before the program could take it, so with nothing to save
      if [ "$asked" = INT ]; then code=130; else code=75; fi
      ;;
  esac
fi
exit "$code"
