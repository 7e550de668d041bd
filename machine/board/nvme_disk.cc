#include "machine/board/nvme_disk.h"

#include <algorithm>
#include <cstring>

#include "machine/board/record.h"

namespace perdure::board {
namespace {
constexpr u64 kStep = 0x9E37'79B9'7F4A'7C15;
}

void NvmeDisk::unwritten(u64 block, std::span<std::byte> to) const {
  for (usize at = 0; at < to.size(); at += kBlock, ++block) {
    u64 word = contents_ == 0 ? 0 : mix64(block + contents_);
    for (usize i = 0; i < kBlock; i += sizeof(word)) {
      std::memcpy(&to[at + i], &word, sizeof(word));
      if (contents_ != 0) word += kStep;
    }
  }
}

void NvmeDisk::read(u64 block, std::span<std::byte> to) const {
  while (!to.empty()) {
    const u64 into = block % kChunkBlocks;
    const u64 n = std::min<u64>(kChunkBlocks - into, to.size() / kBlock);
    const auto it = chunks_.find(block / kChunkBlocks);
    if (it == chunks_.end()) {
      unwritten(block, to.first(n * kBlock));
    } else {
      std::memcpy(to.data(), &it->second[into * kBlock], n * kBlock);
    }
    to = to.subspan(n * kBlock);
    block += n;
  }
}

NvmeDisk::Chunk& NvmeDisk::chunk_for_writing(u64 number) {
  const auto [it, is_new] = chunks_.try_emplace(number);
  if (is_new) {
    it->second.resize(kChunkBlocks * kBlock);
    unwritten(number * kChunkBlocks, it->second);
  }
  return it->second;
}

void NvmeDisk::write(u64 block, std::span<const std::byte> from) {
  while (!from.empty()) {
    const u64 into = block % kChunkBlocks;
    const u64 n = std::min<u64>(kChunkBlocks - into, from.size() / kBlock);
    std::memcpy(&chunk_for_writing(block / kChunkBlocks)[into * kBlock], from.data(), n * kBlock);
    from = from.subspan(n * kBlock);
    block += n;
  }
}

void NvmeDisk::zero(u64 block, u64 count) {
  while (count != 0) {
    const u64 into = block % kChunkBlocks;
    const u64 n = std::min(kChunkBlocks - into, count);
    const u64 number = block / kChunkBlocks;
    // What is not there is zero already, unless it holds a pattern.
    if (contents_ != 0 || chunks_.contains(number)) {
      std::memset(&chunk_for_writing(number)[into * kBlock], 0, n * kBlock);
    }
    block += n;
    count -= n;
  }
}

void NvmeDisk::save(StateWriter& out) const {
  out.put<u64>(chunks_.size());
  for (const auto& [number, chunk] : chunks_) {
    out.put<u64>(number);
    out.blob(chunk);
  }
}

void NvmeDisk::load(StateReader& in) {
  chunks_.clear();
  for (u64 left = in.get<u64>(); left != 0; --left) {
    const u64 number = in.get<u64>();
    const std::span<const std::byte> chunk = in.blob();
    if (number > blocks() / kChunkBlocks || chunk.size() != kChunkBlocks * kBlock) {
      throw StateError("saved machine: a part of a disk that it does not have");
    }
    chunks_[number].assign(chunk.begin(), chunk.end());
  }
}

}  // namespace perdure::board
