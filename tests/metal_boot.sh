#!/bin/sh
# metal_boot.sh DIRECTORY: the bare-metal kernels of DIRECTORY boot on QEMU under both firmwares and jump into each other.
# Skipped (77) where there is no QEMU to run them on.
set -u
images=$1
qemu=${PERDURE_QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || { echo "skipped: no $qemu (Debian: apt-get install qemu-system-x86)"; exit 77; }
out=$(mktemp)
large=$(mktemp)
trap 'rm -f "$out" "$large"' EXIT
archive=$images/metal-modules.bin

# start WORDS QEMU-ARGUMENTS…: leaves its status in $status, and what it said in $out.
start() {
  words=$1
  shift
  timeout 60 "$qemu" -M q35 -accel tcg -nodefaults -no-user-config -display none -no-reboot \
    -device isa-debug-exit,iobase=0xf4,iosize=0x04 -serial "file:$out" \
    -kernel "$images/perdure-metal-a.elf" -initrd "$archive" -append "$words" \
    -device "intel-iommu,$unit,aw-bits=48" -device edu,dma_mask=0xffffffff -device pci-ohci "$@"
  status=$?
}
wrong() {
  echo "not ok - $1: status $status"
  cat "$out"
  exit 1
}

# boot NAME WORDS HOPS QEMU-ARGUMENTS…: all is well.
boot() {
  name=$1 more=$2 hops=$3
  shift 3
  start "${more}hops=$hops" -m 256M "$@"
  [ $status -eq 33 ] || wrong "$name"
  grep -q "\"event\":\"end\",\"ok\":true,\"hops\":$hops" "$out" || wrong "$name"
  ! grep -qE '\] (warn|error): ' "$out" || wrong "$name"
  echo "ok - $name"
}

# ends NAME PATTERN WORDS QEMU-ARGUMENTS…: with status 37, and says why.
ends() {
  name=$1 pattern=$2
  shift 2
  start "$@"
  [ $status -eq 37 ] || wrong "$name"
  grep -qE "$pattern" "$out" || wrong "$name"
  echo "ok - $name"
}

unit=intremap=off
qboot=/usr/share/qemu/qboot.rom
for firmware in $qboot /usr/share/seabios/bios-256k.bin; do
  [ -f "$firmware" ] || { echo "skipped: no $firmware (Debian: qemu-system-data, seabios)"; exit 77; }
  boot "$(basename "$firmware")" '' 3 -bios "$firmware"
done
boot 'memory above 4 GiB' '' 2 -m 6G -bios "$qboot"
ends 'an exception' 'error: exception 14 at RIP 0x[0-9a-f]+, error code 0x0, CR2 0x10,' 'hops=1 break=crash' -m 256M -bios "$qboot"
ends 'too little memory' 'error: too little memory' 'hops=1' -m 64M -bios "$qboot"
# With something behind the two kernels that takes more than the upper half of memory, and nearly all of it.
cp "$archive" "$large"
archive=$large
truncate -s 150M "$large"
boot 'an archive of more than half of the memory' '' 2 -bios "$qboot"
truncate -s 230M "$large"
ends 'an archive where kernels go' 'error: the archive of kernels lies where kernels go' 'hops=1' -m 256M -bios "$qboot"
archive=$images/metal-modules.bin
# Messages go through the unit's table, which every kernel makes anew.
unit=intremap=on
boot 'interrupts of transfers that were under way' 'irq ' 3 -bios "$qboot"
