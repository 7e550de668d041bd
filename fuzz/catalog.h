// What a handover image consists of: each record with the schema that describes it, each page. The schemas of core/abi
// are taken as they are; what Linux lays out (kho-v4, luo-v5, memfd-v2) has fields written down here.
#pragma once
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "core/abi/schema.h"
#include "machine/board/board.h"

namespace perdure::fuzz {

struct Object {
  std::string_view name;
  u64 phys = 0;
  u32 bytes = 0;
  std::span<const abi::FieldDef> fields;
  // Repairs its checksum; null: it has none. A record inside of a page that is sealed as a whole names that page.
  const abi::Schema* seal = nullptr;
  u64 seal_at = 0;
};

struct Catalog {
  std::vector<Object> objects;
  std::vector<u64> pages;      // of the image that no hardware reads
  std::vector<u64> addresses;  // of anything: what a pointer may be made to point at
};

// Of the image at `fdt`. `hardware`: pages that are left out, because units follow them whatever a kernel reads.
Catalog catalog_of(board::Board& board, u64 fdt, u64 boot_info, const std::set<u64>& hardware);

}  // namespace perdure::fuzz
