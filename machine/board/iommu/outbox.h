// News for the surroundings, collected under the unit's lock and delivered after it is released.
#pragma once
#include <vector>

#include "machine/board/iommu/phys_memory.h"

namespace perdure::board {

struct News {
  enum class Kind : u8 { Msi, TranslationOn, TranslationOff, DeviceTlb };
  Kind kind{};
  u64 address = 0;  // message address; IOVA of a device TLB invalidation
  u64 data = 0;     // message data; bytes; time stamp
  u16 source = 0;
};

using Outbox = std::vector<News>;

void deliver(const Outbox& news, IommuEnvironment& to);

}  // namespace perdure::board
