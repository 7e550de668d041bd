// A context as VFIO's container (uapi §2.13): its ioctls on the compatibility IOAS.
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

Result<Ref<Ioas>> IommufdFile::compat_ioas() const {
  MutexGuard guard(lock_);
  if (!compat_ioas_) return fail(Errno::Enodev);
  return Ref<Ioas>(compat_ioas_);
}

Result<Ref<Ioas>> IommufdFile::make_compat_ioas() {
  Ref<Ioas> fresh = TRY(heap_.make_ref<Ioas>(heap_));
  MutexGuard guard(lock_);
  if (compat_ioas_) return Ref<Ioas>(compat_ioas_);
  objects_.finalize(TRY(objects_.reserve()), fresh);
  compat_ioas_ = fresh.get();
  return fresh;
}

Result<void> IommufdFile::vfio_ioas(Call<uapi::IommuVfioIoas>& call) {
  uapi::IommuVfioIoas& cmd = call.cmd;
  if (cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  switch (cmd.op) {
    case uapi::iommu_vfio_ioas::kGet: {
      MutexGuard guard(lock_);
      if (!compat_ioas_) return fail(Errno::Enodev);
      cmd.ioas_id = compat_ioas_->id();
      break;
    }
    case uapi::iommu_vfio_ioas::kSet: {
      MutexGuard guard(lock_);
      Ioas* const ioas = objects_.find_as<Ioas>(cmd.ioas_id);
      if (!ioas) return fail(Errno::Enoent);
      compat_ioas_ = ioas;
      return {};
    }
    case uapi::iommu_vfio_ioas::kClear: {
      MutexGuard guard(lock_);
      compat_ioas_ = nullptr;
      return {};
    }
    default: return fail(Errno::Eopnotsupp);
  }
  return call.respond();
}

Ref<Object> IommufdFile::drop_compat_ioas() {
  MutexGuard guard(lock_);
  Ioas* const ioas = std::exchange(compat_ioas_, nullptr);
  return ioas ? objects_.remove(ioas->id()) : Ref<Object>();
}

Result<void> IommufdFile::map_registers(Task& task, Ioas& ioas, Phys base, u64 length, Iova at, Access access) {
  Ref<Pages> pages = TRY(heap_.make_ref<Pages>(heap_, base, length, includes(access, Access::Write)));
  const Ioas::Slice slice{std::move(pages), 0, length};
  TRY(ioas.map(task, {&slice, 1}, &at, access));
  return {};
}

bool IommufdFile::owns(const Group& group) const {
  MutexGuard guard(lock_);
  for (Object* o = objects_.next(0); o; o = objects_.next(o->id())) {
    const Device* const device = object_cast<Device>(o);
    if (device && &device->group() == &group) return true;
  }
  return false;
}

}  // namespace perdure::iommufd
