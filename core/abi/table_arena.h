// The chunks that the table pages of one paging domain lie in, as the old kernel uses the list itself and the next
// kernel goes on using it: a chain of descriptor pages of 4 KiB each, in frames of their own. Part of the formats
// whose records point at the first page.
#pragma once
#include <cstddef>

#include "core/abi/schema.h"

namespace perdure::abi {

inline constexpr u64 kTableArenaMagic = 0x414e455241545250;  // "PRTARENA"
inline constexpr u32 kTableArenaVersion = 1;
inline constexpr u32 kTableArenaMaxOrder = 9;  // of a chunk: 2 MiB
inline constexpr u32 kTableArenaEntries = 50;  // of a descriptor page

// One chunk of 2^order pages, aligned to its size.
struct TableArenaChunk {
  u64 base = 0;  // physical
  u32 order = 0;
  u32 padding = 0;
  u64 used[8] = {};  // bit i % 64 of word i / 64: page i is a table page; bits beyond the chunk are zero
};
static_assert(sizeof(TableArenaChunk) == 80);

// All pages but the last are full. `self`, `first` and `index` tie a page to its place in one chain, so that no page
// can be there twice or come from another chain.
struct TableArenaPage {
  u64 magic = kTableArenaMagic;
  u32 version = kTableArenaVersion;
  u32 checksum = 0;    // valid from seal() on
  u64 self = 0;        // physical address of this page
  u64 first = 0;       // physical address of the chain's first page
  u64 next = 0;        // 0: the last
  u32 index = 0;       // in the chain, from 0
  u32 count = 0;       // chunks in this page
  u32 used_pages = 0;  // table pages in this page's chunks; valid from seal() on
  u32 padding[11] = {};
  TableArenaChunk chunks[kTableArenaEntries] = {};  // from `count` on all zero
};
static_assert(sizeof(TableArenaPage) == kPageSize);

inline constexpr FieldDef kTableArenaPageFields[] = {
    PERDURE_FIELD(TableArenaPage, magic, Number, kTableArenaMagic, kTableArenaMagic, "\"PRTARENA\""),
    PERDURE_FIELD(TableArenaPage, version, Version, kTableArenaVersion, kTableArenaVersion, ""),
    PERDURE_FIELD(TableArenaPage, checksum, Checksum, 0, ~u64{0}, "of the whole page"),
    PERDURE_FIELD(TableArenaPage, self, Physical, kPageSize, ~u64{0}, "address of this page"),
    PERDURE_FIELD(TableArenaPage, first, Physical, kPageSize, ~u64{0}, "address of the chain's first page"),
    PERDURE_FIELD(TableArenaPage, next, Physical, 0, ~u64{0}, "next page of the chain, 0: the last"),
    PERDURE_FIELD(TableArenaPage, index, Count, 0, ~u32{0}, "of this page in the chain"),
    PERDURE_FIELD(TableArenaPage, count, Count, 1, kTableArenaEntries, "chunks here; all but the last page are full"),
    PERDURE_FIELD(TableArenaPage, used_pages, Count, 0, u64{kTableArenaEntries} << kTableArenaMaxOrder,
                  "table pages in these chunks"),
    PERDURE_FIELD(TableArenaPage, padding, Padding, 0, 0, ""),
    PERDURE_FIELD(TableArenaPage, chunks, Bytes, 0, 0, "the chunks"),
};
inline constexpr Schema kTableArenaPageSchema{"table arena page", kTableArenaVersion, sizeof(TableArenaPage),
                                              kTableArenaPageFields};
static_assert(gapless(kTableArenaPageSchema));

inline constexpr FieldDef kTableArenaChunkFields[] = {
    PERDURE_FIELD(TableArenaChunk, base, Physical, kPageSize, ~u64{0}, "first page"),
    PERDURE_FIELD(TableArenaChunk, order, Number, 0, kTableArenaMaxOrder, "log2 of the number of pages"),
    PERDURE_FIELD(TableArenaChunk, padding, Padding, 0, 0, ""),
    PERDURE_FIELD(TableArenaChunk, used, Bytes, 0, 0, "a bit for each page"),
};
inline constexpr Schema kTableArenaChunkSchema{"table arena chunk", kTableArenaVersion, sizeof(TableArenaChunk),
                                               kTableArenaChunkFields};
static_assert(gapless(kTableArenaChunkSchema));

}  // namespace perdure::abi
