# shellcheck shell=bash disable=SC2154
# Sourced by slurm_test.sh: a Slurm of $nodes nodes on this machine, each a network and host-name namespace with its slurmd,
# below one slurmctld. What it keeps is in $state.

on_node() { local n=$1; shift; nsenter --net="/var/run/netns/qat$n" --uts="$state/uts$n" "$@"; }

stop_cluster() {
  scancel --user=root > /dev/null 2>&1 || true
  local file
  for file in "$state"/ctl.pid "$state"/qat*.pid; do
    if [ -s "$file" ]; then kill "$(cat "$file")" 2> /dev/null || true; fi
  done
  sleep 1
  for file in "$state"/uts*; do umount "$file" 2> /dev/null || true; done
  for ((n = 1; n <= nodes; n++)); do ip netns del "qat$n" 2> /dev/null || true; done
  ip link del qat_bridge 2> /dev/null || true
  if [ -f "$state/hosts.before" ]; then cat "$state/hosts.before" > /etc/hosts; fi
  if [ -f "$state/ours" ]; then rm -f /etc/slurm/slurm.conf /etc/slurm/cgroup.conf; fi
  rm -rf "$state"
}

start_slurmd() {
  on_node "$1" unshare --mount bash -c "mount --bind $state/tmp$1 /tmp && exec slurmd -N qat$1"
}

start_cluster() {
  local n
  mkdir -p "$state"/spool/ctl "$state"/log
  touch "$state/ours"
  if ! pgrep -x munged > /dev/null; then
    install -d -o munge -g munge /run/munge
    if [ ! -s /etc/munge/munge.key ]; then /usr/sbin/mungekey -c; fi
    chown munge: /etc/munge/munge.key
    runuser -u munge -- /usr/sbin/munged
  fi
  ip link add qat_bridge type bridge
  ip addr add 10.78.0.254/24 dev qat_bridge
  ip link set qat_bridge up
  cp /etc/hosts "$state/hosts.before"
  echo "10.78.0.254 $(hostname -s)" >> /etc/hosts
  mkdir -p /etc/slurm
  {
    cat << END
ClusterName=qat
SlurmctldHost=$(hostname -s)(10.78.0.254)
AuthType=auth/munge
# A requeued job waits until its credentials have expired: 120 s otherwise.
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$state/spool/ctl
SlurmdSpoolDir=$state/spool/%n
SlurmctldPidFile=$state/ctl.pid
SlurmdPidFile=$state/%n.pid
SlurmctldLogFile=$state/log/ctl
SlurmdLogFile=$state/log/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,batch_sched_delay=1
SlurmdTimeout=15
KillWait=20
JobRequeue=1
END
    for ((n = 1; n <= nodes; n++)); do echo "NodeName=qat$n NodeAddr=10.78.0.$n CPUs=4 RealMemory=4000 State=UNKNOWN"; done
    echo "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES"
  } > /etc/slurm/slurm.conf
  echo "CgroupAutomount=no" > /etc/slurm/cgroup.conf
  for ((n = 1; n <= nodes; n++)); do
    ip netns add "qat$n"
    ip link add "qatv$n" type veth peer name eth0 netns "qat$n"
    ip link set "qatv$n" master qat_bridge up
    ip -n "qat$n" addr add "10.78.0.$n/24" dev eth0
    ip -n "qat$n" link set eth0 up
    ip -n "qat$n" link set lo up
    echo "10.78.0.$n qat$n" >> /etc/hosts
    touch "$state/uts$n"
    unshare --uts="$state/uts$n" hostname "qat$n"
    mkdir -p "$state/spool/qat$n" "$state/tmp$n"
    chmod 1777 "$state/tmp$n"
  done
  slurmctld
  for ((n = 1; n <= nodes; n++)); do start_slurmd "$n"; done
  wait_for 30 "both nodes idle" nodes_are_idle
}

nodes_are_up() { [ "$(sinfo -h -N -o %T | grep -cE '^(idle|allocated|mixed)$')" -eq "$nodes" ]; }
nodes_are_idle() { [ "$(sinfo -h -N -o %T | grep -c '^idle$')" -eq "$nodes" ]; }
