#include "core/kho/vmalloc.h"

namespace perdure::kho {

Result<PreservedArray> PreservedArray::create(Kho& kho, u64 bytes) {
  PERDURE_ASSERT(bytes != 0);
  const u64 pages = (bytes - 1) / kPageSize + 1;
  if (pages > ~u32{0}) return fail(Errno::E2big);
  PreservedArray array(kho);
  TRY(array.pages_.reserve(pages));
  TRY(array.chunks_.reserve(pages / kRunsPerChunk + 1));
  VmallocChunk* chunk = nullptr;
  for (u64 i = 0; i <= pages; ++i) {
    // As Linux does: the next chunk is there as soon as one is full, so the last one may be empty.
    if (i % kRunsPerChunk == 0) {
      const Phys at = TRY(kho.alloc_preserved(kPageSize));
      (void)array.chunks_.push_back(at);  // reserved
      if (chunk != nullptr) chunk->next = at.value;
      chunk = kho.machine().virt<VmallocChunk>(at);
    }
    if (i == pages) break;
    const Phys page = TRY(kho.alloc_preserved(kPageSize));
    (void)array.pages_.push_back(page);  // reserved
    chunk->runs[i % kRunsPerChunk] = page.value;
  }
  return array;
}

PreservedArray::~PreservedArray() {
  for (Phys page : pages_) kho_->unpreserve_free(page, kPageSize);
  for (Phys chunk : chunks_) kho_->unpreserve_free(chunk, kPageSize);
}

std::byte* PreservedArray::at(u64 offset) const {
  return kho_->machine().virt(pages_[offset / kPageSize] + offset % kPageSize);
}

VmallocDescriptor PreservedArray::descriptor() const {
  return {chunks_[0].value, static_cast<u32>(pages_.size()), kVmallocPlain, 0};
}

Result<ArrayReader> ArrayReader::open(Kho& kho, const VmallocDescriptor& descriptor, u64 bytes,
                                      std::string_view& problem) {
  const auto bad = [&](std::string_view what) {
    problem = what;
    return fail(Errno::Einval);
  };
  // A huge-page area still has its pages listed in runs of one order.
  if ((descriptor.flags & ~(kVmallocPlain | kVmallocHuge)) != 0 || descriptor.flags == 0)
    return bad("array descriptor has unknown flags");
  if (descriptor.order > FrameAllocator::kMaxOrder) return bad("array descriptor has an impossible order");
  const u64 pages = descriptor.total_pages;
  const u64 pages_per_run = u64{1} << descriptor.order;
  if (pages % pages_per_run != 0) return bad("array is no whole number of runs");
  if (bytes == 0 || pages < (bytes - 1) / kPageSize + 1) return bad("array is shorter than its contents");
  // Not longer than rounding up explains, so that nobody can make us chase pages for nothing.
  if (pages - ((bytes - 1) / kPageSize + 1) >= pages_per_run) return bad("array is longer than its contents");
  ArrayReader reader(kho, descriptor.order);
  const u64 runs = pages / pages_per_run;
  TRY(reader.runs_.reserve(runs));
  for (u64 at = descriptor.first_chunk; at != 0;) {
    if (!kho.restorable_ram(Phys(at), 0)) return bad("array chunk is no preserved page");
    if (reader.chunks_.size() > runs / kRunsPerChunk) return bad("array has too many chunks");
    TRY(reader.chunks_.push_back(Phys(at)));
    const auto* chunk = kho.machine().virt<const VmallocChunk>(Phys(at));
    for (u64 i = 0; i < kRunsPerChunk && chunk->runs[i] != 0; ++i) {
      if (reader.runs_.size() == runs) return bad("array has more pages than its descriptor says");
      const Phys run(chunk->runs[i]);
      if (!kho.restorable_ram(run, descriptor.order)) return bad("array page is no preserved page");
      TRY(reader.runs_.push_back(run));
    }
    at = chunk->next;
  }
  if (reader.runs_.size() != runs) return bad("array has fewer pages than its descriptor says");
  return reader;
}

const std::byte* ArrayReader::at(u64 offset) const {
  const u64 run_bytes = kPageSize << order_;
  return kho_->machine().virt<const std::byte>(runs_[offset / run_bytes] + offset % run_bytes);
}

Result<void> ArrayReader::each_block(FunctionRef<Result<void>(Phys, unsigned)> visit) const {
  for (Phys chunk : chunks_) TRY(visit(chunk, 0));
  for (Phys run : runs_) TRY(visit(run, order_));
  return {};
}

Result<void> ArrayReader::restore() {
  return each_block([&](Phys base, unsigned order) -> Result<void> {
    if (!kho_->restore(base, order)) return fail(Errno::Einval);
    return {};
  });
}

void ArrayReader::free() {
  (void)each_block([&](Phys base, unsigned order) -> Result<void> {
    kho_->frames().free(base, order);
    return {};
  });
  runs_.clear();
  chunks_.clear();
}

}  // namespace perdure::kho
