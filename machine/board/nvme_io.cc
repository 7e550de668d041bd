#include <algorithm>

#include "machine/board/nvme.h"

namespace perdure::board {
namespace {

using namespace nvme_status;

constexpr u8 kFlush = 0x00;
constexpr u8 kWrite = 0x01;
constexpr u8 kRead = 0x02;
constexpr u8 kCompare = 0x05;
constexpr u8 kWriteZeroes = 0x08;
constexpr u8 kDatasetManagement = 0x09;
constexpr u32 kEveryNamespace = ~u32{0};
constexpr u32 kFusedOrSgl = 0xC300;  // of a command's first word
constexpr u32 kDeallocate = 1 << 2;

}  // namespace

Nvme::Outcome Nvme::io(const Command& c) {
  if ((c.words[0] & kFusedOrSgl) != 0) return {kInvalidField};
  if (c.name_space() != 1 && !(c.opcode() == kFlush && c.name_space() == kEveryNamespace)) return {kInvalidNamespace};
  switch (c.opcode()) {
    case kFlush: return {};
    case kRead: return read_blocks(c);
    case kWrite: return write_blocks(c, false);
    case kCompare: return write_blocks(c, true);
    case kWriteZeroes:
      if (!disk_.holds(c.lba(), c.blocks())) return {kLbaOutOfRange};
      disk_.zero(c.lba(), c.blocks());
      return {};
    case kDatasetManagement: return manage_blocks(c);
    default: return {kInvalidOpcode};
  }
}

Nvme::Outcome Nvme::read_blocks(const Command& c) {
  const u64 bytes = c.blocks() * NvmeDisk::kBlock;
  if (bytes > kMostDataPages * kPageSize) return {kInvalidField};
  if (!disk_.holds(c.lba(), c.blocks())) return {kLbaOutOfRange};
  std::vector<std::byte> data(bytes);
  disk_.read(c.lba(), data);
  const u16 status = to_host(c, data);
  if (status == kSuccess) {
    state_.blocks_read += c.blocks();
    ++state_.commands_read;
  }
  return {status};
}

Nvme::Outcome Nvme::write_blocks(const Command& c, bool compare) {
  const u64 bytes = c.blocks() * NvmeDisk::kBlock;
  if (bytes > kMostDataPages * kPageSize) return {kInvalidField};
  if (!disk_.holds(c.lba(), c.blocks())) return {kLbaOutOfRange};
  std::vector<std::byte> data(bytes);
  if (const u16 status = from_host(c, data); status != kSuccess) return {status};
  if (compare) {
    std::vector<std::byte> there(bytes);
    disk_.read(c.lba(), there);
    return {there == data ? kSuccess : kCompareFailure};
  }
  disk_.write(c.lba(), data);
  state_.blocks_written += c.blocks();
  ++state_.commands_written;
  return {};
}

// Blocks that are not needed any more read as zeros.
Nvme::Outcome Nvme::manage_blocks(const Command& c) {
  struct Range {
    u32 attributes;
    u32 blocks;
    u64 lba;
  };
  std::vector<Range> ranges((c.words[10] & 0xFF) + 1);
  if (const u16 status = from_host(c, std::as_writable_bytes(std::span(ranges))); status != kSuccess) return {status};
  for (const Range& r : ranges) {
    if (!disk_.holds(r.lba, r.blocks)) return {kLbaOutOfRange};
  }
  if ((c.words[11] & kDeallocate) == 0) return {};
  for (const Range& r : ranges) disk_.zero(r.lba, r.blocks);
  return {};
}

// --- PRPs (NVM Express 1.4, 4.3) -------------------------------------------------------------------------------------

u16 Nvme::find_data(const Command& c, u64 bytes, std::vector<Segment>& segments) {
  const u64 page_bytes = page();
  if (c.prp1() % 4 != 0) return kInvalidPrpOffset;
  const auto add = [&](u64 iova) {
    const u64 here = std::min(bytes, page_bytes - iova % page_bytes);
    bytes -= here;
    // Neighbours move in one piece.
    if (!segments.empty() && segments.back().iova + segments.back().bytes == iova) {
      segments.back().bytes += here;
    } else {
      segments.push_back({iova, here});
    }
  };
  add(c.prp1());
  if (bytes == 0) return kSuccess;
  if (bytes <= page_bytes) {
    if (c.prp2() % page_bytes != 0) return kInvalidPrpOffset;
    add(c.prp2());
    return kSuccess;
  }
  // A list, which may begin inside a page; its last entry leads to the next one when it does not suffice.
  u64 list = c.prp2();
  if (list % 8 != 0) return kInvalidPrpOffset;
  while (bytes != 0) {
    const u64 fits = (page_bytes - list % page_bytes) / 8;
    const u64 wanted = (bytes + page_bytes - 1) / page_bytes;
    std::vector<u64> entries(std::min(fits, wanted));
    if (const DmaResult r = bus_.dma_read(*this, list, std::as_writable_bytes(std::span(entries))); !r.done) {
      read_refused();
      ledger_.not_done(r.cause);
      return kDataTransferError;
    }
    if (wanted > fits) {
      list = entries.back();
      entries.pop_back();
      if (list % page_bytes != 0) return kInvalidPrpOffset;
    }
    for (u64 entry : entries) {
      if (entry % page_bytes != 0) return kInvalidPrpOffset;
      add(entry);
    }
  }
  return kSuccess;
}

u16 Nvme::to_host(const Command& c, std::span<const std::byte> data) {
  std::vector<Segment> segments;
  if (const u16 status = find_data(c, data.size(), segments); status != kSuccess) return status;
  for (const Segment& s : segments) {
    if (const DmaResult r = bus_.dma_write(*this, s.iova, data.first(s.bytes)); !r.done) {
      ledger_.not_done(r.cause);
      return kDataTransferError;
    }
    data = data.subspan(s.bytes);
  }
  return kSuccess;
}

u16 Nvme::from_host(const Command& c, std::span<std::byte> data) {
  std::vector<Segment> segments;
  if (const u16 status = find_data(c, data.size(), segments); status != kSuccess) return status;
  for (const Segment& s : segments) {
    if (const DmaResult r = bus_.dma_read(*this, s.iova, data.first(s.bytes)); !r.done) {
      read_refused();
      ledger_.not_done(r.cause);
      return kDataTransferError;
    }
    data = data.subspan(s.bytes);
  }
  return kSuccess;
}

}  // namespace perdure::board
