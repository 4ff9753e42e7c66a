# Sourced by each peer's script: `PEER SHAPE` prints the seconds of one run of SHAPE (chain or wide), the median of several.
# A peer that cannot be had ends with 77 and says why on standard error.
# shellcheck shell=bash
set -euo pipefail

# shellcheck disable=SC2034 # for those who source this
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shape=${1:?name a shape: chain or wide}
case $shape in chain | wide) ;; *) echo "shape: must be chain or wide (got \`$shape\`)" >&2; exit 2 ;; esac

# What is installed lies here and is used again.
cache=${PEERS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gofer-peers}
reps=${PEERS_REPS:-5}
tasks=${PEERS_TASKS:-40}
export tasks
mkdir -p "$cache"
work=$(mktemp -d)
background=()
clean() {
    for pid in "${background[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean EXIT

skip() {
    echo "$*" >&2
    exit 77
}

# venv NAME PACKAGE==VERSION...: a Python environment with exactly these, made once.
venv() {
    local dir=$cache/$1 wanted="${*:2}"
    if [[ $(cat "$dir/wanted" 2>/dev/null) != "$wanted" ]]; then
        rm -rf "$dir"
        python3 -m venv "$dir" >"$work/install.log" 2>&1 || skip "no Python environment: $(tail -n 1 "$work/install.log")"
        "$dir/bin/pip" install --quiet "${@:2}" >"$work/install.log" 2>&1 ||
            skip "cannot install $wanted: $(grep -m 1 -i error "$work/install.log" || tail -n 1 "$work/install.log")"
        echo "$wanted" >"$dir/wanted"
    fi
    PATH=$dir/bin:$PATH
}

# repeat PROGRAM...: runs it once to warm up, then several times; prints the median of the seconds it took. A fresh,
# empty $work/run is there each time.
repeat() {
    python3 - "$reps" "$work/run" "$@" <<'PYTHON'
import shutil, os, statistics, subprocess, sys, time
reps, run, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
seconds = []
for _ in range(reps + 1):
    shutil.rmtree(run, ignore_errors=True)
    os.mkdir(run)
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds.append(time.perf_counter() - start)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout.decode(errors='replace')[-2000:]}")
print(f"{statistics.median(seconds[1:]):.4f}")
PYTHON
}

# median: of the numbers on standard input, the first left out, because it warms up.
median() {
    python3 -c 'import statistics, sys; print(f"{statistics.median([float(x) for x in sys.stdin.read().split()][1:]):.4f}")'
}

# until_answers URL: waits until something answers there.
until_answers() {
    for _ in $(seq 300); do
        curl --silent --fail --output /dev/null --max-time 2 "$1" && return
        sleep 0.1
    done
    skip "nothing answers at $1 after 30 s: $(tail -n 3 "$work"/*.log | tr '\n' ' ')"
}

# free_port: one that nothing listens on.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
