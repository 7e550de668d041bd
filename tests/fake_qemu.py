#!/usr/bin/env python3
"""The run of fake_qemu.sh: a guest's words, right or wrong, and a trace."""
import os
import signal
import sys
import time

mode = os.environ.get("FAKE_QEMU", "good")
args = sys.argv[1:]

def option(name):
    return args[args.index(name) + 1]


words = dict(w.split("=", 1) for w in option("-append").split() if "=" in w)
hops = int(words["hops"])
names = {"pci-ohci": "ohci", "edu": "edu", "e1000e": "e1000e", "nvme": "nvme"}
devices = [names[d] for d in (a.split(",")[0] for a in args) if d in names]


def say(text):
    os.write(1, text.encode() + b"\n")


def trace(*pairs):
    with open(option("-D"), "a") as log:
        for status, value in pairs:
            log.write(f"1@2.3:vtd_reg_write_gcmd status {status:#x} value {value:#x}\n")


ON = 0xC4000000
trace((0, 0x04000000), (0x04000000, 0x44000000), (0x44000000, 0x84000000))
if mode.startswith("SIG"):  # somebody tells our parent, once we run
    os.kill(os.getppid(), signal.Signals[mode])
if mode == "hang" or mode.startswith("SIG"):
    time.sleep(600)
say('{"event":"boot","hop":0,"release":"a"}')
for hop in range(1, hops + 1):
    say('{"event":"jump","number":%d}' % hop)
    if mode == "complaint":
        print("qemu-system-x86_64: vtd_iommu_translate: detected translation failure (dev=00:01:00, iova=0x0)", file=sys.stderr)
    if mode == "abort":
        print("qemu: hw/i386/intel_iommu.c: Assertion `size == 4' failed.", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGABRT)
    if mode == "triple-fault":
        sys.exit(0)
    if mode == "panic":
        say("[   0.5] panic: page fault at RIP 0x200000")
        sys.exit(37)
    if mode == "gap":
        trace((ON, 0x04000000), (0x44000000, 0x84000000))
    if mode not in ("lazy", "root"):
        trace((ON, 0xC4000000))
    if mode != "lazy":
        trace((ON, 0x80000000), (0xC0000000, 0x84000000))
    names = ("a", "b") if hop % 2 else ("b", "a")
    say('{"event":"hop","number":%d,"from":"%s","to":"%s","timeline":[{"name":"freeze","begin_ns":1,"end_ns":1001}]}'
        % (hop, *names))
    for device in devices:
        lost = mode == "lost" and device == devices[0]
        bad = mode == "stuck" and device == devices[0]
        say('{"event":"evidence","hop":%d,"device":"%s","ok":%s,"lost":%s,"numbers":{"transfers":%d},"what":"%s"}'
            % (hop, device, "false" if bad else "true", "true" if lost else "false", hop, "it stands still" if bad else ""))
if mode == "truncated":
    os.write(1, b'{"event":"end","ok":tr')
    sys.exit(33)
if mode != "no-end":
    say('{"event":"end","ok":true,"hops":%d}' % hops)
sys.exit(35 if mode == "liar" else 33)
