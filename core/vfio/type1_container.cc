#include "core/vfio/type1_container.h"

#include <algorithm>

#include "core/base/scope_guard.h"
#include "core/iommufd/vfio_info.h"
#include "core/vfio/device_file.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

namespace {

namespace ext = uapi::vfio_extension;

// Extensions that it has with or without an IOMMU. Every device's DMA is coherent here, once there is a domain to say
// so.
bool has_extension(u64 extension, bool with_iommu) {
  switch (extension) {
    case ext::kType1:
    case ext::kType1v2:
    case ext::kUnmapAll: return true;
    case ext::kDmaCoherent: return with_iommu;
    default: return false;
  }
}

}  // namespace

Type1Container::Type1Container(Vfio& module, Ref<iommufd::IommufdFile> context)
    : module_(module), context_(std::move(context)), members_(module.heap()), mappings_(module.heap()) {}

bool Type1Container::ready() const {
  MutexGuard guard(lock_);
  return kind_ != Kind::None;
}

Result<u64> Type1Container::ioctl(Task& task, u32 cmd, UserAddr arg) {
  switch (cmd) {
    case uapi::kVfioGetApiVersion: return u64{0};
    case uapi::kVfioCheckExtension: return has_extension(arg.value, ready()) ? 1 : 0;
    case uapi::kVfioSetIommu: TRY(set_iommu(task, arg.value)); return u64{0};
    default: break;
  }
  // The rest is the IOMMU's.
  if (!ready()) return fail(Errno::Einval);
  switch (cmd) {
    case uapi::kVfioIommuGetInfo: TRY(get_info(task, arg)); return u64{0};
    case uapi::kVfioIommuMapDma: TRY(map(task, arg)); return u64{0};
    case uapi::kVfioIommuUnmapDma: TRY(unmap(task, arg)); return u64{0};
    default: return fail(Errno::Enotty);
  }
}

// --- groups -------------------------------------------------------------------------------------------------------

Result<void> Type1Container::add(Task& task, VfioGroup& group) {
  IommuDevice* const representative = module_.representative(group);
  if (!representative) return fail(Errno::Enodev);
  MutexGuard guard(lock_);
  TRY(members_.reserve(members_.size() + 1));
  Member member {
    &group, TRY(context_->bind(*representative))
  };
  if (kind_ != Kind::None) {
    if (const Result<void> attached = attach_locked(task, member); !attached) {
      context_->unbind(*member.device);
      return attached;
    }
  }
  return members_.push_back(std::move(member));
}

Ref<iommufd::Object> Type1Container::remove(VfioGroup& group) {
  MutexGuard guard(lock_);
  for (usize i = 0; i < members_.size(); ++i) {
    if (members_[i].group != &group) continue;
    context_->unbind(*members_[i].device);
    members_.erase_at(i);
    break;
  }
  return members_.empty() ? drop_iommu_locked() : Ref<iommufd::Object>();
}

Ref<iommufd::Object> Type1Container::drop_iommu_locked() {
  kind_ = Kind::None;
  mappings_.clear();
  ioas_ = nullptr;
  return context_->drop_compat_ioas();
}

Result<void> Type1Container::attach_locked(Task& task, const Member& member) {
  const Result<u32> attached = context_->attach(task, *member.device, ioas_->id());
  if (attached) return {};
  // What is mapped already and the group does not allow: type 1 has another word for it.
  return fail(attached.error() == Errno::Eaddrinuse ? Errno::Einval : attached.error());
}

Result<void> Type1Container::set_iommu(Task& task, u64 type) {
  Ref<iommufd::Object> ended;
  MutexGuard guard(lock_);
  if (members_.empty() || kind_ != Kind::None) return fail(Errno::Einval);
  // Extensions are no types.
  if (type != ext::kType1 && type != ext::kType1v2)
    return fail(has_extension(type, false) ? Errno::Einval : Errno::Enodev);
  ioas_ = TRY(context_->make_compat_ioas());
  for (usize i = 0; i < members_.size(); ++i) {
    const Result<void> attached = attach_locked(task, members_[i]);
    if (attached) continue;
    for (usize k = 0; k < i; ++k) static_cast<void>(context_->detach(*members_[k].device));
    ended = drop_iommu_locked();
    return attached;
  }
  kind_ = type == ext::kType1 ? Kind::Type1 : Kind::Type1v2;
  return {};
}

// --- mappings -----------------------------------------------------------------------------------------------------

Result<void> Type1Container::get_info(Task& task, UserAddr arg) {
  MutexGuard guard(lock_);
  if (!ioas_) return fail(Errno::Einval);
  return iommufd::answer_vfio_iommu_info(task, arg, module_.heap(), *ioas_,
                                         kMostMappings - static_cast<u32>(mappings_.size()));
}

usize Type1Container::lower_bound_locked(u64 iova) const {
  const Mapping* const at = std::lower_bound(mappings_.begin(), mappings_.end(), iova,
                                             [](const Mapping& mapping, u64 from) { return mapping.last < from; });
  return static_cast<usize>(at - mappings_.begin());
}

Result<void> Type1Container::map_locked(Task& task, const uapi::VfioDmaMap& cmd, Access access) {
  const Iova at(cmd.iova);
  const Result<Iova> mapped = context_->map_user(task, *ioas_, cmd.vaddr, cmd.size, &at, access);
  if (mapped) return {};
  if (mapped.error() != Errno::Efault) return fail(mapped.error());
  const Task::OwnMapping mapping = TRY(task.own_mapping(UserAddr(cmd.vaddr), cmd.size, access));
  const Result<MapTarget> target = mapping.file->mmap(task, mapping.offset, cmd.size, access);
  if (!target) return fail(Errno::Efault);
  return context_->map_registers(task, *ioas_, target->base, cmd.size, at, access);
}

Result<void> Type1Container::map(Task& task, UserAddr arg) {
  const auto cmd = TRY(copy_in_argsz<uapi::VfioDmaMap>(task, arg, sizeof(uapi::VfioDmaMap)));
  constexpr u32 kBoth = uapi::vfio_iommu::kMapRead | uapi::vfio_iommu::kMapWrite;
  if ((cmd.flags & ~kBoth) != 0 || (cmd.flags & kBoth) == 0) return fail(Errno::Einval);
  if (cmd.size == 0 || (cmd.size | cmd.iova | cmd.vaddr) % kPageSize != 0) return fail(Errno::Einval);
  if (range_overflows(cmd.iova, cmd.size) || range_overflows(cmd.vaddr, cmd.size)) return fail(Errno::Eoverflow);
  const u64 last = cmd.iova + (cmd.size - 1);
  const Access access = (cmd.flags & kBoth) == kBoth                     ? Access::ReadWrite
                        : (cmd.flags & uapi::vfio_iommu::kMapWrite) != 0 ? Access::Write
                                                                         : Access::Read;
  MutexGuard guard(lock_);
  if (!ioas_) return fail(Errno::Einval);
  const usize at = lower_bound_locked(cmd.iova);
  if (at < mappings_.size() && mappings_[at].iova <= last) return fail(Errno::Eexist);
  if (mappings_.size() >= kMostMappings) return fail(Errno::Enospc);
  TRY(mappings_.reserve(mappings_.size() + 1));
  TRY(map_locked(task, cmd, access));
  return mappings_.insert_at(at, {cmd.iova, last});
}

// Type 1 forgot in its first version how it was mapped: what begins before the range stays, with success and nothing
// unmapped; a mapping that begins in the range goes as a whole. Version 2 refuses to cut.
Result<void> Type1Container::unmap(Task& task, UserAddr arg) {
  auto cmd = TRY(copy_in_argsz<uapi::VfioDmaUnmap>(task, arg, sizeof(uapi::VfioDmaUnmap)));
  if ((cmd.flags & ~uapi::vfio_iommu::kUnmapAll) != 0) return fail(Errno::Einval);
  const bool all = (cmd.flags & uapi::vfio_iommu::kUnmapAll) != 0;
  if (cmd.iova % kPageSize != 0) return fail(Errno::Einval);
  if (all ? cmd.iova != 0 || cmd.size != 0 : cmd.size == 0 || cmd.size % kPageSize != 0) return fail(Errno::Einval);
  if (!all && range_overflows(cmd.iova, cmd.size)) return fail(Errno::Eoverflow);
  const u64 last = all ? ~u64{0} : cmd.iova + (cmd.size - 1);
  iommufd::Ioas::AreaList removed;
  ScopeGuard release([&] { iommufd::Ioas::release_areas(module_.heap(), removed); });
  u64 unmapped = 0;
  {
    MutexGuard guard(lock_);
    if (!ioas_) return fail(Errno::Einval);
    usize at = lower_bound_locked(cmd.iova);
    if (!all && kind_ == Kind::Type1v2) {
      if (at < mappings_.size() && mappings_[at].iova < cmd.iova) return fail(Errno::Einval);
      const usize end = lower_bound_locked(last);
      if (end < mappings_.size() && mappings_[end].iova <= last && mappings_[end].last != last) {
        return fail(Errno::Einval);
      }
    }
    const usize first = at;
    Result<void> result;
    for (; at < mappings_.size() && mappings_[at].iova <= last; ++at) {
      const Mapping& mapping = mappings_[at];
      if (mapping.iova < cmd.iova) break;
      // Eio: a unit did not confirm; the areas are gone all the same.
      const Result<u64> done = ioas_->unmap(Iova(mapping.iova), Iova(mapping.last), removed);
      if (!done) result = fail(done.error());
      unmapped += mapping.last - mapping.iova + 1;
    }
    mappings_.erase(first, at);
    TRY(Result<void>(result));
  }
  cmd.size = unmapped;
  return task.copy_out(arg, cmd);
}

}  // namespace perdure::vfio
