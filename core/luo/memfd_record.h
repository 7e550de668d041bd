// The record of one shared memory file, memfd-v2 of Linux 7.3 (kho-luo §4.2), and its reader, which trusts nothing.
#pragma once
#include <optional>

#include "core/base/bits.h"
#include "core/kho/vmalloc.h"

namespace perdure::luo {

inline constexpr std::string_view kMemfdCompatible = "memfd-v2";

struct MemfdSer {
  u64 position = 0;
  u64 size = 0;  // bytes
  u32 seals = 0;
  u32 flags = 0;  // none known
  u64 folio_count = 0;
  kho::VmallocDescriptor folios;  // array of FolioSer; all zero without any
};
static_assert(sizeof(MemfdSer) == 48);

struct FolioSer {
  u64 word = 0;
  u64 index = 0;  // page of the file that the folio starts at; a multiple of its size

  using Frame = Field<51, 0>;  // 0: nothing here
  using Dirty = Bit<52>;
  using Uptodate = Bit<53>;
  using Unknown = Field<63, 54>;
};
static_assert(sizeof(FolioSer) == 16 && kPageSize % sizeof(FolioSer) == 0);

// The page cache of Linux counts pages in 32 bits here.
inline constexpr u64 kMemfdMaxPages = (u64{1} << 32) - 1;

class MemfdRecord {
 public:
  struct Folio {
    Phys base;
    unsigned order = 0;
    u64 index = 0;
    bool in_ram = false;  // else in a bank
    u64 bytes() const { return kPageSize << order; }
    u64 pages() const { return u64{1} << order; }
  };

  // Checks record, array and every folio: each is a block that the former kernel preserved and nobody took over yet,
  // within the file, and beyond the one before. Einval with `problem` set; Enomem. Takes nothing over.
  static Result<MemfdRecord> open(Kho& kho, Phys at, std::string_view& problem);

  const MemfdSer& header() const { return header_; }
  u64 pages() const { return align_up(header_.size, kPageSize) >> kPageShift; }
  // In file order. Entries without a frame are left out.
  Result<void> each_folio(FunctionRef<Result<void>(const Folio& folio)> visit) const;
  // Everything the file consists of, the record's own page first.
  Result<void> each_block(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const;

  // Takes every block over. Einval when one is listed twice: what was taken then stays allocated for good.
  Result<void> take();
  // After take(): frees record and array, and the folios that lie in RAM.
  void free();

 private:
  MemfdRecord(Kho& kho, Phys at) : kho_(&kho), at_(at) {}
  FolioSer entry(u64 i) const;
  Result<void> check(std::string_view& problem) const;

  Kho* kho_;
  Phys at_;
  MemfdSer header_;
  std::optional<kho::ArrayReader> array_;
};

}  // namespace perdure::luo
