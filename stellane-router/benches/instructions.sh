#!/bin/sh
# Instructions per operation of every contender of `compare`, counted by callgrind.
# Usage, from the root of the repository: stellane-router/benches/instructions.sh [group]
set -eu
bench=$(cargo bench -p stellane-router --profile default-release --bench compare --no-run 2>&1 |
    sed -n 's/.*compare.*(\(.*\))$/\1/p')
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"$bench" list | grep "^${1:-}" | while read -r name operations; do
    rounds=$((10000 / operations + 1))
    valgrind --tool=callgrind --callgrind-out-file="$out" --toggle-collect='compare::measured' \
        "$bench" "$name" "$rounds" >/dev/null 2>&1
    total=$(sed -n 's/^\(summary\|totals\): //p' "$out" | head -1)
    printf '%-32s %8d instructions\n' "$name" $((total / rounds / operations))
done
