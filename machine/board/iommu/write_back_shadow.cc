#include "machine/board/iommu/write_back_shadow.h"

#include <algorithm>

#include "machine/board/iommu/snapshot.h"

namespace perdure::board {

namespace {
constexpr u32 kTag = 0x57425331;  // "WBS1"
constexpr usize kWordsPerLine = WriteBackShadow::kLine / 8;
}  // namespace

void WriteBackShadow::write_back(u64 phys, u64 bytes) {
  if (bytes == 0 || range_overflows(phys, bytes)) return;
  std::lock_guard guard(mutex_);
  const u64 last = align_down(phys + (bytes - 1), kLine);
  for (u64 line = align_down(phys, kLine);; line += kLine) {
    if (memory_.is_ram(line, kLine)) {
      auto& page = pages_[line >> kPageShift];
      if (!page) page = std::make_unique<Page>();
      const usize first_word = (line % kPageSize) / 8;
      for (usize i = 0; i < kWordsPerLine; ++i) memory_.load64(line + i * 8, page->words[first_word + i]);
      page->visible |= u64{1} << ((line % kPageSize) / kLine);
    }
    if (line == last) break;
  }
}

WriteBackShadow::Seen WriteBackShadow::load64(u64 phys, u64& value) const {
  value = 0;
  if (!memory_.is_ram(phys, 8)) return Seen::NotRam;
  std::lock_guard guard(mutex_);
  auto found = pages_.find(phys >> kPageShift);
  if (found == pages_.end()) return Seen::NeverWritten;
  const Page& page = *found->second;
  if ((page.visible >> ((phys % kPageSize) / kLine) & 1) == 0) return Seen::NeverWritten;
  value = page.words[(phys % kPageSize) / 8];
  return Seen::Visible;
}

void WriteBackShadow::unit_stored(u64 phys, u64 value) {
  std::lock_guard guard(mutex_);
  auto found = pages_.find(phys >> kPageShift);
  if (found != pages_.end()) found->second->words[(phys % kPageSize) / 8] = value;
}

void WriteBackShadow::take_poison() {
  std::lock_guard guard(mutex_);
  for (auto& [number, page] : pages_) {
    for (usize i = 0; i < page->words.size(); ++i) {
      u64 value = 0;
      if (memory_.load64((number << kPageShift) + i * 8, value) && value == kPoisonWord) page->words[i] = kPoisonWord;
    }
  }
}

void WriteBackShadow::forget(u64 phys, u64 bytes) {
  std::lock_guard guard(mutex_);
  std::erase_if(pages_,
                [&](const auto& page) { return ranges_overlap(page.first << kPageShift, kPageSize, phys, bytes); });
}

std::vector<std::byte> WriteBackShadow::save() const {
  std::lock_guard guard(mutex_);
  SnapshotWriter out(kTag);
  std::vector<u64> numbers;
  numbers.reserve(pages_.size());
  for (const auto& page : pages_) numbers.push_back(page.first);
  std::sort(numbers.begin(), numbers.end());  // equal states give equal bytes
  out.put<u64>(numbers.size());
  for (u64 number : numbers) {
    const Page& page = *pages_.at(number);
    out.put(number);
    out.put(page.visible);
    for (u64 word : page.words) out.put(word);
  }
  return out.finish();
}

Result<void> WriteBackShadow::restore(std::span<const std::byte> bytes) {
  SnapshotReader in(bytes, kTag);
  std::unordered_map<u64, std::unique_ptr<Page>> pages;
  const u64 count = in.get<u64>();
  for (u64 i = 0; i < count && in.good(); ++i) {
    auto page = std::make_unique<Page>();
    const u64 number = in.get<u64>();
    page->visible = in.get<u64>();
    for (u64& word : page->words) word = in.get<u64>();
    pages[number] = std::move(page);
  }
  if (!in.complete()) return fail(Errno::Einval);
  std::lock_guard guard(mutex_);
  pages_ = std::move(pages);
  return {};
}

}  // namespace perdure::board
