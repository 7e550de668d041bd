// What one preserved VFIO device leaves for the next kernel: one page, whose address LUO carries. The device itself is
// untouched; the record says how it was found, so that the next kernel can compare, and knows what cannot be asked of a
// device at work (BAR sizes). Version 2 appends the program's own view of configuration space. The image is read-only
// for its reader.
#pragma once
#include <cstddef>

#include "core/abi/schema.h"

namespace perdure::abi {

inline constexpr std::string_view kVfioPciCompatible = "perdure-vfio-pci";
inline constexpr u32 kVfioPciReadMin = 1;
inline constexpr u32 kVfioPciReadMax = 2;
inline constexpr u64 kVfioPciMagic = 0x4943'504f'4946'5644;  // "DVFIOPCI"

inline constexpr u32 kVfioPciResetWorks = 1;

inline constexpr u32 kVfioPciIrteMax = 65536;  // entries of the largest remapping table

enum class VfioPciIrqMode : u32 { None = 0, Msi = 1, Msix = 2 };

struct VfioPciRecord {
  u64 magic = 0;
  u32 version = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u64 iommufd_token = 0;
  u32 segment = 0;
  u32 bdf = 0;
  u32 ids = 0;
  u32 flags = 0;
  u32 command = 0;
  u32 irq_mode = 0;
  u32 irq_vectors = 0;
  u32 irq_usable = 0;
  u32 irte_first = 0;
  u32 irte_count = 0;
  u64 bar_address[6] = {};
  u64 bar_size[6] = {};
  // Version 2.
  u32 virtual_bars[6] = {};
  u32 virtual_command = 0;
  u32 interrupt_line = 0;
};
static_assert(sizeof(VfioPciRecord) == 200);

#define PERDURE_VFIO_ELEMENT(member, index, kind, min, max, meaning)                                      \
  ::perdure::abi::FieldDef {                                                                              \
    #member "[" #index "]", offsetof(VfioPciRecord, member) + (index) * sizeof(VfioPciRecord::member[0]), \
        sizeof(VfioPciRecord::member[0]), ::perdure::abi::FieldKind::kind, (min), (max), meaning          \
  }
#define PERDURE_VFIO_V1_FIELDS                                                                                        \
  PERDURE_FIELD(VfioPciRecord, magic, Number, kVfioPciMagic, kVfioPciMagic, "\"DVFIOPCI\""),                          \
      PERDURE_FIELD(VfioPciRecord, version, Version, kVfioPciReadMin, kVfioPciReadMax, ""),                           \
      PERDURE_FIELD(VfioPciRecord, checksum, Checksum, 0, ~u64{0}, "stored when the update is frozen"),               \
      PERDURE_FIELD(VfioPciRecord, generation, Number, 1, ~u64{0}, "of the session"),                                 \
      PERDURE_FIELD(VfioPciRecord, iommufd_token, Number, 0, ~u64{0}, "of the iommufd that owns it, same session"),   \
      PERDURE_FIELD(VfioPciRecord, segment, Number, 0, 0xffff, "PCI segment"),                                        \
      PERDURE_FIELD(VfioPciRecord, bdf, Number, 0, 0xffff, "bus, device, function"),                                  \
      PERDURE_FIELD(VfioPciRecord, ids, Number, 0, ~u64{0}, "vendor in the low half, device in the high one"),        \
      PERDURE_FIELD(VfioPciRecord, flags, Flags, 0, kVfioPciResetWorks, "bit 0: its reset worked when it was bound"), \
      PERDURE_FIELD(VfioPciRecord, command, Number, 0, 0xffff, "COMMAND register when the update was frozen"),        \
      PERDURE_FIELD(VfioPciRecord, irq_mode, Number, 0, 2, "0 no interrupts, 1 MSI, 2 MSI-X"),                        \
      PERDURE_FIELD(VfioPciRecord, irq_vectors, Count, 0, 2048, "in use when the update was frozen"),                 \
      PERDURE_FIELD(VfioPciRecord, irq_usable, Count, 0, 32, "MSI: vectors that the program asked for"),              \
      PERDURE_FIELD(VfioPciRecord, irte_first, Index, 0, 0xffff, "interrupt remapping entry of vector 0"),            \
      PERDURE_FIELD(VfioPciRecord, irte_count, Count, 0, 2048, "entries in a row, one a vector; 0: no interrupts"),   \
      PERDURE_VFIO_ELEMENT(bar_address, 0, Number, 0, ~u64{0}, "where the BAR decodes, 0: nowhere"),                  \
      PERDURE_VFIO_ELEMENT(bar_address, 1, Number, 0, ~u64{0}, ""),                                                   \
      PERDURE_VFIO_ELEMENT(bar_address, 2, Number, 0, ~u64{0}, ""),                                                   \
      PERDURE_VFIO_ELEMENT(bar_address, 3, Number, 0, ~u64{0}, ""),                                                   \
      PERDURE_VFIO_ELEMENT(bar_address, 4, Number, 0, ~u64{0}, ""),                                                   \
      PERDURE_VFIO_ELEMENT(bar_address, 5, Number, 0, ~u64{0}, ""),                                                   \
      PERDURE_VFIO_ELEMENT(bar_size, 0, Number, 0, u64{1} << 52, "bytes, a power of two, 0: no BAR"),                 \
      PERDURE_VFIO_ELEMENT(bar_size, 1, Number, 0, u64{1} << 52, ""),                                                 \
      PERDURE_VFIO_ELEMENT(bar_size, 2, Number, 0, u64{1} << 52, ""),                                                 \
      PERDURE_VFIO_ELEMENT(bar_size, 3, Number, 0, u64{1} << 52, ""),                                                 \
      PERDURE_VFIO_ELEMENT(bar_size, 4, Number, 0, u64{1} << 52, ""),                                                 \
      PERDURE_VFIO_ELEMENT(bar_size, 5, Number, 0, u64{1} << 52, "")

inline constexpr FieldDef kVfioPciFieldsV1[] = {PERDURE_VFIO_V1_FIELDS};
inline constexpr FieldDef kVfioPciFieldsV2[] = {
    PERDURE_VFIO_V1_FIELDS,
    PERDURE_VFIO_ELEMENT(virtual_bars, 0, Number, 0, ~u64{0}, "BAR register as the program wrote it"),
    PERDURE_VFIO_ELEMENT(virtual_bars, 1, Number, 0, ~u64{0}, ""),
    PERDURE_VFIO_ELEMENT(virtual_bars, 2, Number, 0, ~u64{0}, ""),
    PERDURE_VFIO_ELEMENT(virtual_bars, 3, Number, 0, ~u64{0}, ""),
    PERDURE_VFIO_ELEMENT(virtual_bars, 4, Number, 0, ~u64{0}, ""),
    PERDURE_VFIO_ELEMENT(virtual_bars, 5, Number, 0, ~u64{0}, ""),
    PERDURE_FIELD(VfioPciRecord, virtual_command, Number, 0, 0x400, "bits of COMMAND that exist for the program only"),
    PERDURE_FIELD(VfioPciRecord, interrupt_line, Number, 0, 0xff, "as the program wrote it"),
};
#undef PERDURE_VFIO_V1_FIELDS
#undef PERDURE_VFIO_ELEMENT
inline constexpr Schema kVfioPciSchemaV1{"vfio-pci", 1, offsetof(VfioPciRecord, virtual_bars), kVfioPciFieldsV1};
inline constexpr Schema kVfioPciSchemaV2{"vfio-pci", 2, sizeof(VfioPciRecord), kVfioPciFieldsV2};
static_assert(gapless(kVfioPciSchemaV1) && gapless(kVfioPciSchemaV2));

constexpr const Schema& vfio_pci_schema(u32 version) {
  return version >= 2 ? kVfioPciSchemaV2 : kVfioPciSchemaV1;
}

}  // namespace perdure::abi
