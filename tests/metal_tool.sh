#!/bin/sh
# metal_tool.sh PERDURE SOURCES: `perdure metal` against a QEMU that is none: every way that a run can end other than well is
# a failure that says what happened, and what cannot run here is a skip that says why. Prints TAP.
set -u
perdure=$1
fake=$2/tests/fake_qemu.sh
. "$2/tests/tap.sh"
mkdir "$work/images" "$work/firmware"
touch "$work/images/perdure-metal-a.elf" "$work/images/metal-modules.bin" "$work/firmware/qboot.rom"
export FAKE_FIRMWARE="$work/firmware"

# fake MODE NAME EXPECTED-STATUS PATTERN ARGS…
fake() {
  FAKE_QEMU=$1
  export FAKE_QEMU
  shift
  name=$1 status=$2 pattern=$3
  shift 3
  check "$name" "$status" "$pattern" metal --qemu "$fake" --images "$work/images" "$@"
}

fake good 'a run without fault' 0 'nothing was lost \(2 hops'
fake good 'as JSON' 0 '"clean": true' --json
fake good 'fewer devices' 0 'nvme +nothing lost' --device ohci --device nvme
fake abort 'QEMU aborts' 1 'QEMU died of signal SIGABRT'
fake abort 'and what it said is told' 1 "Assertion .size == 4. failed"
fake complaint 'QEMU complains, and the guest does not' 1 'QEMU said: .*detected translation failure'
fake triple-fault 'a triple fault is no success, though its status is 0' 1 'triple fault'
fake panic 'a panic' 1 'page fault at RIP 0x200000'
fake hang 'a guest that hangs is ended' 1 'did not end within 1 s' --timeout 1
# interrupted SIGNAL: whoever is told to end says so and, as is checked below, leaves nothing.
interrupted() {
  FAKE_QEMU=SIG$1 timeout 100 "$perdure" metal --qemu "$fake" --images "$work/images" >"$work/out" 2>&1
  grep -q 'QEMU was ended: interrupted' "$work/out"
}
result 'interrupted at the terminal' interrupted INT
result 'told to end' interrupted TERM
fake truncated 'output that breaks off' 1 'breaks off in a line'
fake no-end 'no word of the end' 1 'without saying that it is done'
fake liar 'a guest that calls it good and ends otherwise' 1 'failure status'
fake stuck 'a device that stands still' 1 'DMA did not survive .* it stands still'
fake lost 'a device that was given up' 1 'given up; stands still'
fake gap "translation off in QEMU's trace, whatever the guest says" 1 'TE|turned off [0-9]+ times'
fake lazy 'kernels that make nothing of their own' 1 'NO; queue turned on 0 times'
fake root 'kernels that go on with a root table that is not theirs' 1 'NO; .*root pointer set 0 times'
fake old 'a QEMU that is too old is a skip' 77 'SKIPPED: QEMU 6.2.0 is too old'
fake new 'one that is too new, too' 77 'SKIPPED: QEMU 42.0.0 is newer'
fake new 'unless it is asked for' 0 'nothing was lost' --any-version
fake no-edu 'no device edu' 77 'SKIPPED: .* without the device edu'
fake no-edu 'which matters only where it is used' 0 'nothing was lost' --device ohci
fake no-scalable 'no scalable mode' 77 'SKIPPED: .* x-scalable-mode' --tables scalable
fake no-trace 'no witness' 77 'SKIPPED: .* the trace event'
fake old 'a skip as JSON' 77 '"skipped": ' --json
check 'no QEMU' 77 'SKIPPED: no QEMU' metal --qemu /nonexistent/qemu --images "$work/images"
check 'no images' 77 'SKIPPED: .* is not there' metal --images "$work"
check 'words that mean nothing' 2 'not in|expected' metal --device floppy
check 'what cannot repeat itself' 2 'repeats nothing with e1000e' metal --icount --device e1000e --images "$work/images"
check 'a format without a file' 2 '--raw is for --dump' metal --raw --images "$work/images"
finish
