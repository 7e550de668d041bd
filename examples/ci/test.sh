#!/bin/sh
# test.sh PREFIX: a program over a live update, as a CI job runs it. PREFIX: where Perdure is installed.
set -eu
prefix=$1
PATH=$prefix/bin:$PATH
examples=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
logs=${HOME:-/tmp}/perdure-logs
mkdir -p "$logs"

# A machine of its own for every job: jobs that run at the same time do not see each other.
machine=ci-$$
perdure machine up "$machine"
trap 'perdure machine log "$machine" >"$logs/machine.log" 2>&1; perdure machine down "$machine"; rm -rf "$work"' EXIT

cmake -S "$examples" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >"$logs/configure.log"
cmake --build "$work/build" --target vmm >"$logs/build.log"

perdure run --machine "$machine" -- "$work/build/vmm" /dev/vfio/devices/vfio0 --stay >"$logs/before.log" &
program=$!
i=0
until grep -q 'ready for the update' "$logs/before.log"; do
  i=$((i + 1))
  if [ $i -gt 300 ] || ! kill -0 $program 2>/dev/null; then echo 'ci: the program does not get ready' >&2; exit 1; fi
  sleep 0.1
done

# The update ends the program, as a reboot does; two seconds are this job's budget for it.
perdure kexec --machine "$machine" --budget 2s
wait $program || true

perdure run --machine "$machine" -- "$work/build/vmm" /dev/vfio/devices/vfio0 | tee "$logs/after.log"
grep -q 'the guest goes on' "$logs/after.log"
