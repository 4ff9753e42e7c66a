# shellcheck shell=bash
# A private Nomad agent for tests; sourced by `test`, after postgres.sh (whose `say` and `die` it uses).
#
# nomad_bin            prints the program: $GOFER_TEST_NOMAD_BIN, or `nomad` on the PATH; fails when there is none
# nomad_start DIR      starts a server that is a client, too, with its data in DIR, on free loopback ports; sets
#                      NOMAD_ADDRESS, NOMAD_ROOT_TOKEN (may do everything), NOMAD_GOFER_TOKEN (what
#                      config/nomad/gofer-policy.hcl allows), NOMAD_IMAGE, NOMAD_USER_IMAGE (that its docker has, if there is docker),
#                      NOMAD_PODMAN_IMAGE (the same, where GOFER_TEST_NOMAD_PLUGINS is a directory with nomad-driver-podman)
#                      and NOMAD_SHARED (a directory that every driver's tasks may see: the host volume `gofer-testbed`)
# nomad_stop DIR       stops it and everything it runs
#
# It listens on 127.0.0.1 alone, has ACLs on, and calls nobody. With root's rights it runs tasks with exec and with docker, where
# there is one; without, with raw_exec alone.

nomad_bin() {
    if [ -n "${GOFER_TEST_NOMAD_BIN:-}" ]; then
        [ -x "$GOFER_TEST_NOMAD_BIN" ] || return 1
        printf '%s\n' "$GOFER_TEST_NOMAD_BIN"
    else
        command -v nomad
    fi
}

# The driver podman, which is not part of Nomad.
nomad_podman() {
    [ -n "${GOFER_TEST_NOMAD_PLUGINS:-}" ] || return 0
    cat <<HCL
plugin_dir = "$GOFER_TEST_NOMAD_PLUGINS"
plugin "nomad-driver-podman" {
  config {
    socket_path = "unix:///run/podman/podman.sock"
    volumes {
      enabled = true
    }
  }
}
HCL
}

# The machine's real size is not asked for: a test that runs 50 tasks at once wants a place for each.
nomad_configuration() {
    local dir=$1 port=$2
    cat <<HCL
name                 = "testbed"
data_dir             = "$dir/data"
bind_addr            = "127.0.0.1"
disable_update_check = true
leave_on_interrupt   = true
leave_on_terminate   = true
log_level            = "WARN"
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
ports {
  http = $port
  rpc  = $((port + 1))
  serf = $((port + 2))
}
server {
  enabled           = true
  bootstrap_expect  = 1
  event_buffer_size = 5000
}
client {
  enabled           = true
  network_interface = "lo"
  servers           = ["127.0.0.1:$((port + 1))"]
  cpu_total_compute = 100000
  memory_total_mb   = 65536
  # A full disk must not take the logs that a test is about to read.
  gc_max_allocs            = 1000
  gc_disk_usage_threshold  = 100
  gc_inode_usage_threshold = 100
  max_kill_timeout  = "1h"
  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
  # The directories that exec puts into every task's root; the default is most of /usr, and takes half a minute.
  chroot_env {
    "$dir/root" = "/"
  }
  host_volume "gofer-testbed" {
    path = "$dir/shared"
  }
  drain_on_shutdown {
    deadline           = "1s"
    force              = true
    ignore_system_jobs = false
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
plugin "docker" {
  config {
    # It would remove the image that nomad_image makes.
    gc {
      image = false
    }
  }
}
$(nomad_podman)
acl {
  enabled = true
}
limits {
  http_max_conns_per_client = 0
  rpc_max_conns_per_client  = 0
}
HCL
}

# Makes the root directory of exec's tasks: a shell, and few other programs.
nomad_root() {
    local dir=$1 program file
    mkdir -p "$dir/bin" "$dir/lib64"
    for program in sh cat env sleep head tr grep stty; do
        file=$(command -v "$program") || die "there is no program \`$program\`"
        cp --dereference "$file" "$dir/bin/$program"
        { ldd "$file" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r file; do
            mkdir -p "$dir$(dirname "$file")"
            cp --dereference "$file" "$dir$file"
        done
    done
}

# Makes a small image with a shell, for podman, where the agent has it; sets NOMAD_PODMAN_IMAGE, or nothing.
nomad_podman_image() {
    local dir=$1
    NOMAD_PODMAN_IMAGE=
    [ -n "${GOFER_TEST_NOMAD_PLUGINS:-}" ] && nomad_image_root "$dir" || return 0
    tar -C "$dir" -c . | podman import --quiet - gofer-testbed:1 >/dev/null
    # shellcheck disable=SC2034 # for the script that sources this
    NOMAD_PODMAN_IMAGE=localhost/gofer-testbed:1
}

# Fills the image's root; fails where there is no static busybox.
nomad_image_root() {
    local dir=$1 busybox program
    busybox=$(command -v busybox) || return 1
    mkdir -p "$dir/bin" "$dir/tmp" "$dir/usr"
    cp --dereference "$busybox" "$dir/bin/busybox"
    for program in sh cat env sleep printf head tr grep stty sha256sum; do
        ln -sf busybox "$dir/bin/$program"
    done
}

# Makes a small image with a shell, and the same with another user than root, where there are docker and a static busybox;
# sets NOMAD_IMAGE and NOMAD_USER_IMAGE, or nothing.
nomad_image() {
    local dir=$1
    NOMAD_IMAGE='' NOMAD_USER_IMAGE=''
    docker info >/dev/null 2>&1 && nomad_image_root "$dir" || return 0
    if tar -C "$dir" -c . | docker import - gofer-testbed:1 >/dev/null &&
        tar -C "$dir" -c . | docker import --change 'USER 1000:1000' - gofer-testbed:1-user >/dev/null &&
        docker run --rm --network=none gofer-testbed:1 /bin/sh -c true >/dev/null 2>&1; then
        # shellcheck disable=SC2034 # for the script that sources this
        NOMAD_IMAGE=gofer-testbed:1 NOMAD_USER_IMAGE=gofer-testbed:1-user
    fi
}

nomad_start() {
    local dir=$1 nomad port attempt
    nomad=$(nomad_bin) || die "there is no program \`nomad\`: put it on the PATH or name it with GOFER_TEST_NOMAD_BIN"
    mkdir -p "$dir"
    nomad_root "$dir/root"
    NOMAD_SHARED=$dir/shared
    # The tasks of exec are somebody else's.
    mkdir -p "$NOMAD_SHARED"
    chmod 1777 "$NOMAD_SHARED"
    nomad_image "$dir/image"
    nomad_podman_image "$dir/image"
    for attempt in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 12000))
        nomad_configuration "$dir" "$port" >"$dir/agent.hcl"
        # Nothing of this shell's: raw_exec tasks see the agent's environment.
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME="$dir" TMPDIR="${TMPDIR:-/tmp}" "$nomad" agent -config "$dir/agent.hcl" >"$dir/agent.log" 2>&1 &
        printf '%s\n' $! >"$dir/agent.pid"
        NOMAD_ADDRESS=http://127.0.0.1:$port
        if nomad_set_up "$dir" "$nomad"; then
            say "$("$nomad" version | head -n 1) on $NOMAD_ADDRESS, data in $dir"
            return 0
        fi
        nomad_stop "$dir"
        rm -rf "$dir/data"
    done
    cat "$dir/agent.log" >&2
    die "nomad did not start on any of $attempt ports"
}

# Waits for the server and the node, and makes the tokens.
nomad_set_up() {
    local dir=$1 nomad=$2 try
    export NOMAD_ADDR=$NOMAD_ADDRESS
    NOMAD_ROOT_TOKEN=$(cat /proc/sys/kernel/random/uuid)
    (umask 077 && printf '%s' "$NOMAD_ROOT_TOKEN" >"$dir/root-token")
    for try in $(seq 100); do
        kill -0 "$(cat "$dir/agent.pid")" 2>/dev/null || return 1
        if "$nomad" acl bootstrap "$dir/root-token" >"$dir/bootstrap.log" 2>&1; then
            break
        fi
        [ "$try" -lt 100 ] || return 1
        sleep 0.3
    done
    export NOMAD_TOKEN=$NOMAD_ROOT_TOKEN
    "$nomad" acl policy apply gofer config/nomad/gofer-policy.hcl >/dev/null || return 1
    # shellcheck disable=SC2034 # for the script that sources this
    NOMAD_GOFER_TOKEN=$("$nomad" acl token create -name gofer -type client -policy gofer -t '{{.SecretID}}') || return 1
    for try in $(seq 100); do
        if "$nomad" node status 2>/dev/null | grep -q ' ready$'; then
            unset NOMAD_ADDR NOMAD_TOKEN
            return 0
        fi
        sleep 0.3
    done
    return 1
}

nomad_stop() {
    local dir=$1 pid mount
    [ -f "$dir/agent.pid" ] || return 0
    pid=$(cat "$dir/agent.pid")
    # It drains its node first, so nothing it started is left behind.
    kill -TERM "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    # Its mounts for tasks, the innermost first.
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | tac | while read -r mount; do
        umount "$mount" 2>/dev/null || true
    done
    rm -f "$dir/agent.pid"
}
