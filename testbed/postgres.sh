# shellcheck shell=bash
# A private PostgreSQL for tests; sourced by `test` and `up`.
#
# postgres_start DIR   makes a cluster in DIR and starts it on a free loopback port; sets POSTGRES_URL
# postgres_stop DIR    stops it
# postgres_halt DIR MODE, postgres_resume DIR PORT    stop it (fast, immediate) and start it again with what it has
#
# POSTGRES_CONF may hold further lines of its configuration.
#
# It keeps nothing (no fsync), listens on 127.0.0.1 alone, and has a random password. PostgreSQL refuses to run as root, so
# for root it runs as the user `postgres` of Debian's package.

say() { printf 'testbed: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Runs a command with root's rights, or says what to run by hand.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root and there is no sudo; run by hand: $*"
    fi
}

# Prints the directory of the newest PostgreSQL's programs; Debian does not put them on the PATH.
postgres_bin() {
    local initdb newest=
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        if [ -x "$initdb" ]; then
            newest=$(printf '%s\n%s\n' "$newest" "$initdb" | sort -V | tail -n 1)
        fi
    done
    if [ -z "$newest" ]; then
        newest=$(command -v initdb) || return 1
    fi
    dirname "$newest"
}

postgres_install() {
    command -v apt-get >/dev/null || die "install PostgreSQL 13 or later, so that \`initdb\` is on the PATH"
    say "installing postgresql with apt-get (Debian may start a server of its own on port 5432; the tests do not use it)"
    as_root apt-get update -q >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql >&2
}

# Runs one of PostgreSQL's programs as a user it accepts, from a directory that user may read.
postgres_run() {
    local program=$1
    shift
    if [ "$(id -u)" = 0 ]; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$POSTGRES_BIN/$program" "$@")
    else
        "$POSTGRES_BIN/$program" "$@"
    fi
}

# Another language for the errors of one test, which is skipped, and says so, where the system has none.
postgres_german() {
    if locale -a 2>/dev/null | grep -qi '^de_DE\.utf-\{0,1\}8$'; then
        return
    fi
    if [ "$(id -u)" = 0 ] && [ -e /usr/share/i18n/locales/de_DE ]; then
        localedef -i de_DE -f UTF-8 de_DE.UTF-8 || true
    else
        say "no locale de_DE.UTF-8: errors are tested in English alone (Debian: apt-get install locales, then localedef)"
    fi
}

postgres_start() {
    local dir=$1 password port attempt
    POSTGRES_BIN=$(postgres_bin) || { postgres_install; POSTGRES_BIN=$(postgres_bin) || die "apt-get brought no initdb"; }
    postgres_german
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    mkdir -p "$dir"
    (umask 077 && printf '%s\n' "$password" >"$dir/password")
    if [ "$(id -u)" = 0 ]; then
        id postgres >/dev/null 2>&1 || as_root useradd --system --no-create-home postgres
        chown -R postgres "$dir"
    fi
    postgres_run initdb --pgdata="$dir/data" --username=gofer --pwfile="$dir/password" --auth=scram-sha-256 \
        --encoding=UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; die "initdb failed"; }
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 400
fsync = off
synchronous_commit = off
full_page_writes = off
log_min_messages = warning
${POSTGRES_CONF:-}
CONF
    for attempt in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 12000))
        if postgres_run pg_ctl start --wait --timeout=60 --silent --pgdata="$dir/data" --log="$dir/server.log" \
            --options="-p $port" >/dev/null 2>&1; then
            # shellcheck disable=SC2034 # for the script that sources this
            POSTGRES_URL="postgres://gofer:$password@127.0.0.1:$port/postgres"
            say "PostgreSQL $(cat "$dir/data/PG_VERSION") on 127.0.0.1:$port, data in $dir"
            return 0
        fi
    done
    cat "$dir/server.log" >&2
    die "PostgreSQL did not start on any of $attempt ports"
}

postgres_stop() {
    if [ -f "$1/data/postmaster.pid" ]; then
        postgres_run pg_ctl stop --wait --mode=immediate --silent --pgdata="$1/data" >/dev/null 2>&1 || true
    fi
}

postgres_halt() {
    POSTGRES_BIN=$(postgres_bin)
    postgres_run pg_ctl stop --wait --timeout=60 --mode="$2" --silent --pgdata="$1/data" >/dev/null 2>&1
}

postgres_resume() {
    POSTGRES_BIN=$(postgres_bin)
    postgres_run pg_ctl start --wait --timeout=60 --silent --pgdata="$1/data" --log="$1/server.log" \
        --options="-p $2" >/dev/null 2>&1
}
