#include "core/kernel/timeline.h"

#include <cstddef>
#include <cstring>

#include "core/base/log.h"

namespace perdure {

namespace {

constexpr std::string_view kSubtree = "perdure-timeline";

struct StoredPhase {
  u32 phase;
  u32 padding;
  u64 begin_ns;
  u64 end_ns;
};

struct StoredTimeline {
  u32 version;
  u32 count;
  u32 checksum;
  u32 padding;
  StoredPhase phases[Timeline::kMost];
};
static_assert(sizeof(StoredTimeline) <= kPageSize && sizeof(StoredPhase) == 24);

u32 checksum_of(StoredTimeline stored) {
  stored.checksum = 0;
  return abi::crc32c(std::as_bytes(std::span(&stored, 1)));
}

}  // namespace

std::string_view phase_name(UpdatePhase phase) {
  switch (phase) {
    case UpdatePhase::Load: return "load";
    case UpdatePhase::Audit: return "audit";
    case UpdatePhase::Freeze: return "freeze";
    case UpdatePhase::Quiesce: return "quiesce";
    case UpdatePhase::Jump: return "jump";
    case UpdatePhase::Carve: return "carve";
    case UpdatePhase::Records: return "records";
    case UpdatePhase::Adopt: return "adopt";
    case UpdatePhase::Scan: return "scan";
    case UpdatePhase::Reattach: return "re-attach";
    case UpdatePhase::Ready: return "ready";
  }
  return "?";
}

void Timeline::add(UpdatePhase phase, u64 begin_ns, u64 end_ns) {
  if (count_ < kMost) phases_[count_++] = {phase, begin_ns, end_ns};
}

Result<void> Timeline::reserve(Kho& kho) {
  if (blob_) return {};
  const Phys at = TRY(kho.alloc_preserved(sizeof(StoredTimeline)));
  if (auto r = kho.add_subtree(kSubtree, {at, sizeof(StoredTimeline)}); !r) {
    kho.unpreserve_free(at, sizeof(StoredTimeline));
    return r;
  }
  blob_ = at;
  return {};
}

void Timeline::store(Machine& machine) {
  StoredTimeline stored{};
  stored.version = 1;
  stored.count = static_cast<u32>(count_);
  for (usize i = 0; i < count_; ++i) {
    stored.phases[i] = {static_cast<u32>(phases_[i].phase), 0, phases_[i].begin_ns, phases_[i].end_ns};
  }
  stored.checksum = checksum_of(stored);
  std::memcpy(machine.virt(blob_), &stored, sizeof stored);
}

void Timeline::unreserve(Kho& kho) {
  if (!blob_) return;
  kho.remove_subtree(kSubtree);
  kho.unpreserve_free(blob_, sizeof(StoredTimeline));
  blob_ = Phys();
}

void Timeline::load(Kho& kho) {
  const auto blob = kho.retrieve_subtree(kSubtree);
  if (!blob) return;
  Machine& machine = kho.machine();
  StoredTimeline stored{};
  const bool readable = blob->size == sizeof stored && kho.incoming_covers(blob->at, blob->size);
  if (readable) std::memcpy(&stored, machine.virt(blob->at), sizeof stored);
  if (!readable || stored.version != 1 || stored.count > kMost || stored.checksum != checksum_of(stored)) {
    log(machine, LogLevel::Warn,
        Line() << "timeline of the former kernel at " << blob->at << " is unreadable; ignored");
    return;
  }
  for (u32 i = 0; i < stored.count; ++i) {
    add(static_cast<UpdatePhase>(stored.phases[i].phase), stored.phases[i].begin_ns, stored.phases[i].end_ns);
  }
  if (kho.restore(blob->at, 0)) kho.frames().free(blob->at, 0);
}

}  // namespace perdure
