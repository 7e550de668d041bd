#!/bin/sh
# hosted.sh PERDURE: the demo as users start it, with its board, kernel and program processes, and the proof failing when it
# must. Prints TAP.
set -u
perdure=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Machines keep their sockets below TMPDIR, and must leave nothing there.
mkdir "$work/tmp"
export TMPDIR="$work/tmp"
n=0
failed=0

# check NAME EXPECTED-STATUS PATTERN ARGS…: `perdure ARGS` ends with that status and says PATTERN.
check() {
  name=$1 status=$2 pattern=$3
  shift 3
  n=$((n + 1))
  "$perdure" "$@" >"$work/out" 2>"$work/err"
  got=$?
  if [ $got = "$status" ] && grep -qE -- "$pattern" "$work/out" "$work/err"; then
    echo "ok $n - $name"
  else
    failed=$((failed + 1))
    echo "not ok $n - $name (status $got, wanted $status and /$pattern/); again: $perdure $*"
    sed 's/^/# /' "$work/out" "$work/err" | tail -n 60
  fi
}

check 'there and back, nothing lost' 0 'nothing was lost \(2 hops' demo
check 'the same as JSON' 0 '"clean": true' demo --json --hops 1
check 'in scalable mode' 0 'nothing was lost' demo --hops 1 --tables scalable
check 'through first-stage tables' 0 'nothing was lost' demo --hops 2 --tables first-stage
check 'in one process' 0 'nothing was lost' demo --in-process --hops 2 --caches evict
check 'translation off for 5 ms is seen' 1 'DMA did not survive' demo --hops 1 --break te-gap
check 'a table page that was not preserved is seen' 1 'poison read as an entry' demo --hops 1 --break table-page
check 'the same in scalable mode' 1 'poison read as an entry' demo --hops 1 --break table-page --tables scalable
check 'a plain kexec destroys' 1 'bus master off' demo --hops 1 --cold
check 'a kernel that is not there is refused before anything is frozen' 1 'ENOENT' demo --hops 1 --kernel missing
check 'a program that is no kernel is refused before anything is frozen' 1 'ENOEXEC' demo --hops 1 --kernel /bin/true
check 'the selftest of the series, there and back' 0 'both stages passed, to kernel a' selftest
check 'words that mean nothing' 2 'The following argument was not expected|required' demo --nonsense
n=$((n + 1))
if [ -z "$(ls -A "$TMPDIR")" ]; then echo "ok $n - nothing is left behind"; else
  echo "not ok $n - left behind: $(ls -A "$TMPDIR")"
  failed=$((failed + 1))
fi
echo "1..$n"
[ $failed = 0 ]
