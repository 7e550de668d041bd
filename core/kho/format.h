// What KHO leaves in memory for the next kernel, kho-v4 as of Linux 7.3, for 4 KiB pages. All words are of the CPU's
// byte order; only the framing of the FDT is big-endian.
#pragma once
#include <bit>
#include <string_view>

#include "core/base/types.h"

namespace perdure::kho {

inline constexpr std::string_view kCompatible = "kho-v4";
// Properties of the root node and of one blob's node.
inline constexpr std::string_view kMapProperty = "preserved-memory-map";
inline constexpr std::string_view kDataProperty = "preserved-data";
inline constexpr std::string_view kSizeProperty = "blob-size";

// --- the radix tree of preserved blocks -----------------------------------------------------------------------
// A set of keys; one key is one block of 2^order pages. Every node is one page: tables of physical addresses on
// levels 5 to 1, bitmaps on level 0.
inline constexpr unsigned kTableBits = kPageShift - 3;  // children of a table
inline constexpr unsigned kLeafBits = kPageShift + 3;   // bits of a bitmap
inline constexpr unsigned kKeyBits = 64 - kPageShift + 1;
inline constexpr unsigned kDepth = (kKeyBits - kLeafBits + kTableBits - 1) / kTableBits + 1;
inline constexpr unsigned kRootLevel = kDepth - 1;
inline constexpr u64 kTableEntries = u64{1} << kTableBits;
inline constexpr u64 kLeafWords = kPageSize / 8;
static_assert(kDepth == 6);

// The format has a key for 2^64 bytes, order 52; no machine has the memory, so it is never valid.
inline constexpr unsigned kMaxKeyOrder = 51;

struct Block {
  Phys base;
  unsigned order = 0;
  constexpr u64 bytes() const { return kPageSize << order; }
  constexpr bool operator==(const Block&) const = default;
};

// `base` is aligned to the block, `order` <= kMaxKeyOrder. The bit above the address both ends it and tells the order.
constexpr u64 key_of(Phys base, unsigned order) {
  return (u64{1} << (64 - kPageShift - order)) | (base.value >> (kPageShift + order));
}
// `key` is neither 0 nor 1 and below 2^kKeyBits.
constexpr Block block_of(u64 key) {
  const unsigned top = static_cast<unsigned>(std::bit_width(key)) - 1;
  const unsigned order = 64 - kPageShift - top;
  return {Phys(key << (kPageShift + order)), order};
}
constexpr bool is_block_key(u64 key) {
  return key > 1 && key >> kKeyBits == 0;
}
// Number of low key bits that a node of this level resolves for one of its slots.
constexpr unsigned slot_shift(unsigned level) {
  return level == 0 ? 0 : (level - 1) * kTableBits + kLeafBits;
}
constexpr u64 slot_of(u64 key, unsigned level) {
  const unsigned bits = level == 0 ? kLeafBits : kTableBits;
  return (key >> slot_shift(level)) & ((u64{1} << bits) - 1);
}

// The biggest order that a block starting at `base` within `length` bytes can have.
constexpr unsigned largest_order(Phys base, u64 length, unsigned cap) {
  const u64 frame = base.page();
  unsigned order = static_cast<unsigned>(std::bit_width(length >> kPageShift)) - 1;
  if (frame != 0 && static_cast<unsigned>(std::countr_zero(frame)) < order)
    order = static_cast<unsigned>(std::countr_zero(frame));
  return order < cap ? order : cap;
}

// --- vmalloc areas: a chain of pages that list runs of pages --------------------------------------------------
struct VmallocDescriptor {
  u64 first_chunk = 0;
  u32 total_pages = 0;
  u16 flags = 0;
  u16 order = 0;  // every run is 2^order pages
};
static_assert(sizeof(VmallocDescriptor) == 16);
inline constexpr u16 kVmallocPlain = 1;
inline constexpr u16 kVmallocHuge = 2;
inline constexpr u64 kRunsPerChunk = kPageSize / 8 - 1;

struct VmallocChunk {
  u64 next = 0;
  u64 runs[kRunsPerChunk] = {};  // ends at the first zero
};
static_assert(sizeof(VmallocChunk) == kPageSize);

// --- serialization blocks: a chain of pages of equal entries ---------------------------------------------------
struct BlockHeader {
  u64 next = 0;
  u64 count = 0;
};
static_assert(sizeof(BlockHeader) == 16);
inline constexpr u64 kMaxBlocks = 10000;
constexpr u64 entries_per_block(u64 entry_size) {
  return (kPageSize - sizeof(BlockHeader)) / entry_size;
}

// --- the blob "kexec-metadata": 73 bytes, u32 version, char release[65], u32 count -------------------------------
inline constexpr std::string_view kMetadataName = "kexec-metadata";
inline constexpr u32 kMetadataVersion = 1;
inline constexpr u64 kMetadataRelease = 4;
inline constexpr u64 kMetadataReleaseSize = 65;
inline constexpr u64 kMetadataCount = kMetadataRelease + kMetadataReleaseSize;
inline constexpr u64 kMetadataSize = kMetadataCount + 4;
static_assert(kMetadataSize == 73);

}  // namespace perdure::kho
