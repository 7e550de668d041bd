#!/usr/bin/env python3
"""qemu.py BDF QEMU [ARGS…]: a QEMU with that device by vfio-pci, as far as a guest's firmware takes it.

QEMU opens the device by its group, maps the guest's memory for it, and shows it to SeaBIOS, which finds it on the bus and gives its
BARs addresses. Then its registers are read as the guest would read them.
"""
import json
import subprocess
import sys
import time

STREAMER = (0x1234, 0x5354)
MAGIC = 0x4D525453  # "STRM", register 0 of BAR0 (docs/devices.md)
PATIENCE = 60


class Monitor:
    def __init__(self, process):
        self.process = process
        self.answer()  # the greeting
        self.do("qmp_capabilities")

    def answer(self):
        while True:
            line = self.process.stdout.readline()
            if not line:
                sys.exit(f"qemu ended: {self.process.wait()}")
            said = json.loads(line)
            if "error" in said:
                sys.exit(f"qemu: {said['error']['desc']}")
            if "event" not in said:
                return said.get("return", said)

    def do(self, command, **arguments):
        self.process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer()


def find(monitor):
    for bus in monitor.do("query-pci"):
        for device in bus["devices"]:
            if (device["id"]["vendor"], device["id"]["device"]) == STREAMER:
                return device
    sys.exit("qemu shows its guest no such device")


def main() -> None:
    bdf, qemu = sys.argv[1], sys.argv[2:]
    machine = ["-M", "q35,accel=tcg", "-m", "64", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    # Registers by pread and pwrite: what a VMM does whose guest's accesses end in it anyway.
    device = ["-device", f"vfio-pci,host={bdf},x-no-mmap=on"]
    with subprocess.Popen(qemu + machine + device, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        monitor = Monitor(process)
        until = time.monotonic() + PATIENCE
        while (at := find(monitor)["regions"][0]["address"]) < 0 or at >= 1 << 63:
            if time.monotonic() > until:
                sys.exit(f"the guest's firmware gave the device no address in {PATIENCE} s")
            time.sleep(0.1)
        said = monitor.do("human-monitor-command", **{"command-line": f"xp /1wx {at:#x}"})
        monitor.do("quit")
        process.wait(PATIENCE)
    word = int(said.split(":")[1].split()[0], 16)
    print(f"BAR0 at {at:#x} of the guest reads {word:#x}")
    sys.exit(0 if word == MAGIC else 1)


main()
