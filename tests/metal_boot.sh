#!/bin/sh
# metal_boot.sh DIRECTORY: the bare-metal kernels of DIRECTORY boot on QEMU under both firmwares and jump into each other.
# Skipped (77) where there is no QEMU to run them on.
set -u
images=$1
qemu=${PERDURE_QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || { echo "skipped: no $qemu (Debian: apt-get install qemu-system-x86)"; exit 77; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# boot NAME HOPS QEMU-ARGUMENTS…
boot() {
  name=$1 hops=$2
  shift 2
  timeout 60 "$qemu" -M q35 -accel tcg -m 256M -nodefaults -no-user-config -display none -no-reboot \
    -device isa-debug-exit,iobase=0xf4,iosize=0x04 -serial "file:$out" \
    -kernel "$images/perdure-metal-a.elf" -initrd "$images/metal-modules.bin" -append "${words}hops=$hops" \
    -device "intel-iommu,$unit,aw-bits=48" -device edu,dma_mask=0xffffffff -device pci-ohci "$@"
  status=$?
  if [ $status -ne 33 ] || ! grep -q "\"event\":\"end\",\"ok\":true,\"hops\":$hops" "$out" ||
    grep -qE '\] (warn|error): ' "$out"; then
    echo "not ok - $name: status $status"
    cat "$out"
    exit 1
  fi
  echo "ok - $name"
}
# Messages go through the unit's table, which every kernel makes anew.
interrupts() {
  unit=intremap=on
  words="irq "
  boot "interrupts of transfers that were under way" 3 -bios /usr/share/qemu/qboot.rom
}
unit=intremap=off words=
for firmware in /usr/share/qemu/qboot.rom /usr/share/seabios/bios-256k.bin; do
  [ -f "$firmware" ] || { echo "skipped: no $firmware (Debian: qemu-system-data, seabios)"; exit 77; }
  boot "$(basename "$firmware")" 3 -bios "$firmware"
done
interrupts
