#include "machine/board/iommu/outbox.h"

namespace perdure::board {

void deliver(const Outbox& news, IommuEnvironment& to) {
  for (const News& n : news) {
    switch (n.kind) {
      case News::Kind::Msi: to.msi(n.address, static_cast<u32>(n.data)); break;
      case News::Kind::TranslationOn: to.translation_enabled(true, n.data); break;
      case News::Kind::TranslationOff: to.translation_enabled(false, n.data); break;
      case News::Kind::DeviceTlb: to.device_tlb_invalidate(n.source, n.address, n.data); break;
    }
  }
}

}  // namespace perdure::board
