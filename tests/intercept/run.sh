#!/bin/sh
# run.sh PERDURE SOURCES PROBES: programs that know nothing of Perdure, under `perdure run`. Prints TAP.
set -u
perdure=$1
. "$2/tests/tap.sh"
probes=$3

for kind in dynamic static; do
  probe=$probes/intercept_probe_$kind
  for case in alloc exclusive no_jump; do
    check "$kind: $case" 0 "^$case ends with 0" run -- "$probe" "$case"
  done
  check "$kind: its status is passed on" 7 'ends with 7' run -- "$probe" status 7
  check "$kind: a kexec ends the program" 137 'the kernel was replaced' run -- "$probe" jump
  check "$kind: it starts again under the next kernel" 0 'jump ends with 0' run --restart 1 -- "$probe" jump
done
check 'a program that is not there' 127 'No such file' run -- ./nonesuch
check 'a file that is no program' 126 'Permission denied' run -- "$2/LICENSE"

# A machine that stays: what a program leaves running is served on, and ends with its kernel.
probe=$probes/intercept_probe_dynamic
XDG_RUNTIME_DIR=$work/runtime
export XDG_RUNTIME_DIR
mkdir -m 700 "$XDG_RUNTIME_DIR"
check 'a machine that stays' 0 '' machine up probed
check 'a program that leaves a daemon' 0 'daemon ends with 0' run --machine probed -- "$probe" daemon
daemon=$(sed -n 's/^daemon is //p' "$work/out")
result 'the daemon runs' kill -0 "$daemon"
check 'a kexec from outside' 0 '' kexec --machine probed
result 'the daemon is gone' sh -c "! kill -0 $daemon"
check 'what it preserved is there' 0 'after ends with 0' run --machine probed -- "$probe" after
check 'the machine ends' 0 '' machine down probed
result 'its supervisor tidies up' timeout 20 sh -c 'while [ -n "$(ls -A "$TMPDIR")" ]; do sleep 0.05; done'
check 'a machine that is not up' 125 'probed' run --machine probed -- "$probe" alloc
finish
