#!/bin/sh
# The sampler's bits under the compilers that are here and flags from -O0 to -Ofast: one hash.
# CFLAGS_EXTRA is added to every build.
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
first= passed=0 failed=0 skipped=0
for compiler in gcc clang; do
    if ! command -v $compiler >/dev/null 2>&1; then
        echo "SKIP $compiler is not here"
        skipped=$((skipped + 1))
        continue
    fi
    for flags in "-O0" "-O2" "-O3 -march=native" "-Ofast" "-Ofast -march=native"; do
        # shellcheck disable=SC2086
        if $compiler -std=c11 $flags $CFLAGS_EXTRA "$here/bits_sampler.c" -o "$work/bits" -lm &&
            hash=$("$work/bits"); then
            : "${first:=$hash}"
        else
            hash="no answer"
        fi
        if [ "$hash" = "$first" ]; then
            passed=$((passed + 1))
        else
            echo "FAIL $0 $compiler $flags: $hash, expected $first"
            failed=$((failed + 1))
        fi
    done
done
echo "bits_sampler: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] && [ $passed -gt 1 ]
