// IOMMU_OPTION and what else changes a context as a whole (uapi §2.5).
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

Result<void> IommufdFile::option(Call<uapi::IommuOption>& call) {
  const uapi::IommuOption& cmd = call.cmd;
  if (cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  switch (cmd.option_id) {
    case uapi::iommu_option::kRlimitMode: TRY(rlimit_mode(call)); break;
    case uapi::iommu_option::kHugePages: TRY(huge_pages(call)); break;
    default: return fail(Errno::Eopnotsupp);
  }
  // Only the value is written back, whichever way it went.
  return call.task.copy_out(call.arg + offsetof(uapi::IommuOption, val64), cmd.val64);
}

Result<void> IommufdFile::rlimit_mode(Call<uapi::IommuOption>& call) {
  uapi::IommuOption& cmd = call.cmd;
  if (cmd.object_id != 0) return fail(Errno::Eopnotsupp);
  MutexGuard guard(lock_);
  switch (cmd.op) {
    case uapi::iommu_option::kGet: cmd.val64 = accounting_ == Accounting::Process ? 1 : 0; return {};
    case uapi::iommu_option::kSet:
      if (!call.task.creds().cap_sys_resource) return fail(Errno::Eperm);
      TRY(immutability_.may_change());
      if (objects_.next(0)) return fail(Errno::Ebusy);
      if (cmd.val64 > 1) return fail(Errno::Einval);
      accounting_ = cmd.val64 == 1 ? Accounting::Process : Accounting::User;
      return {};
    default: return fail(Errno::Eopnotsupp);
  }
}

Result<void> IommufdFile::huge_pages(Call<uapi::IommuOption>& call) {
  uapi::IommuOption& cmd = call.cmd;
  const Ref<Ioas> ioas = TRY(find_ioas(cmd.object_id));
  switch (cmd.op) {
    case uapi::iommu_option::kGet: cmd.val64 = ioas->large_pages() ? 1 : 0; return {};
    case uapi::iommu_option::kSet:
      if (cmd.val64 > 1) return fail(Errno::Einval);
      return ioas->set_large_pages(cmd.val64 == 1);
    default: return fail(Errno::Eopnotsupp);
  }
}

// Files can be handed to another process; what a process has privately cannot.
Result<void> IommufdFile::ioas_change_process(Call<uapi::IommuIoasChangeProcess>& call) {
  if (call.cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  MutexGuard guard(lock_);
  TRY(immutability_.may_change());
  for (Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
    const Ioas* const ioas = object_cast<Ioas>(object);
    if (!ioas) continue;
    TRY(ioas->each_area([](const Area& area) {
      return area.source.kind == Source::Kind::File ? Result<void>() : fail(Errno::Einval);
    }));
  }
  return {};
}

}  // namespace perdure::iommufd
