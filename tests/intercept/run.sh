#!/bin/sh
# run.sh PERDURE SOURCES PROBES: programs that know nothing of Perdure, under `perdure run`. Prints TAP.
set -u
perdure=$1
. "$2/tests/tap.sh"
probes=$3

for kind in dynamic static; do
  probe=$probes/intercept_probe_$kind
  for case in alloc exclusive; do
    check "$kind: $case" 0 "^$case ends with 0" run -- "$probe" "$case"
  done
  check "$kind: its status is passed on" 7 'ends with 7' run -- "$probe" status 7
done
check 'a program that is not there' 127 'No such file' run -- ./nonesuch
check 'a file that is no program' 126 'Permission denied' run -- "$2/LICENSE"
finish
