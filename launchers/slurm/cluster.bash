# shellcheck shell=bash disable=SC2034
# Sourced by up, down and node: where the cluster's state is, and which processes are its own.
state=$(readlink -m "${PREFOPT_SLURM:-/tmp/prefopt-slurm}")
nodes=(n1 n2)
link=/etc/slurm/slurm.conf
export SLURM_CONF=$state/slurm.conf

fail() { # WHAT MEND
    printf '%s: %s\n  mend: %s\n' "$(basename "$0")" "$1" "$2" >&2
    exit 1
}

as_root() { # ARGUMENTS: run this script again as root, where that is needed and can be done
    ((EUID == 0)) && return
    command -v sudo >/dev/null || fail "SLURM's daemons need root" "run it as root, or install sudo"
    exec sudo PREFOPT_SLURM="$state" "$0" "$@"
}

until_true() { # SECONDS COMMAND...: poll, and say whether it came true
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

alive() { # PID NAME: a container's first process may never reap, so the dead can linger as zombies
    [[ $(cat "/proc/$1/comm" 2>/dev/null) == "$2" ]] && grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null
}

dead() { ! alive "$@"; }

runs() { # NAME PIDFILE: the process id, if the daemon that wrote it still runs
    local pid
    pid=$(cat "$2" 2>/dev/null) && alive "$pid" "$1" && echo "$pid"
}

stop() { # NAME PIDFILE
    local pid
    pid=$(runs "$1" "$2") || return 0
    kill "$pid"
    until_true 10 dead "$pid" "$1" || kill -KILL "$pid"
}

on_node() { # NODE: process ids of its slurmd, of what supervises its jobs, and of the jobs' tasks
    local proc
    for proc in /proc/[0-9]*; do
        if [[ $(readlink "$proc/cwd") == "$state/$1" && $(cat "$proc/comm") == slurm* ]]; then
            echo "${proc#/proc/}"
        elif tr '\0' '\n' <"$proc/environ" | grep -cxF -e "SLURM_CONF=$SLURM_CONF" -e "SLURMD_NODENAME=$1" | grep -qx 2; then
            echo "${proc#/proc/}"
        fi
    done 2>/dev/null
}

kill_node() { # NODE: as when its plug is pulled
    local pids
    mapfile -t pids < <(on_node "$1")
    ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || true
}

start_node() { # NODE
    mkdir -p "$state/$1/spool"
    slurmd -N "$1"
}

has_state() { # REGEX NODE...: whether sinfo's state of each node matches
    local regex=$1 node
    shift
    for node; do
        [[ $(sinfo -h -n "$node" -p low -o %T 2>/dev/null) =~ $regex ]] || return 1
    done
}
