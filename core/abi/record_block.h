// A chain of one-page blocks of equal records, as several formats use them: how a block begins.
//
//   block: RecordBlock, records … ─ next ─ block: RecordBlock, records …
//
// A record's index is its place in the chain, counted over all blocks, unused slots included. An unused slot is all
// zero. Magic and bounds are each format's own, so each declares a schema of its own over this structure.
#pragma once
#include <cstddef>

#include "core/abi/schema.h"

namespace perdure::abi {

inline constexpr u64 kRecordBlockBytes = 4096;

struct RecordBlock {
  u64 magic = 0;
  u32 version = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u64 next = 0;
  u32 kind = 0;
  u32 first_index = 0;
  u32 slots = 0;
  u32 record_bytes = 0;
};
static_assert(sizeof(RecordBlock) == 48);

// One kind of records of one format, at one version.
struct ChainFormat {
  u64 block_magic = 0;
  u32 kind = 0;
  u32 version = 0;
  const Schema* block = nullptr;
  const Schema* record = nullptr;
  u32 most = 0;  // records of a chain

  // Records that fit in one block.
  constexpr u32 capacity() const { return static_cast<u32>((kRecordBlockBytes - sizeof(RecordBlock)) / record->size); }
};

}  // namespace perdure::abi
