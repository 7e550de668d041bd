#!/bin/sh
# Answers like QEMU and prints what a guest would, right or wrong: FAKE_QEMU says which. For tests of `perdure metal`;
# FAKE_FIRMWARE is where its firmware is.
case "$*" in
  --version)
    case $FAKE_QEMU in old) v=6.2.0 ;; new) v=42.0.0 ;; *) v=7.2.22 ;; esac
    echo "QEMU emulator version $v (a fake)"
    ;;
  '-accel help') echo tcg ;;
  '-device help')
    for d in intel-iommu isa-debug-exit pci-ohci edu e1000e nvme; do
      [ "$FAKE_QEMU" = "no-$d" ] || echo "name \"$d\", bus PCI"
    done
    ;;
  '-device intel-iommu,help')
    echo 'aw-bits=<uint8>'
    echo 'intremap=<OnOffAuto>'
    [ "$FAKE_QEMU" = no-scalable ] || echo 'x-scalable-mode=<bool>'
    ;;
  '-trace help') [ "$FAKE_QEMU" = no-trace ] || echo vtd_reg_write_gcmd ;;
  '-L help') echo "$FAKE_FIRMWARE" ;;
  *) exec python3 -ES "${0%.sh}.py" "$@" ;;
esac
