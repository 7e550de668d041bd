#!/usr/bin/env python3
"""metal_conformance.py IMAGE TABLE: the list of hardware behaviours on QEMU's intel-iommu, in the modes it has; TAP.

IMAGE is perdure-metal-conformance.elf, TABLE docs/conformance.md. The image judges every behaviour; this adds that nothing
was left out, that each deviation was seen in some mode, and that the table says the same. Exit status 77: not run, and
why.
"""
import json
import os
import re
import shutil
import subprocess
import sys

QEMU = os.environ.get("QEMU", "qemu-system-x86_64")
PASSED = 33  # of isa-debug-exit
PROBE = "edu,dma_mask=0xffffffffffffffff,addr="
# Modes of the unit; a word for the image; whether instructions are the clock (a transfer takes 100 ms else).
MODES = [
    ("legacy, 48 bits", "intremap=off,aw-bits=48", "", True),
    ("legacy, 39 bits", "intremap=off,aw-bits=39", "", True),
    ("caching mode", "intremap=off,aw-bits=48,caching-mode=on", "", True),
    ("scalable", "intremap=off,aw-bits=48,x-scalable-mode=on", "", True),
    ("interrupt remapping", "intremap=on,aw-bits=48", "", True),
    ("snoop control", "intremap=off,aw-bits=48,snoop-control=on", "", True),
    ("device TLBs", "intremap=off,aw-bits=48,device-iotlb=on", "", True),
    ("all at once", "intremap=on,aw-bits=48,x-scalable-mode=on,caching-mode=on", "", True),
    ("first stage", "intremap=on,aw-bits=48,x-scalable-mode=on,x-flts=on", "", True),
    ("adoption in real time", "intremap=on,aw-bits=48", "only=adopt", False),
]


def skip(why):
    print(f"1..0 # SKIP {why}")
    sys.exit(77)


def output(*arguments):
    return subprocess.run([QEMU, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def version():
    """(major, minor) of a QEMU that can do this, and the options of its unit."""
    if not shutil.which(QEMU):
        skip(f"there is no {QEMU}")
    found = re.search(r"version (\d+)\.(\d+)", output("--version"))
    if not found:
        skip(f"{QEMU} does not say which version it is")
    numbers = tuple(int(n) for n in found.groups())
    if numbers < (7, 2):
        skip(f"QEMU {found[1]}.{found[2]} is too old: 7.2 is needed")
    options = output("-device", "intel-iommu,help")
    for option in ("aw-bits", "caching-mode", "intremap", "snoop-control", "device-iotlb", "x-scalable-mode"):
        if not re.search(rf"^\s*{option}=", options, re.M):
            skip(f"intel-iommu of this QEMU has no {option}")
    if "dma_mask=" not in output("-device", "edu,help"):
        skip("edu of this QEMU has no dma_mask")
    return numbers, options


def run(image, options, words, icount):
    """(exit status, events, what QEMU said)."""
    command = [QEMU, "-M", "q35", "-accel", "tcg", "-m", "256M", "-nodefaults", "-no-user-config", "-display", "none",
               "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-serial", "stdio",
               "-kernel", image, "-append", words, "-device", f"intel-iommu,{options}",
               "-device", f"{PROBE}3.0,multifunction=on", "-device", f"{PROBE}3.1", "-device", f"{PROBE}10.0"]
    if os.path.exists("/usr/share/qemu/qboot.rom"):
        command += ["-bios", "/usr/share/qemu/qboot.rom"]
    if icount:
        command += ["-icount", "shift=10,sleep=off"]
    try:
        done = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=120)
    except subprocess.TimeoutExpired as expired:
        return "time-out", [], str(expired.stdout or "")[-2000:]
    lines = done.stdout.splitlines()
    events = [json.loads(line) for line in lines if line.startswith('{"event"')]
    rest = [line for line in lines if not line.startswith("{")]
    return done.returncode, events, "\n".join(rest + done.stderr.splitlines())[-2000:]


class Tap:
    def __init__(self):
        self.count = 0
        self.failed = 0

    def line(self, good, name, remark="", details=()):
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {name}" + (f" # {remark}" if remark else ""))
        for detail in details:
            print(f"# {detail}")


def table(path):
    """What the page says of QEMU, by name: conforms, differs, or never run."""
    says = {}
    for row in re.findall(r"^\| `([\w.]+)` \|(.*)\|$", open(path, encoding="utf-8").read(), re.M):
        qemu = row[1].split("|")[-1].strip()
        says[row[0]] = "differs" if qemu.startswith("**differs**") else "conforms" if qemu == "conforms" else "never"
    return says


def main():
    image, page = sys.argv[1:]
    numbers, can = version()
    known = numbers == (7, 2)
    tap = Tap()
    print(f"# QEMU {numbers[0]}.{numbers[1]}" + ("" if known else ": each deviation of 7.2 may be there or not"))
    seen = {}
    for title, options, words, icount in MODES:
        if "x-flts" in options and not re.search(r"^\s*x-flts=", can, re.M):
            continue  # of 10.0
        status, events, said = run(image, options, f"unit={'qemu-7.2' if known else 'qemu'} {words}", icount)
        behaviours = [e for e in events if e["event"] == "behaviour"]
        for e in behaviours:
            verdict = e["verdict"]
            remark = {"not applicable": f"SKIP {e.get('why')}", "differs as documented": verdict}.get(verdict, "")
            details = [] if verdict != "fails" else [f"seen: {e['seen']}", f"expected: {e.get('expected')}",
                                                     e.get("problem", "")]
            tap.line(verdict != "fails", f"{title}: {e['name']}", remark, details)
            seen.setdefault(e["name"], set()).add(verdict)
        end = next((e for e in events if e["event"] == "end"), {})
        counted = sum(end.get(k, 0) for k in ("conforms", "differs", "fails", "not_applicable"))
        whole = bool(behaviours) and counted == len(behaviours)
        tap.line(whole and status == PASSED, f"{title}: runs to its end", "",
                 [] if whole and status == PASSED else [f"exit status {status}, {len(behaviours)} of {counted}", said])
    if known:
        says = table(page)
        for name, verdicts in seen.items():
            for word in ("conforms", "differs as documented"):
                if word in verdicts:
                    verdicts = {word.split()[0]}
            said = says.get(name, "nothing")
            shown = "never" if verdicts == {"not applicable"} else next(iter(verdicts))
            if said != shown:
                tap.line(False, f"{os.path.basename(page)}: {name}", "", [f"the table says {said}, QEMU {shown}"])
        tap.line(set(says) == set(seen), f"{os.path.basename(page)} has a row for each behaviour", "",
                 sorted(set(says) ^ set(seen)))
    print(f"1..{tap.count}")
    sys.exit(1 if tap.failed else 0)


main()
