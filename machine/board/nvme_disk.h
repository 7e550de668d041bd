// What an NVMe controller of the board keeps its blocks in: memory, of which only what was written exists. Blocks that
// were never written hold what follows from a number, so that a reader can tell each of them from every other.
#pragma once
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/base/types.h"
#include "machine/board/state_file.h"

namespace perdure::board {

class NvmeDisk {
 public:
  static constexpr u64 kBlock = 512;

  // `contents` 0: zeros; else word i of block b is mix64(b + contents) + i * 0x9E3779B97F4A7C15.
  NvmeDisk(u64 bytes, u64 contents) : bytes_(bytes), contents_(contents) {}

  u64 blocks() const { return bytes_ / kBlock; }
  bool holds(u64 block, u64 count) const { return block <= blocks() && count <= blocks() - block; }
  // Whole blocks that the disk holds.
  void read(u64 block, std::span<std::byte> to) const;
  void write(u64 block, std::span<const std::byte> from);
  void zero(u64 block, u64 count);

  void save(StateWriter& out) const;
  void load(StateReader& in);

 private:
  static constexpr u64 kChunkBlocks = 128;
  using Chunk = std::vector<std::byte>;
  void unwritten(u64 block, std::span<std::byte> to) const;
  Chunk& chunk_for_writing(u64 number);

  u64 bytes_;
  u64 contents_;
  std::map<u64, Chunk> chunks_;  // by block number / kChunkBlocks
};

}  // namespace perdure::board
