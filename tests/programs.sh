#!/bin/sh
# programs.sh BUILD SOURCE PART: programs of others, unmodified, under `perdure run`. PART: uapi-dynamic, uapi-static, update, update-static, python,
# strace, go, c, vmm, qemu; uapi-dynamic-agent, update-agent: by the preloaded library. Status 77: what it needs is not here. The last four and python use the examples that tests/install.sh built.
set -u
build=$1 source=$2 part=$3
perdure=$build/tool/perdure
examples=$build/tests/installed/examples/build
work=$(mktemp -d)
export XDG_RUNTIME_DIR="$work/run" TMPDIR="$work"
mkdir -m 700 "$work/run"
machine=
finish() {
  [ -z "$machine" ] || "$perdure" machine down "$machine" >"$work/down" 2>&1 || cat "$work/down"
  rm -rf "$work"
}
trap finish EXIT

fail() {
  echo "$part: $1"
  for log in "$work"/*.log; do
    [ ! -s "$log" ] || { echo "--- $(basename "$log")"; tail -n 60 "$log"; }
  done
  exit 1
}
skip() {
  echo "1..0 # SKIP $1"
  exit 77
}
agent=
run() { timeout 120 "$perdure" run $agent ${machine:+--machine "$machine"} -- "$@"; }
up() {
  machine=programs
  "$perdure" machine up $machine >"$work/up.log" 2>&1 || fail 'no machine'
}
# wait_for FILE TEXT: a program in the background says that it is ready.
wait_for() {
  i=0
  until grep -q "$2" "$1" 2>/dev/null; do
    i=$((i + 1))
    [ $i -lt 600 ] || fail "waited for '$2' in vain"
    sleep 0.1
  done
}

case $part in
  *-agent)
    agent=--agent=only
    part=${part%-agent}
    ;;
esac
case $part in
  uapi-*)
    run "$build/tests/uapi/uapi_test_${part#uapi-}" >"$work/uapi.log" 2>"$work/err.log" || fail 'tests of the user API failed'
    tail -n 1 "$work/uapi.log"
    # What was left out must be what needs an update; the next parts have it.
    if grep '# SKIP' "$work/uapi.log" | grep -v 'needs a live update'; then echo 'uapi: the tests above were skipped'; fi
    ;;
  update | update-static)
    kind=dynamic
    [ "$part" = update ] || kind=static
    test=$build/tests/uapi/uapi_test_$kind
    up
    run "$test" --stage 1 --kernel "$build/tool/perdure-kernel-b" >"$work/first.log" 2>&1
    # Killed with its kernel; a refused kexec comes back.
    [ $? = 137 ] || fail 'the kernel was not replaced'
    run "$test" --stage 2 >"$work/second.log" 2>&1 || fail 'what was handed over did not come back as it was'
    tail -n 1 "$work/second.log"
    ;;
  python)
    up
    run python3 "$source/examples/session.py" fetch >"$work/none.log" 2>&1 && fail 'something was there before anything was kept'
    run python3 "$source/examples/session.py" keep 'from the old kernel' >"$work/keep.log" 2>&1 &
    wait_for "$work/keep.log" '^kept'
    "$perdure" kexec --machine $machine >"$work/kexec.log" 2>&1 || fail 'kexec failed'
    wait
    run python3 "$source/examples/session.py" fetch >"$work/fetch.log" 2>&1 || fail 'nothing came back'
    grep -qx 'from the old kernel' "$work/fetch.log" || fail 'another text came back'
    ;;
  vmm)
    for vmm in vmm vmm-static; do
      rm -f "$work"/*.log  # what the other one said is waited for no more
      up
      run "$examples/$vmm" /dev/vfio/devices/vfio0 --stay >"$work/old.log" 2>&1 &
      wait_for "$work/old.log" 'ready for the update'
      "$perdure" kexec --machine $machine >"$work/kexec.log" 2>&1 || fail 'kexec failed'
      wait
      # And once more, with a kernel that took over itself.
      run "$examples/$vmm" /dev/vfio/devices/vfio0 --stay >"$work/middle.log" 2>&1 &
      wait_for "$work/middle.log" 'ready for the update'
      "$perdure" kexec --machine $machine >"$work/kexec2.log" 2>&1 || fail 'the second kexec failed'
      wait
      run "$examples/$vmm" /dev/vfio/devices/vfio0 >"$work/new.log" 2>&1 || fail 'the guest did not go on'
      grep -q 'the guest goes on' "$work/new.log" || fail 'the guest was booted anew'
      grep -q ', 0 refused; kernels so far: 3' "$work/new.log" || fail 'the guest lost something'
      "$perdure" machine down $machine >"$work/down.log" 2>&1 || fail 'the machine does not end'
      machine=
    done
    ;;
  c)
    for program in device device-static; do
      run "$examples/$program" /dev/vfio/devices/vfio0 >"$work/device.log" 2>&1 || fail 'failed'
      grep -q '^this is 1234:5354' "$work/device.log" || fail 'another device'
      grep -q 'a page of this program is at' "$work/device.log" || fail 'no page was mapped'
    done
    ;;
  strace)
    command -v strace >/dev/null || skip 'there is no strace'
    for program in device device-static; do
      run strace -f -o "$work/trace" "$examples/$program" /dev/vfio/devices/vfio0 >"$work/strace.log" 2>&1 || fail 'failed'
      grep -qE 'openat\(.*"/dev/iommu".*\) = [0-9]+' "$work/trace" || fail 'strace did not see the device opened'
      grep -qE 'ioctl\(.*0x81, 0\), 0x[0-9a-f]+\) = 0' "$work/trace" || fail 'strace did not see an ioctl'
      grep -q '+++ exited with 0 +++' "$work/trace" || fail 'strace did not see the end'
    done
    # Around everything, too.
    timeout 120 strace -f -o "$work/trace" "$perdure" run -- "$examples/device-static" /dev/vfio/devices/vfio0 >"$work/strace.log" 2>&1 ||
      fail 'perdure run failed under strace'
    ;;
  go)
    command -v go >/dev/null || skip 'there is no Go compiler (Debian: golang-go)'
    export GOCACHE="$build/go-cache" GO111MODULE=off GOFLAGS=
    CGO_ENABLED=0 go build -o "$work/session" "$source/tests/programs/session.go" >"$work/build.log" 2>&1 || fail 'go build failed'
    run "$work/session" >"$work/go.log" 2>&1 || fail 'failed'
    grep -q 'all sessions came and went' "$work/go.log" || fail 'said nothing'
    ;;
  qemu)
    qemu=${QEMU:-qemu-system-x86_64}
    command -v "$qemu" >/dev/null || skip 'there is no QEMU (Debian: qemu-system-x86)'
    "$qemu" -device help 2>&1 | grep -q '"vfio-pci"' || skip "$qemu has no vfio-pci"
    run python3 "$source/tests/programs/qemu.py" 0000:00:03.0 "$qemu" >"$work/qemu.log" 2>&1 || fail 'failed'
    cat "$work/qemu.log"
    ;;
  *) fail 'no such part' ;;
esac
echo "$part: passed"
