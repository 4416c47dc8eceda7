#!/usr/bin/env bash
# Runs an MPI program on this machine: launch/run_local.sh -n 4 program args...
#
# What differs from plain mpirun: it works as root and in containers, takes more ranks than cores, and does not bury the
# program's own error message. Signals go to mpirun, which ends the ranks (SIGUSR1 and SIGUSR2: passes them on), and the
# exit code is the program's. OMP_NUM_THREADS is left alone: the program divides the cores among its ranks.
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
    /Set MCA parameter "orte_base_help_aggregate" to 0/ { next }
    { print; fflush() }
    END { if (held != "") print held }' >&2
}
exec 3> >(drop_noise)
filter=$!

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
"${tether[@]}" mpirun "${options[@]}" -n "$ranks" "$@" <&0 2>&3 3>&- &
mpirun=$!
exec 3>&-
forward() {
  interrupted=1
  kill "-$1" "$mpirun" 2> /dev/null || true
}
trap 'forward HUP' HUP
trap 'forward INT' INT
trap 'forward TERM' TERM
trap 'forward USR1' USR1
trap 'forward USR2' USR2

# A trap ends `wait` early, with a status that is not the program's.
code=0
interrupted=1
while [ "$interrupted" = 1 ]; do
  interrupted=0
  if wait "$mpirun"; then code=0; else code=$?; fi
done
wait "$filter" || true  # everything is printed when this script ends
exit "$code"
