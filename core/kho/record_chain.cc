#include "core/kho/record_chain.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"

namespace perdure::kho {

using abi::RecordBlock;

RecordChain::RecordChain(Kho& kho, const abi::ChainFormat& format)
    : kho_(kho), format_(format), capacity_(format.capacity()), blocks_(kho.heap()), used_(kho.heap()) {}

RecordChain::~RecordChain() {
  for (Phys block : blocks_) kho_.unpreserve_free(block, abi::kRecordBlockBytes);
}

Result<u32> RecordChain::reserve() {
  for (; free_from_ < used_.size(); ++free_from_) {
    if (used_[free_from_]) continue;
    used_[free_from_] = 1;
    ++in_use_;
    return free_from_++;
  }
  const u32 index = slots();
  if (index >= format_.most) return fail(Errno::E2big);
  TRY(used_.reserve(index + 1));
  if (index / capacity_ >= blocks_.size()) {
    TRY(blocks_.reserve(blocks_.size() + 1));
    static_cast<void>(blocks_.push_back(TRY(kho_.alloc_preserved(abi::kRecordBlockBytes))));
  }
  static_cast<void>(used_.push_back(1));
  free_from_ = index + 1;
  ++in_use_;
  return index;
}

void RecordChain::release(u32 index) {
  PERDURE_ASSERT(used(index));
  const std::span<std::byte> at = slot(index);
  std::memset(at.data(), 0, at.size());
  used_[index] = 0;
  --in_use_;
  if (index < free_from_) free_from_ = index;
}

std::span<std::byte> RecordChain::slot(u32 index) const {
  const Phys block = blocks_[index / capacity_];
  std::byte* start = kho_.machine().virt(block) + sizeof(RecordBlock);
  return {start + usize{index % capacity_} * format_.record->size, format_.record->size};
}

void RecordChain::write_bytes(u32 index, std::span<const std::byte> record) {
  PERDURE_ASSERT(used(index) && record.size() >= format_.record->size);
  const std::span<std::byte> at = slot(index);
  std::memcpy(at.data(), record.data(), at.size());
  abi::seal(*format_.record, at);
}

void RecordChain::give_back(Kho& kho, Phys first) {
  while (first) {
    const Phys next(kho.machine().virt<RecordBlock>(first)->next);
    kho.unpreserve_free(first, abi::kRecordBlockBytes);
    first = next;
  }
}

void RecordChain::seal(u64 generation) {
  for (u32 i = 0; i < blocks_.size(); ++i) {
    RecordBlock header;
    header.magic = format_.block_magic;
    header.version = format_.version;
    header.generation = generation;
    header.next = i + 1 < blocks_.size() ? blocks_[i + 1].value : 0;
    header.kind = format_.kind;
    header.first_index = i * capacity_;
    header.slots = std::min(slots() - header.first_index, capacity_);
    header.record_bytes = format_.record->size;
    std::byte* at = kho_.machine().virt(blocks_[i]);
    std::memcpy(at, &header, sizeof header);
    abi::seal(*format_.block, {at, sizeof header});
  }
}

// --- reading ----------------------------------------------------------------------------------------------------

bool readable_page(Kho& kho, u64 at) {
  return at != 0 && at % kPageSize == 0 && kho.machine().in_window(Phys(at), kPageSize) &&
         kho.restorable_ram(Phys(at), 0);
}

std::string_view read_header(Kho& kho, u64 at, const abi::Schema& schema, std::span<std::byte> out) {
  if (!readable_page(kho, at)) return "not in memory that the former kernel preserved";
  // Copied before it is judged, so that what was judged is what is used.
  std::memcpy(out.data(), kho.machine().virt(Phys(at)), out.size());
  const abi::FieldDef* field = nullptr;
  if (!abi::validate(schema, out, &field)) return field ? field->name : std::string_view("unreadable");
  return {};
}

Result<std::string_view> read_chain(Kho& kho, const abi::ChainFormat& format, const ChainPlace& place, u64 generation,
                                    Vec<Phys>& blocks,
                                    FunctionRef<Result<void>(u32 index, std::span<const std::byte> bytes)> visit) {
  using std::literals::operator""sv;
  const u32 capacity = format.capacity();
  const u32 record_bytes = format.record->size;
  const u32 total = place.slots / capacity + (place.slots % capacity != 0 ? 1 : 0);
  if (place.bytes != u64{total} * abi::kRecordBlockBytes || (total == 0) != (place.first == 0)) {
    return "counts disagree"sv;
  }
  u64 at = place.first;
  for (u32 n = 0; n < total; ++n) {
    if (!readable_page(kho, at)) return "a block is not in memory that the former kernel preserved"sv;
    if (std::find(blocks.begin(), blocks.end(), Phys(at)) != blocks.end()) return "a block is there twice"sv;
    const std::byte* page = kho.machine().virt(Phys(at));
    RecordBlock block;
    std::memcpy(&block, page, sizeof block);
    if (!abi::validate(*format.block, std::as_bytes(std::span(&block, 1)))) return "a block header is damaged"sv;
    const u32 first = n * capacity;
    if (block.kind != format.kind || block.version != format.version || block.generation != generation ||
        block.first_index != first || block.slots != std::min(capacity, place.slots - first) ||
        block.record_bytes != record_bytes || (block.next == 0) != (n + 1 == total)) {
      return "a block does not belong there"sv;
    }
    TRY(blocks.push_back(Phys(at)));
    for (u32 i = 0; i < block.slots; ++i) {
      TRY(visit(first + i, {page + sizeof block + usize{i} * record_bytes, record_bytes}));
    }
    at = block.next;
  }
  return ""sv;
}

std::string_view read_record(const abi::Schema& schema, std::span<const std::byte> bytes, std::span<std::byte> out,
                             bool& used) {
  used = std::any_of(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0}; });
  if (!used) return {};
  const abi::FieldDef* field = nullptr;
  if (!abi::validate(schema, bytes, &field)) return field ? field->name : std::string_view("unreadable");
  PERDURE_ASSERT(out.size() >= bytes.size());
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return {};
}

void discard_pages(Kho& kho, std::span<const Phys> pages) {
  for (Phys page : pages) {
    if (const Result<void> restored = kho.restore(page, 0); !restored) {
      log(kho.machine(), LogLevel::Error,
          Line() << "record page " << page << " cannot be given back: " << restored.error());
      continue;
    }
    kho.frames().free(page, 0);
  }
}

}  // namespace perdure::kho
