// What PCI leaves for the next kernel: the functions that go on working, and the bridges that carry their requests. LUO
// carries the address of one page, PciHeader; from there two chains of one-page blocks (abi/record_block.h) hold the
// records. Records refer to each other by index, never by address; the image is read-only for its reader.
//
//   PciHeader ─┬─ function_chain ─ RecordBlock: header, records … ─ next ─ …
//              └─ bridge_chain   ─ …
//
// A function must be found again at the same requester id, with the same identity and the same addresses; its BAR sizes
// cannot be asked while it works. A bridge's bus numbers are part of the requester ids below it. Version 2 appends
// fields to version 1's records and changes nothing else; each kernel reads both.
#pragma once
#include <cstddef>

#include "core/abi/record_block.h"

namespace perdure::abi {

inline constexpr std::string_view kPciCompatible = "perdure-pci";
inline constexpr u32 kPciReadMin = 1;
inline constexpr u32 kPciReadMax = 2;

inline constexpr u64 kPciMagic = 0x5244'4849'4350'4450;       // "PDPCIHDR"
inline constexpr u64 kPciBlockMagic = 0x4b4c'4249'4350'4450;  // "PDPCIBLK"
inline constexpr u32 kPciMaxRecords = 16384;                  // of one kind; bounds what a reader follows
inline constexpr u32 kPciNoBridge = ~u32{0};                  // on a root bus

enum class PciRecordKind : u32 { Function = 1, Bridge = 2 };

struct PciHeader {
  u64 magic = 0;
  u32 version = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u64 function_chain = 0;
  u64 bridge_chain = 0;
  u64 function_bytes = 0;
  u64 bridge_bytes = 0;
  u32 function_slots = 0;
  u32 bridge_slots = 0;
};
static_assert(sizeof(PciHeader) == 64);

inline constexpr FieldDef kPciHeaderFields[] = {
    PERDURE_FIELD(PciHeader, magic, Number, kPciMagic, kPciMagic, "\"PDPCIHDR\""),
    PERDURE_FIELD(PciHeader, version, Version, kPciReadMin, kPciReadMax, "of every record below"),
    PERDURE_FIELD(PciHeader, checksum, Checksum, 0, ~u64{0}, "stored when the update is frozen"),
    PERDURE_FIELD(PciHeader, generation, Number, 1, ~u64{0}, "of the update; equal in every block and record"),
    PERDURE_FIELD(PciHeader, function_chain, Physical, 0, ~u64{0}, "first block of function records, 0: none"),
    PERDURE_FIELD(PciHeader, bridge_chain, Physical, 0, ~u64{0}, "first block of bridge records, 0: none"),
    PERDURE_FIELD(PciHeader, function_bytes, Number, 0, u64{1} << 32, "length of the chain, in bytes"),
    PERDURE_FIELD(PciHeader, bridge_bytes, Number, 0, u64{1} << 32, "length of the chain"),
    PERDURE_FIELD(PciHeader, function_slots, Count, 0, kPciMaxRecords, "records in the chain, unused ones too"),
    PERDURE_FIELD(PciHeader, bridge_slots, Count, 0, kPciMaxRecords, "records in the chain"),
};
inline constexpr Schema kPciHeaderSchema{"pci.header", 1, sizeof(PciHeader), kPciHeaderFields};
static_assert(gapless(kPciHeaderSchema));

inline constexpr FieldDef kPciBlockFields[] = {
    PERDURE_FIELD(RecordBlock, magic, Number, kPciBlockMagic, kPciBlockMagic, "\"PDPCIBLK\""),
    PERDURE_FIELD(RecordBlock, version, Version, kPciReadMin, kPciReadMax, "equal to the header's"),
    PERDURE_FIELD(RecordBlock, checksum, Checksum, 0, ~u64{0}, "of this block header alone"),
    PERDURE_FIELD(RecordBlock, generation, Number, 1, ~u64{0}, "equal to the header's"),
    PERDURE_FIELD(RecordBlock, next, Physical, 0, ~u64{0}, "next block of the chain, 0: the last"),
    PERDURE_FIELD(RecordBlock, kind, Number, 1, 2, "1 function, 2 bridge"),
    PERDURE_FIELD(RecordBlock, first_index, Count, 0, kPciMaxRecords, "index of the first record here"),
    PERDURE_FIELD(RecordBlock, slots, Count, 1, kRecordBlockBytes / 8, "records here; all but the last block are full"),
    PERDURE_FIELD(RecordBlock, record_bytes, Number, 8, kRecordBlockBytes, "size of one record of this version"),
};
inline constexpr Schema kPciBlockSchema{"pci.block", 1, sizeof(RecordBlock), kPciBlockFields};
static_assert(gapless(kPciBlockSchema));

// Found by the ARI chain of its device: the low byte of its id is a function number, there is no device number.
inline constexpr u32 kPciFunctionAri = 1;

struct PciFunctionRecord {
  u32 in_use = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u32 segment = 0;
  u32 bdf = 0;
  u32 ids = 0;
  u32 class_revision = 0;
  u32 bridge = 0;
  u32 flags = 0;
  u32 command = 0;
  u32 padding = 0;
  u64 bar_address[6] = {};
  u64 bar_size[6] = {};
  // Version 2.
  u32 subsystem = 0;
  u32 padding2 = 0;
};
static_assert(sizeof(PciFunctionRecord) == 152);

#define PERDURE_PCI_ELEMENT(Record, member, index, max, meaning)                                                       \
  ::perdure::abi::FieldDef {                                                                                           \
    #member "[" #index "]", offsetof(Record, member) + (index) * sizeof(Record::member[0]), sizeof(Record::member[0]), \
        ::perdure::abi::FieldKind::Number, 0, (max), meaning                                                           \
  }
#define PERDURE_PCI_BARS(Record, index) \
  PERDURE_PCI_ELEMENT(Record, bar_address, index, ~u64{0}, "where the BAR decodes, 0: nowhere")
#define PERDURE_PCI_SIZES(Record, index) \
  PERDURE_PCI_ELEMENT(Record, bar_size, index, u64{1} << 52, "bytes, a power of two, 0: no BAR")
#define PERDURE_PCI_FUNCTION_V1_FIELDS                                                                               \
  PERDURE_FIELD(PciFunctionRecord, in_use, Number, 1, 1, "0: the slot is unused and all zero"),                      \
      PERDURE_FIELD(PciFunctionRecord, checksum, Checksum, 0, ~u64{0}, ""),                                          \
      PERDURE_FIELD(PciFunctionRecord, generation, Number, 1, ~u64{0}, "equal to the header's"),                     \
      PERDURE_FIELD(PciFunctionRecord, segment, Number, 0, 0xffff, "PCI segment"),                                   \
      PERDURE_FIELD(PciFunctionRecord, bdf, Number, 0, 0xffff, "bus, device, function; bus, function with ARI"),     \
      PERDURE_FIELD(PciFunctionRecord, ids, Number, 0, ~u64{0}, "vendor in the low half, device in the high one"),   \
      PERDURE_FIELD(PciFunctionRecord, class_revision, Number, 0, ~u64{0}, "revision in the low byte, class above"), \
      PERDURE_FIELD(PciFunctionRecord, bridge, Number, 0, kPciNoBridge, "record of the bridge above, ~0: none"),     \
      PERDURE_FIELD(PciFunctionRecord, flags, Flags, 0, kPciFunctionAri, "bit 0: found by ARI"),                     \
      PERDURE_FIELD(PciFunctionRecord, command, Number, 0, 0xffff, "COMMAND register when the update was frozen"),   \
      PERDURE_FIELD(PciFunctionRecord, padding, Padding, 0, 0, ""), PERDURE_PCI_BARS(PciFunctionRecord, 0),          \
      PERDURE_PCI_BARS(PciFunctionRecord, 1), PERDURE_PCI_BARS(PciFunctionRecord, 2),                                \
      PERDURE_PCI_BARS(PciFunctionRecord, 3), PERDURE_PCI_BARS(PciFunctionRecord, 4),                                \
      PERDURE_PCI_BARS(PciFunctionRecord, 5), PERDURE_PCI_SIZES(PciFunctionRecord, 0),                               \
      PERDURE_PCI_SIZES(PciFunctionRecord, 1), PERDURE_PCI_SIZES(PciFunctionRecord, 2),                              \
      PERDURE_PCI_SIZES(PciFunctionRecord, 3), PERDURE_PCI_SIZES(PciFunctionRecord, 4),                              \
      PERDURE_PCI_SIZES(PciFunctionRecord, 5)

inline constexpr FieldDef kPciFunctionFieldsV1[] = {PERDURE_PCI_FUNCTION_V1_FIELDS};
inline constexpr FieldDef kPciFunctionFieldsV2[] = {
    PERDURE_PCI_FUNCTION_V1_FIELDS,
    PERDURE_FIELD(PciFunctionRecord, subsystem, Number, 0, ~u64{0}, "subsystem vendor in the low half, id in the high"),
    PERDURE_FIELD(PciFunctionRecord, padding2, Padding, 0, 0, ""),
};
#undef PERDURE_PCI_FUNCTION_V1_FIELDS
#undef PERDURE_PCI_SIZES
#undef PERDURE_PCI_BARS
#undef PERDURE_PCI_ELEMENT
inline constexpr Schema kPciFunctionSchemaV1{"pci.function", 1, offsetof(PciFunctionRecord, subsystem),
                                             kPciFunctionFieldsV1};
inline constexpr Schema kPciFunctionSchemaV2{"pci.function", 2, sizeof(PciFunctionRecord), kPciFunctionFieldsV2};
static_assert(gapless(kPciFunctionSchemaV1) && gapless(kPciFunctionSchemaV2));

inline constexpr u32 kPciBridgeAriForwarding = 1;

struct PciBridgeRecord {
  u32 in_use = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u32 segment = 0;
  u32 bdf = 0;
  u32 ids = 0;
  u32 class_revision = 0;
  u32 bridge = 0;
  u32 functions = 0;
  u32 command = 0;
  u32 bridge_control = 0;
  u32 primary = 0;
  u32 secondary = 0;
  u32 subordinate = 0;
  u32 flags = 0;
  u64 memory_base = 0;
  u64 memory_limit = 0;
  u64 prefetch_base = 0;
  u64 prefetch_limit = 0;
  u64 io_base = 0;
  u64 io_limit = 0;
};
static_assert(sizeof(PciBridgeRecord) == 112);

inline constexpr FieldDef kPciBridgeFields[] = {
    PERDURE_FIELD(PciBridgeRecord, in_use, Number, 1, 1, "0: the slot is unused and all zero"),
    PERDURE_FIELD(PciBridgeRecord, checksum, Checksum, 0, ~u64{0}, ""),
    PERDURE_FIELD(PciBridgeRecord, generation, Number, 1, ~u64{0}, "equal to the header's"),
    PERDURE_FIELD(PciBridgeRecord, segment, Number, 0, 0xffff, "PCI segment"),
    PERDURE_FIELD(PciBridgeRecord, bdf, Number, 0, 0xffff, "bus, device, function"),
    PERDURE_FIELD(PciBridgeRecord, ids, Number, 0, ~u64{0}, "vendor in the low half, device in the high one"),
    PERDURE_FIELD(PciBridgeRecord, class_revision, Number, 0, ~u64{0}, "revision in the low byte, class above"),
    PERDURE_FIELD(PciBridgeRecord, bridge, Number, 0, kPciNoBridge, "record of the bridge above, ~0: none"),
    PERDURE_FIELD(PciBridgeRecord, functions, Count, 1, kPciMaxRecords, "preserved functions below, at any depth"),
    PERDURE_FIELD(PciBridgeRecord, command, Number, 0, 0xffff, "COMMAND register when the update was frozen"),
    PERDURE_FIELD(PciBridgeRecord, bridge_control, Number, 0, 0xffff, "bridge control register"),
    PERDURE_FIELD(PciBridgeRecord, primary, Number, 0, 0xff, "number of its own bus"),
    PERDURE_FIELD(PciBridgeRecord, secondary, Number, 1, 0xff, "number of the bus below"),
    PERDURE_FIELD(PciBridgeRecord, subordinate, Number, 1, 0xff, "highest number below"),
    PERDURE_FIELD(PciBridgeRecord, flags, Flags, 0, kPciBridgeAriForwarding, "bit 0: forwards ARI"),
    PERDURE_FIELD(PciBridgeRecord, memory_base, Number, 0, ~u64{0}, "first byte that passes downstream"),
    PERDURE_FIELD(PciBridgeRecord, memory_limit, Number, 0, ~u64{0}, "last one; below the base: closed"),
    PERDURE_FIELD(PciBridgeRecord, prefetch_base, Number, 0, ~u64{0}, "the same for prefetchable memory"),
    PERDURE_FIELD(PciBridgeRecord, prefetch_limit, Number, 0, ~u64{0}, ""),
    PERDURE_FIELD(PciBridgeRecord, io_base, Number, 0, ~u64{0}, "the same for ports"),
    PERDURE_FIELD(PciBridgeRecord, io_limit, Number, 0, ~u64{0}, ""),
};
inline constexpr Schema kPciBridgeSchema{"pci.bridge", 1, sizeof(PciBridgeRecord), kPciBridgeFields};
static_assert(gapless(kPciBridgeSchema));

// The schema of one kind of record in images of `version` (kPciReadMin..kPciReadMax).
constexpr const Schema& pci_schema(PciRecordKind kind, u32 version) {
  if (kind == PciRecordKind::Bridge) return kPciBridgeSchema;
  return version >= 2 ? kPciFunctionSchemaV2 : kPciFunctionSchemaV1;
}
constexpr ChainFormat pci_chain(PciRecordKind kind, u32 version) {
  return {.block_magic = kPciBlockMagic,
          .kind = static_cast<u32>(kind),
          .version = version,
          .block = &kPciBlockSchema,
          .record = &pci_schema(kind, version),
          .most = kPciMaxRecords};
}

}  // namespace perdure::abi
