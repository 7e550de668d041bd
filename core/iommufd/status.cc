#include "core/iommufd/status.h"

#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

void IommufdFile::describe(ContextVisitor& visitor) const {
  MutexGuard guard(lock_);
  for (const Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
    switch (object->type()) {
      case ObjectType::Ioas: {
        IoasStatus status{.id = object->id()};
        (void)static_cast<const Ioas*>(object)->each_area([&](const Area& area) -> Result<void> {
          ++status.areas;
          status.bytes += area.length;
          return {};
        });
        visitor.ioas(status);
        break;
      }
      case ObjectType::HwptPaging: {
        const auto& hwpt = static_cast<const HwptPaging&>(*object);
        visitor.hwpt({.id = hwpt.id(),
                      .ioas = hwpt.ioas() ? hwpt.ioas()->id() : 0,
                      .automatic = hwpt.automatic(),
                      .marked = hwpt.marked,
                      .token = hwpt.token,
                      .devices = hwpt.domain().attached_devices(),
                      .mapped_bytes = hwpt.domain().mapped_bytes()});
        break;
      }
      case ObjectType::Access: break;  // the kernel's own
      case ObjectType::Device: {
        const auto& device = static_cast<const Device&>(*object);
        visitor.device(
            {.id = device.id(), .source = device.iommu_device().source(), .hwpt = device.hwpt ? device.hwpt->id() : 0});
        break;
      }
    }
  }
}

void Iommufd::add(IommufdFile& context) {
  MutexGuard guard(lock_);
  context.number_ = ++contexts_made_;
  contexts_.push_back(context);
}

void Iommufd::remove(IommufdFile& context) {
  MutexGuard guard(lock_);
  decltype(contexts_)::remove(context);
}

// One by one and by number, so that no lock is held while one is looked at.
void Iommufd::each_context(FunctionRef<void(const IommufdFile& context)> visit) const {
  for (u64 after = 0;;) {
    Ref<IommufdFile> next;
    {
      MutexGuard guard(lock_);
      for (IommufdFile& context : contexts_) {
        if (context.number() <= after || !context.try_get_ref()) continue;
        next = Ref<IommufdFile>::adopt(&context);
        break;
      }
    }
    if (!next) return;
    after = next->number();
    visit(*next);
  }
}

}  // namespace perdure::iommufd
