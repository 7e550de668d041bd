#include "fuzz/catalog.h"

#include <cstring>

#include "core/abi/boot_info.h"
#include "core/abi/iommu.h"
#include "core/abi/iommufd.h"
#include "core/abi/pci.h"
#include "core/abi/table_arena.h"
#include "core/abi/vfio_pci.h"
#include "core/kho/format.h"
#include "core/luo/format.h"
#include "core/luo/memfd_record.h"
#include "machine/board/handover_reader.h"

namespace perdure::fuzz {

namespace {

using abi::FieldDef;
using abi::FieldKind;

// Numbers, pointers and texts of Linux's structures.
#define NUMBER(Record, member) \
  FieldDef{#member, offsetof(Record, member), sizeof(Record::member), FieldKind::Number, 0, ~u64{0}, ""}
#define POINTER(Record, member) \
  FieldDef{#member, offsetof(Record, member), sizeof(Record::member), FieldKind::Physical, 0, ~u64{0}, ""}
#define TEXT(Record, member) \
  FieldDef{#member, offsetof(Record, member), sizeof(Record::member), FieldKind::Text, 0, 0, ""}

constexpr FieldDef kLuoFields[] = {TEXT(luo::LuoSer, compatible), NUMBER(luo::LuoSer, liveupdate_num),
                                   POINTER(luo::LuoSer, sessions), POINTER(luo::LuoSer, flbs)};
constexpr FieldDef kSessionFields[] = {TEXT(luo::SessionSer, name), POINTER(luo::SessionSer, files),
                                       NUMBER(luo::SessionSer, count)};
constexpr FieldDef kFileFields[] = {TEXT(luo::FileSer, compatible), POINTER(luo::FileSer, data),
                                    NUMBER(luo::FileSer, token)};
constexpr FieldDef kFlbHeaderFields[] = {NUMBER(luo::FlbHeader, pages), NUMBER(luo::FlbHeader, count)};
constexpr FieldDef kFlbFields[] = {TEXT(luo::FlbSer, compatible), POINTER(luo::FlbSer, data),
                                   NUMBER(luo::FlbSer, count)};
constexpr FieldDef kBlockFields[] = {POINTER(kho::BlockHeader, next), NUMBER(kho::BlockHeader, count)};
constexpr FieldDef kMemfdFields[] = {
    NUMBER(luo::MemfdSer, position),
    NUMBER(luo::MemfdSer, size),
    NUMBER(luo::MemfdSer, seals),
    NUMBER(luo::MemfdSer, flags),
    NUMBER(luo::MemfdSer, folio_count),
    {"folios.first_chunk", offsetof(luo::MemfdSer, folios), 8, FieldKind::Physical, 0, ~u64{0}, ""},
    {"folios.total_pages", offsetof(luo::MemfdSer, folios) + 8, 4, FieldKind::Number, 0, ~u64{0}, ""},
    {"folios.flags", offsetof(luo::MemfdSer, folios) + 12, 2, FieldKind::Number, 0, ~u64{0}, ""},
    {"folios.order", offsetof(luo::MemfdSer, folios) + 14, 2, FieldKind::Number, 0, ~u64{0}, ""},
};
constexpr FieldDef kFolioFields[] = {NUMBER(luo::FolioSer, word), NUMBER(luo::FolioSer, index)};
constexpr FieldDef kPointerFields[] = {{"pointer", 0, 8, FieldKind::Physical, 0, ~u64{0}, ""}};
constexpr FieldDef kWordFields[] = {{"word", 0, 8, FieldKind::Number, 0, ~u64{0}, ""}};
constexpr FieldDef kHalfFields[] = {{"big-endian", 0, 4, FieldKind::Number, 0, ~u64{0}, ""}};
constexpr FieldDef kScratchFields[] = {POINTER(abi::KhoScratch, address), NUMBER(abi::KhoScratch, size)};
constexpr FieldDef kBootFields[] = {POINTER(abi::BootInfo, kho_fdt), POINTER(abi::BootInfo, kho_scratch),
                                    NUMBER(abi::BootInfo, kho_scratch_length), NUMBER(abi::BootInfo, hop),
                                    NUMBER(abi::BootInfo, jump_ns)};
#undef NUMBER
#undef POINTER
#undef TEXT

class Collector {
 public:
  Collector(board::Board& board, const std::set<u64>& hardware) : board_(board), hardware_(hardware) {}

  Catalog collect(u64 fdt, u64 boot_info) {
    const board::HandoverImage image = board::read_handover(board_.memory(), fdt);
    std::vector<u64> pages{fdt};
    for (const u64 node : image.nodes) pages.push_back(node);
    for (const board::PhysRange& r : image.preserved) {
      if (!board_.memory().is_kernel_ram(r.base, r.length)) {
        out_.addresses.push_back(r.base);
        continue;
      }
      for (u64 page = r.base; page < r.end(); page += kPageSize) {
        if (page != fdt) pages.push_back(page);
      }
    }
    for (const u64 page : pages) {
      out_.addresses.push_back(page);
      if (hardware_.contains(page)) continue;
      out_.pages.push_back(page);
    }
    add("boot information", boot_info, sizeof(abi::BootInfo), kBootFields);
    const auto& boot = *at<abi::BootInfo>(boot_info);
    for (u64 i = 0; i < boot.kho_scratch_length / sizeof(abi::KhoScratch); ++i) {
      add("scratch", boot.kho_scratch + i * sizeof(abi::KhoScratch), sizeof(abi::KhoScratch), kScratchFields);
    }
    for (u32 i = 0; i < 0x180; i += 4) add("fdt", fdt + i, 4, kHalfFields);
    for (const u64 node : image.nodes) {
      for (u64 i = 0; i < kPageSize; i += 8) {
        if (*at<u64>(node + i) != 0) add("radix tree", node + i, 8, kPointerFields);
      }
    }
    const usize fixed = out_.pages.size();
    for (usize i = 0; i < fixed; ++i) page(out_.pages[i]);
    return std::move(out_);
  }

 private:
  template <class T>
  const T* at(u64 phys) const {
    return reinterpret_cast<const T*>(board_.direct_map() + phys);
  }
  bool readable(u64 phys) const { return phys % kPageSize == 0 && board_.memory().is_kernel_ram(phys, kPageSize); }

  void add(std::string_view name, u64 phys, u32 bytes, std::span<const FieldDef> fields,
           const abi::Schema* seal = nullptr, u64 seal_at = 0) {
    out_.objects.push_back({name, phys, bytes, fields, seal, seal_at != 0 ? seal_at : phys});
  }
  void add(const abi::Schema& schema, u64 phys) { add(schema.name, phys, schema.size, schema.fields, &schema); }

  // By what a page begins with.
  void page(u64 phys) {
    const u64 magic = *at<u64>(phys);
    switch (magic) {
      case abi::kIommuMagic: add(abi::kIommuHeaderSchema, phys); return;
      case abi::kIommufdMagic: add(abi::kIommufdHeaderSchema, phys); return;
      case abi::kVfioPciMagic: add(abi::vfio_pci_schema(at<abi::VfioPciRecord>(phys)->version), phys); return;
      case abi::kTableArenaMagic: arena(phys); return;
      case abi::kIommuBlockMagic: {
        const auto& b = *at<abi::RecordBlock>(phys);
        records(phys, abi::kIommuBlockSchema, abi::iommu_schema(static_cast<abi::IommuRecordKind>(b.kind), b.version),
                b.slots);
        return;
      }
      case abi::kIommufdBlockMagic: {
        const auto& b = *at<abi::RecordBlock>(phys);
        records(phys, abi::kIommufdBlockSchema,
                abi::iommufd_schema(static_cast<abi::IommufdRecordKind>(b.kind), b.version), b.slots);
        return;
      }
      case abi::kPciMagic: add(abi::kPciHeaderSchema, phys); return;
      case abi::kPciBlockMagic: {
        const auto& b = *at<abi::RecordBlock>(phys);
        records(phys, abi::kPciBlockSchema, abi::pci_schema(static_cast<abi::PciRecordKind>(b.kind), b.version),
                b.slots);
        return;
      }
      default: break;
    }
    if (std::memcmp(at<char>(phys), luo::kCompatible, sizeof luo::kCompatible) == 0) sessions(phys);
  }
  void records(u64 phys, const abi::Schema& block, const abi::Schema& record, u32 count) {
    add(block, phys);
    for (u32 i = 0; i < count; ++i) add(record, phys + block.size + i * record.size);
  }
  void arena(u64 phys) {
    add(abi::kTableArenaPageSchema, phys);
    const auto& p = *at<abi::TableArenaPage>(phys);
    for (u32 i = 0; i < p.count && i < abi::kTableArenaEntries; ++i) {
      const u64 chunk = phys + offsetof(abi::TableArenaPage, chunks) + i * sizeof(abi::TableArenaChunk);
      add("table arena chunk", chunk, sizeof(abi::TableArenaChunk), abi::kTableArenaChunkSchema.fields,
          &abi::kTableArenaPageSchema, phys);
      for (u32 w = 0; w < 8; ++w) {
        add("table arena map", chunk + offsetof(abi::TableArenaChunk, used) + w * 8, 8, kWordFields,
            &abi::kTableArenaPageSchema, phys);
      }
    }
  }

  // Entries of a chain of serialization blocks.
  template <class Visit>
  void blocks(u64 head, u64 entry_bytes, Visit visit) {
    for (unsigned i = 0; head != 0 && readable(head) && i < 64; ++i) {
      add("block", head, sizeof(kho::BlockHeader), kBlockFields);
      const auto& header = *at<kho::BlockHeader>(head);
      for (u64 n = 0; n < header.count && n < kho::entries_per_block(entry_bytes); ++n) {
        visit(head + sizeof header + n * entry_bytes);
      }
      head = header.next;
    }
  }
  void sessions(u64 phys) {
    add("luo", phys, sizeof(luo::LuoSer), kLuoFields);
    const auto& luo = *at<luo::LuoSer>(phys);
    if (readable(luo.flbs)) {
      add("flb header", luo.flbs, sizeof(luo::FlbHeader), kFlbHeaderFields);
      const auto& header = *at<luo::FlbHeader>(luo.flbs);
      for (u64 i = 0; i < header.count && i < luo::kMaxFlbs; ++i) {
        add("flb", luo.flbs + sizeof header + i * sizeof(luo::FlbSer), sizeof(luo::FlbSer), kFlbFields);
      }
    }
    blocks(luo.sessions, sizeof(luo::SessionSer), [&](u64 session) {
      add("session", session, sizeof(luo::SessionSer), kSessionFields);
      blocks(at<luo::SessionSer>(session)->files, sizeof(luo::FileSer), [&](u64 file) {
        add("file", file, sizeof(luo::FileSer), kFileFields);
        const auto& f = *at<luo::FileSer>(file);
        if (luo::text_of(f.compatible) == luo::kMemfdCompatible && readable(align_down(f.data, kPageSize))) {
          memfd(f.data);
        }
      });
    });
  }
  void memfd(u64 phys) {
    add("memfd", phys, sizeof(luo::MemfdSer), kMemfdFields);
    const auto& m = *at<luo::MemfdSer>(phys);
    u64 left = m.folio_count;
    for (u64 chunk = m.folios.first_chunk; chunk != 0 && readable(chunk);) {
      const auto& c = *at<kho::VmallocChunk>(chunk);
      add("vmalloc next", chunk, 8, kPointerFields);
      for (u64 i = 0; i < kho::kRunsPerChunk && c.runs[i] != 0; ++i) {
        add("vmalloc run", chunk + 8 + i * 8, 8, kPointerFields);
        for (u64 k = 0; k < kPageSize / sizeof(luo::FolioSer) && left > 0 && readable(c.runs[i]); ++k, --left) {
          add("folio", c.runs[i] + k * sizeof(luo::FolioSer), sizeof(luo::FolioSer), kFolioFields);
        }
      }
      chunk = c.next;
    }
  }

  board::Board& board_;
  const std::set<u64>& hardware_;
  Catalog out_;
};

}  // namespace

Catalog catalog_of(board::Board& board, u64 fdt, u64 boot_info, const std::set<u64>& hardware) {
  return Collector(board, hardware).collect(fdt, boot_info);
}

}  // namespace perdure::fuzz
