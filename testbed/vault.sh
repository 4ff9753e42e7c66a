# shellcheck shell=bash
# A private Vault or OpenBao for tests; sourced by `test`, after postgres.sh, which has `say` and `die`.
#
# vault_bin            prints the program's path: $GOFER_TEST_VAULT_BIN, else `vault` or `bao` on the PATH; fails without one
# vault_start DIR      starts a development server, which keeps everything in memory, on a free loopback port, with its log
#                      in DIR; sets VAULT_ADDR_STARTED and VAULT_TOKEN_STARTED
# vault_stop DIR       stops it
#
# The tests want GOFER_TEST_VAULT_ADDR and GOFER_TEST_VAULT_TOKEN (everything may be changed with it), and
# GOFER_TEST_VAULT_BIN to start servers of their own, which they seal.

vault_bin() {
    local found
    if [ -n "${GOFER_TEST_VAULT_BIN:-}" ]; then
        [ -x "$GOFER_TEST_VAULT_BIN" ] || die "GOFER_TEST_VAULT_BIN: $GOFER_TEST_VAULT_BIN is no program"
        printf '%s\n' "$GOFER_TEST_VAULT_BIN"
        return
    fi
    found=$(command -v vault || command -v bao) || return 1
    printf '%s\n' "$found"
}

vault_start() {
    local dir=$1 program token port attempt tries
    program=$(vault_bin) || die "there is neither vault nor bao on the PATH; set GOFER_TEST_VAULT_BIN"
    mkdir -p "$dir/home"
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    for attempt in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 12000))
        # In a home of its own, so that nobody's ~/.vault-token is overwritten.
        HOME="$dir/home" "$program" server -dev -dev-no-store-token -dev-root-token-id="$token" \
            -dev-listen-address="127.0.0.1:$port" >"$dir/server.log" 2>&1 &
        printf '%s\n' "$!" >"$dir/pid"
        for ((tries = 0; tries < 300; tries++)); do
            # It says so when it is unsealed and has its engines.
            if grep -q 'Development mode should NOT be used' "$dir/server.log"; then
                # shellcheck disable=SC2034 # for the script that sources this
                VAULT_ADDR_STARTED="http://127.0.0.1:$port" VAULT_TOKEN_STARTED=$token
                say "$("$program" version | head -n 1) on 127.0.0.1:$port"
                return 0
            fi
            kill -0 "$(cat "$dir/pid")" 2>/dev/null || break
            sleep 0.1
        done
        vault_stop "$dir"
    done
    cat "$dir/server.log" >&2
    die "$program did not start on any of $attempt ports"
}

vault_stop() {
    local pid
    if [ -f "$1/pid" ]; then
        pid=$(cat "$1/pid")
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        rm -f "$1/pid"
    fi
}
