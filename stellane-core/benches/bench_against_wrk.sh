#!/bin/sh
# Throughput by `stellane bench` over that by `wrk`, in pairs, against a saturated server: 1.00 is agreement.
# Usage, from the root of the repository on an idle machine: stellane-core/benches/bench_against_wrk.sh [pairs]
# The server has one core, both generators take turns on another; the order turns round with every pair.
set -eu
pairs=${1:-15}
seconds=3
cargo build --quiet --release -p stellane-examples --bin full_stack
cargo build --quiet --release -p stellane-core --features cli --bin stellane
address=127.0.0.1:3917
url=http://$address/hello
log=$(mktemp)
STELLANE__SERVER__ADDRESS=$address STELLANE__SERVER__ADMIN_ADDRESS= STELLANE__SERVER__DRAIN_DELAY=0s \
    STELLANE__LOG__LEVEL=warn taskset -c 1 target/release/full_stack >"$log" 2>&1 </dev/null &
server=$!
trap 'kill $server 2>/dev/null || true; rm -f "$log"' EXIT
by_wrk() {
    taskset -c 0 wrk -t1 -c64 -d${seconds}s "$url" | sed -n 's/^Requests\/sec: *//p'
}
by_bench() {
    taskset -c 0 target/release/stellane bench "$url" -t 1 -c 64 -d ${seconds}s --json |
        sed -n 's/.*"responses_per_second": *\([0-9.e+]*\).*/\1/p'
}
tries=0
until curl -fs "$url" >/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 50 ] || { cat "$log" >&2; exit 1; }
    sleep 0.1
done
by_wrk >/dev/null
pair=0
while [ $pair -lt "$pairs" ]; do
    if [ $((pair % 2)) = 0 ]; then
        wrk=$(by_wrk) bench=$(by_bench)
    else
        bench=$(by_bench) wrk=$(by_wrk)
    fi
    pair=$((pair + 1))
    echo "$bench $wrk"
done | awk '
    { ratio[NR] = $1 / $2; printf "bench %8.0f/s  wrk %8.0f/s  ratio %.3f\n", $1, $2, ratio[NR] }
    END {
        for (i = 2; i <= NR; i++)
            for (j = i; j > 1 && ratio[j] < ratio[j - 1]; j--) { t = ratio[j]; ratio[j] = ratio[j - 1]; ratio[j - 1] = t }
        printf "median ratio %.3f of %d pairs\n", ratio[int((NR + 1) / 2)], NR
    }'
