#!/usr/bin/env python3
"""read_dump.py FILE [--damage]: does memory saved at a jump hold what FILE.json says?

A reader of its own, from the formats' descriptions: the ELF core with its notes, VT-d's tables from RTADDR down, the
handover's FDT and radix tree. It shares nothing with what wrote them. --damage: the same must fail after each of a few
changes to what was read, or it proves nothing.
"""
import json
import struct
import sys

PAGE = 4096
FRAME_MASK = ((1 << 52) - 1) & ~(PAGE - 1)


class Bad(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Bad(what)


class Memory:
    """Physical memory as (base, bytes)."""

    def __init__(self, ranges):
        self.ranges = ranges
        self.touched = {}  # changes, for --damage

    def read(self, at, length):
        for base, data in self.ranges:
            if base <= at and at + length <= base + len(data):
                out = bytearray(data[at - base : at - base + length])
                for place, value in self.touched.items():
                    if at <= place < at + length:
                        out[place - at : place - at + 8] = struct.pack("<Q", value)
                return bytes(out)
        raise Bad(f"{at:#x} is not in memory")

    def word(self, at):
        return struct.unpack("<Q", self.read(at, 8))[0]


def read_core(path):
    data = open(path, "rb").read()
    need(data[:6] == b"\x7fELF\x02\x01", "no 64-bit little-endian ELF file")
    kind, machine = struct.unpack_from("<HH", data, 16)
    need(kind == 4 and machine == 62, "no core of an x86-64")
    at, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    ranges, notes = [], {}
    for i in range(count):
        kind, _, offset, _, base, length = struct.unpack_from("<IIQQQQ", data, at + i * size)
        if kind == 1:
            ranges.append((base, data[offset : offset + length]))
        elif kind == 4:
            end = offset + length
            while offset < end:
                name, body, note = struct.unpack_from("<III", data, offset)
                need(data[offset + 12 : offset + 12 + name] == b"Perdure\0", "a note that is not ours")
                offset += 12 + (name + 3 & ~3)
                notes.setdefault(note, []).append(data[offset : offset + body])
                offset += body + 3 & ~3
    return Memory(ranges), notes


# --- VT-d (second stage, legacy and scalable) ---------------------------------------------------------------------------

def entry_of(memory, rtaddr, bdf):
    """(domain id, top page, levels) for requests of this function without a PASID."""
    bus, devfn = bdf >> 8, bdf & 0xFF
    scalable = rtaddr >> 10 & 1
    root = rtaddr & FRAME_MASK
    if not scalable:
        context = memory.word(root + bus * 16)
        need(context & 1, f"bus {bus} has no context table")
        low = memory.word((context & FRAME_MASK) + devfn * 16)
        high = memory.word((context & FRAME_MASK) + devfn * 16 + 8)
        need(low & 1, f"function {bdf:#x} has no context entry")
        need(low >> 2 & 3 == 0, f"function {bdf:#x} is not translated")
        return high >> 8 & 0xFFFF, low & FRAME_MASK, (high & 7) + 2
    context = memory.word(root + bus * 16 + (8 if devfn >= 128 else 0))
    need(context & 1, f"bus {bus} has no context table")
    entry = memory.word((context & FRAME_MASK) + (devfn & 127) * 32)
    need(entry & 1, f"function {bdf:#x} has no context entry")
    directory = memory.word(entry & FRAME_MASK)
    need(directory & 1, f"function {bdf:#x} has no PASID table")
    pasid = directory & FRAME_MASK
    low, high = memory.word(pasid), memory.word(pasid + 8)
    need(low & 1, f"function {bdf:#x} has no PASID entry")
    need(low >> 6 & 7 == 2, f"function {bdf:#x} does not go through a second stage")
    return high & 0xFFFF, low & FRAME_MASK, (low >> 2 & 7) + 2


def walk(memory, top, levels, iova):
    """(physical address, writable) behind iova."""
    table = top
    for level in range(levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        entry = memory.word(table + (iova >> shift & 511) * 8)
        need(entry & 3, f"{iova:#x} is not mapped: entry {entry:#x} at level {level}")
        if level == 1 or entry >> 7 & 1:
            offset = iova & (1 << shift) - 1
            return (entry & FRAME_MASK & ~((1 << shift) - 1)) + offset, entry >> 1 & 1
        table = entry & FRAME_MASK
    raise Bad("no leaf")


def table_pages(memory, top, levels):
    pages = 1
    if levels > 1:
        for i in range(512):
            entry = memory.word(top + i * 8)
            if entry & 3 and not entry >> 7 & 1:
                pages += table_pages(memory, entry & FRAME_MASK, levels - 1)
    return pages


# --- the handover (kho-v4) ----------------------------------------------------------------------------------------------

def fdt_property(memory, fdt, wanted):
    """A property of the root node."""
    head = struct.unpack(">10I", memory.read(fdt, 40))
    need(head[0] == 0xD00DFEED, "no FDT")
    blob = memory.read(fdt, head[1])
    at, strings = head[2], head[3]
    depth = 0
    while True:
        token, = struct.unpack_from(">I", blob, at)
        at += 4
        if token == 1:
            depth += 1
            at = blob.index(b"\0", at) + 4 & ~3
        elif token == 2:
            depth -= 1
        elif token == 3:
            length, name = struct.unpack_from(">II", blob, at)
            value = blob[at + 8 : at + 8 + length]
            name = blob[strings + name : blob.index(b"\0", strings + name)].decode()
            if depth == 1 and name == wanted:
                return value
            at += 8 + (length + 3 & ~3)
        elif token == 9:
            raise Bad(f"the FDT has no property {wanted}")


def preserved_blocks(memory, root):
    """(base, bytes) of every block that the radix tree lists."""
    # Six levels: five of nodes with 512 links of 9 bits each, and bitmaps of 32768 keys at the bottom.
    blocks = []

    def visit(node, level, prefix):
        if level == 0:
            bitmap = memory.read(node, PAGE)
            for byte, bits in enumerate(bitmap):
                while bits:
                    bit = bits & -bits
                    bits ^= bit
                    key = prefix << 15 | byte * 8 + bit.bit_length() - 1
                    top = key.bit_length() - 1
                    order = 52 - top
                    blocks.append(((key ^ 1 << top) << 12 + order, PAGE << order))
            return
        for i in range(512):
            link = memory.word(node + i * 8)
            if link:
                visit(link, level - 1, prefix << 9 | i)

    visit(root, 5, 0)
    return sorted(blocks)


def covered(blocks, base, length):
    end = base + length
    for start, size in blocks:
        if start <= base < start + size:
            base = start + size
    return base >= end


# --- what must hold -----------------------------------------------------------------------------------------------------

def check(memory, notes, beside):
    expect = beside["expect"]
    need(expect["complete"], "the guest did not tell everything")
    need(expect["units"] and expect["domains"] and expect["devices"] and expect["sessions"], "nothing is expected")
    registers = {u["base"]: u["registers"] for u in beside["units"]}
    if notes is not None:
        version, hop, boot_info = struct.unpack("<QQQ", notes[0x100][0])
        need((version, hop, boot_info) == (1, beside["hop"], expect["boot_info"]), "the jump's note is another's")
        units = {}
        for note in notes[0x101]:
            base, length = struct.unpack_from("<QQ", note)
            units[base] = note[16 : 16 + length]
        need(set(units) == {u["base"] for u in expect["units"]}, "units are missing in the notes")
        for base, window in units.items():
            need(struct.unpack_from("<Q", window, 0x20)[0] == registers[base]["RTADDR"], "RTADDR differs")
    for values in registers.values():
        need(values["GSTS"] >> 31 & 1 and values["GSTS"] >> 30 & 1, f"not translating: GSTS {values['GSTS']:#x}")
        need(values["IQH"] == values["IQT"], "the queue is not at rest")

    mappings = 0
    domains = {d["top"]: d for d in expect["domains"]}
    for device in expect["devices"]:
        did, top, levels = entry_of(memory, registers[device["unit"]]["RTADDR"], device["bdf"])
        need((did, top) == (device["did"], device["top"]),
             f"function {device['bdf']:#x} has domain {did} with table {top:#x}, not {device['did']} with {device['top']:#x}")
        domain = domains[top]
        need(levels == domain["levels"], f"function {device['bdf']:#x}: {levels} levels")
        for area in domain["areas"]:
            for offset in range(0, area["length"], PAGE):
                phys, writable = walk(memory, top, levels, area["iova"] + offset)
                need(phys == area["phys"] + offset, f"{area['iova'] + offset:#x} leads to {phys:#x}")
                need(bool(writable) == area["write"], f"{area['iova'] + offset:#x}: writable {writable}")
                mappings += 1
    for top, domain in domains.items():
        pages = table_pages(memory, top, domain["levels"])
        need(pages == domain["table_pages"], f"table {top:#x} has {pages} pages")
        need(sum(a["length"] for a in domain["areas"]) == domain["mapped_bytes"], "areas do not add up")

    root, = struct.unpack("<Q", fdt_property(memory, expect["kho_fdt"], "preserved-memory-map"))
    blocks = preserved_blocks(memory, root)
    for domain in expect["domains"]:
        for what in domain["tables"]:
            need(covered(blocks, what["base"], what["length"]), f"tables at {what['base']:#x} are not preserved")
        for area in domain["areas"]:
            need(covered(blocks, area["phys"], area["length"]), f"memory at {area['phys']:#x} is not preserved")
    return mappings, len(blocks)


def main():
    path = sys.argv[1]
    beside = json.load(open(path + ".json"))
    if beside["format"] == "raw":
        memory, notes = Memory([(0, open(path, "rb").read())]), None
    else:
        memory, notes = read_core(path)
    mappings, blocks = check(memory, notes, beside)
    print(f"{mappings} pages of {len(beside['expect']['devices'])} devices lead where they must, {blocks} blocks are preserved")
    if sys.argv[2:] != ["--damage"]:
        return
    domain = beside["expect"]["domains"][0]
    unit = beside["units"][0]["registers"]
    root, = struct.unpack("<Q", fdt_property(memory, beside["expect"]["kho_fdt"], "preserved-memory-map"))
    for what, place in (("the root table", unit["RTADDR"] & FRAME_MASK),
                        ("a top page", domain["top"] + 8 * (domain["areas"][0]["iova"] >> 12 + 9 * (domain["levels"] - 1))),
                        ("the radix tree", root)):
        memory.touched = {place: 0}
        try:
            check(memory, notes, beside)
        except Bad as fault:
            print(f"without {what}: {fault}")
        else:
            raise Bad(f"{what} is gone, and nobody misses it")
    memory.touched = {}
    domain["areas"][0]["phys"] += PAGE
    try:
        check(memory, notes, beside)
    except Bad as fault:
        print(f"with another expectation: {fault}")
    else:
        raise Bad("an expectation can be anything")


try:
    main()
except (Bad, KeyError, IndexError, ValueError, struct.error) as fault:
    sys.exit(f"{sys.argv[1]}: {fault!r}")
