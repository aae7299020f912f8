#!/usr/bin/env bash
# A real Slurm on this one machine: munged + slurmctld + NODES slurmd's, all state under $SLURM_LAB.
#   slurm_up.sh                 install (Debian packages), configure, start; safe to run again
#   NODES=2 SLOTS=16 GPUS=8     nodes, CPU slots a node, fake GPUs a node (defaults)
#   HOSTS=1                     also make n0, n1, ... resolve to 127.0.0.1 (adds a line to /etc/hosts; 0 to leave it alone)
# Then:  export SLURM_CONF=$SLURM_LAB/slurm.conf ; srun ...
set -euo pipefail
SLURM_LAB=${SLURM_LAB:-${TMPDIR:-/tmp}/slurm-lab}
NODES=${NODES:-2} SLOTS=${SLOTS:-16} GPUS=${GPUS:-8} PARTITION=${PARTITION:-lab}
HOSTS=${HOSTS:-1}
CTLD_PORT=${CTLD_PORT:-26817} SLURMD_PORT=${SLURMD_PORT:-26900}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

need=()
command -v munged    >/dev/null || need+=(munge)
command -v slurmctld >/dev/null || need+=(slurmctld)
command -v slurmd    >/dev/null || need+=(slurmd)
command -v srun      >/dev/null || need+=(slurm-client)
if [ ${#need[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

mkdir -p "$SLURM_LAB"/{run,log,state,spool,munge,dev}
chmod 755 "$SLURM_LAB" "$SLURM_LAB"/run; chmod 700 "$SLURM_LAB"/munge

# --- munge: its own key and socket
key=$SLURM_LAB/munge/munge.key sock=$SLURM_LAB/run/munge.socket
[ -s "$key" ] || { head -c 1024 /dev/urandom >"$key"; chmod 400 "$key"; }
if ! alive "$SLURM_LAB/run/munged.pid"; then
    munged --force --key-file="$key" --socket="$sock" --pid-file="$SLURM_LAB/run/munged.pid" \
        --log-file="$SLURM_LAB/log/munged.log" --seed-file="$SLURM_LAB/munge/munged.seed" 2>>"$SLURM_LAB/log/munged.start"
fi

# --- fake GPUs: Slurm wants one character device a GPU (a plain file or a bare count is refused), so each is a node like /dev/null
for ((g = 0; g < GPUS; g++)); do [ -c "$SLURM_LAB/dev/nvidia$g" ] || mknod "$SLURM_LAB/dev/nvidia$g" c 1 3; done
range="[0-$((GPUS - 1))]"; last=$((NODES - 1))

cat >"$SLURM_LAB/gres.conf" <<CONF
NodeName=n[0-$last] Name=gpu File=$SLURM_LAB/dev/nvidia$range
CONF
: >"$SLURM_LAB/plugstack.conf"
{
cat <<CONF
ClusterName=lab
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$CTLD_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$SLURM_LAB/state
SlurmdSpoolDir=$SLURM_LAB/spool/%n
SlurmctldPidFile=$SLURM_LAB/run/slurmctld.pid
SlurmdPidFile=$SLURM_LAB/run/slurmd-%n.pid
SlurmctldLogFile=$SLURM_LAB/log/slurmctld.log
SlurmdLogFile=$SLURM_LAB/log/slurmd-%n.log
PlugStackConfig=$SLURM_LAB/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
InactiveLimit=0
KillWait=300
MessageTimeout=20
SlurmctldTimeout=60
SlurmdTimeout=60
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
CONF
for ((n = 0; n < NODES; n++)); do
    echo "NodeName=n$n NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((SLURMD_PORT + n)) CPUs=$SLOTS RealMemory=8000 Gres=gpu:$GPUS State=UNKNOWN"
done
echo "PartitionName=$PARTITION Nodes=n[0-$last] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES"
} >"$SLURM_LAB/slurm.conf"

# --- a launcher takes the first of `scontrol show hostnames` for MASTER_ADDR, so the names must resolve
if [ "$HOSTS" = 1 ]; then
    for ((n = 0; n < NODES; n++)); do getent hosts "n$n" >/dev/null || echo "127.0.0.1 n$n # slurm_up" >>/etc/hosts; done
fi

export SLURM_CONF=$SLURM_LAB/slurm.conf
alive "$SLURM_LAB/run/slurmctld.pid" || slurmctld -i -f "$SLURM_CONF"
for ((n = 0; n < NODES; n++)); do
    alive "$SLURM_LAB/run/slurmd-n$n.pid" || slurmd -f "$SLURM_CONF" -N "n$n"
done
for _ in $(seq 100); do
    [ "$(sinfo -h -N -t idle,mixed,allocated -o %N 2>/dev/null | sort -u | wc -l)" -eq "$NODES" ] && { sinfo; exit 0; }
    sleep 0.3
done
echo "slurm did not come up; logs in $SLURM_LAB/log" >&2; sinfo >&2 || true; exit 1
