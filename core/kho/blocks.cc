#include "core/kho/blocks.h"

#include <cstring>

#include "core/base/log.h"

namespace perdure::kho {

Result<void> BlockSet::grow(u64 entries) {
  const u64 needed = (entries + per_block() - 1) / per_block();
  if (needed > kMaxBlocks) return fail(Errno::Enospc);
  const usize before = blocks_.size();
  while (blocks_.size() < needed) {
    auto page = kho_->alloc_preserved(kPageSize);
    if (page) {
      if (const auto r = blocks_.push_back(*page); !r) {
        kho_->unpreserve_free(*page, kPageSize);
        page = fail(r.error());
      }
    }
    if (!page) {
      shrink(before * per_block());
      return fail(page.error());
    }
    if (blocks_.size() > 1) header(blocks_.size() - 2).next = page->value;
  }
  return {};
}

void BlockSet::shrink(u64 entries) {
  if (entries < written_) clear();
  const u64 needed = (entries + per_block() - 1) / per_block();
  while (blocks_.size() > needed) {
    kho_->unpreserve_free(blocks_.back(), kPageSize);
    blocks_.pop_back();
    if (!blocks_.empty()) header(blocks_.size() - 1).next = 0;
  }
}

std::byte* BlockSet::append() {
  PERDURE_ASSERT(written_ < room());
  BlockHeader& block = header(written_ / per_block());
  std::byte* entry = reinterpret_cast<std::byte*>(&block + 1) + written_ % per_block() * entry_size_;
  memset(entry, 0, entry_size_);
  ++block.count;
  ++written_;
  return entry;
}

void BlockSet::clear() {
  for (usize i = 0; i < blocks_.size(); ++i) {
    header(i).count = 0;
    memset(kho_->machine().virt(blocks_[i] + sizeof(BlockHeader)), 0, kPageSize - sizeof(BlockHeader));
  }
  written_ = 0;
}

Result<BlockReader> BlockReader::open(Kho& kho, Phys head, u32 entry_size, std::string_view what) {
  BlockReader reader(kho, entry_size);
  const auto bad = [&](Errno e, Phys at, std::string_view why) {
    perdure::log(kho.machine(), LogLevel::Error,
                 Line() << "kho: block " << reader.blocks_.size() << " of " << what << ", at " << at << ": " << why);
    reader.blocks_.clear();
    return fail(e);
  };
  // Brent's cycle check: `anchor` moves up to `at` at every power of two.
  Phys anchor;
  u64 until_move = 1, steps = 0;
  for (Phys at = head; at;) {
    if (!kho.restorable_ram(at, 0)) return bad(Errno::Einval, at, "is no preserved page, or is used elsewhere");
    if (at == anchor) return bad(Errno::Einval, at, "the chain runs in a circle");
    if (++steps == until_move) {
      anchor = at;
      until_move *= 2;
    }
    // Room for a chain that is too long to be told from one that is only long.
    if (steps > 2 * kMaxBlocks) return bad(Errno::Einval, at, "the chain has no end");
    const BlockHeader header = *kho.machine().virt<const BlockHeader>(at);
    if (header.count > entries_per_block(entry_size)) return bad(Errno::Einval, at, "counts more entries than fit");
    if (header.count == 0)
      perdure::log(kho.machine(), LogLevel::Warn,
                   Line() << "kho: block " << steps - 1 << " of " << what << ", at " << at << ", is empty");
    if (const auto r = reader.blocks_.push_back(at); !r) return bad(r.error(), at, "no memory to read it");
    reader.count_ += header.count;
    at = Phys(header.next);
  }
  if (reader.blocks_.size() > kMaxBlocks) return bad(Errno::Enospc, head, "the chain is too long");
  for (usize i = 0; i < reader.blocks_.size(); ++i) {
    // Checked above, and the pages are distinct.
    PERDURE_ASSERT(kho.restore(reader.blocks_[i], 0).has_value());
  }
  return reader;
}

BlockReader::~BlockReader() {
  for (Phys page : blocks_) kho_->frames().free(page, 0);
}

Result<void> BlockReader::each(FunctionRef<Result<void>(const std::byte*)> visit) const {
  for (Phys page : blocks_) {
    const auto* header = kho_->machine().virt<const BlockHeader>(page);
    const auto* entries = reinterpret_cast<const std::byte*>(header + 1);
    for (u64 i = 0; i < header->count; ++i) TRY(visit(entries + i * entry_size_));
  }
  return {};
}

}  // namespace perdure::kho
