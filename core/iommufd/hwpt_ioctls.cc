// Page table objects: allocation, destruction, what hardware they are for (uapi §2.3, §2.7).
#include <algorithm>

#include "core/base/scope_guard.h"
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

Result<void> IommufdFile::destroy(Call<uapi::IommuDestroy>& call) {
  Ref<Object> drop;
  MutexGuard guard(lock_);
  Object* const object = objects_.find(call.cmd.id);
  if (!object) return fail(Errno::Enoent);
  TRY(object->immutability.may_change());
  // A device is its driver's, for as long as that has it bound; an access (users) that of its file.
  if (object->type() == ObjectType::Device || object->users != 0) return fail(Errno::Ebusy);
  if (HwptPaging* hwpt = object_cast<HwptPaging>(object)) {
    // A restored one may be what devices run on that were not bound again yet.
    if (hwpt->domain().attached_devices() != 0) return fail(Errno::Ebusy);
    drop = retire_hwpt_locked(*hwpt);
  } else {
    if (object == compat_ioas_) compat_ioas_ = nullptr;
    drop = objects_.remove(call.cmd.id);
  }
  return {};
}

Ref<Object> IommufdFile::retire_hwpt_locked(HwptPaging& hwpt) {
  if (hwpt.automatic_node.linked()) hwpt.automatic_node.unlink();
  if (Ioas* ioas = hwpt.ioas()) {
    ioas->remove_domain(hwpt);
    --ioas->users;
  }
  return hwpt.id() != 0 ? objects_.remove(hwpt.id()) : Ref<Object>();
}

Ref<Object> IommufdFile::drop_use_locked(HwptPaging& hwpt) {
  PERDURE_ASSERT(hwpt.users > 0);
  return --hwpt.users == 0 && hwpt.automatic() ? retire_hwpt_locked(hwpt) : Ref<Object>();
}

// Not filled, and not in its IOAS yet.
Result<Ref<HwptPaging>> IommufdFile::make_hwpt_locked(Ref<Ioas> ioas, IommuDevice& device, bool automatic,
                                                      bool track_dirty) {
  Ref<PagingDomain> domain = TRY(module_.iommu.domain_alloc(device, track_dirty));
  return heap_.make_ref<HwptPaging>(heap_, std::move(ioas), std::move(domain), automatic);
}

Result<void> IommufdFile::hwpt_alloc(Call<uapi::IommuHwptAlloc>& call) {
  uapi::IommuHwptAlloc& cmd = call.cmd;
  if (cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  if ((cmd.data_type == 0) != (cmd.data_len == 0)) return fail(Errno::Einval);
  Ref<HwptPaging> hwpt;
  {
    MutexGuard guard(lock_);
    const Device* const device = objects_.find_as<Device>(cmd.dev_id);
    if (!device) return fail(Errno::Enoent);
    Object* const pt = objects_.find(cmd.pt_id);
    if (!pt) return fail(Errno::Einval);
    // A page table of a program's own inside of another one: no unit here does that.
    if (pt->type() == ObjectType::HwptPaging) return fail(Errno::Eopnotsupp);
    Ioas* const ioas = object_cast<Ioas>(pt);
    if (!ioas) return fail(Errno::Einval);
    // Nesting and PASIDs are not there; page faults (kFaultIdValid) are judged by their queue, below.
    constexpr u32 kKnown = uapi::iommu_hwpt::kDirtyTracking | uapi::iommu_hwpt::kFaultIdValid;
    if ((cmd.flags & ~kKnown) != 0 || cmd.data_type != 0) return fail(Errno::Eopnotsupp);
    const bool track_dirty = (cmd.flags & uapi::iommu_hwpt::kDirtyTracking) != 0;
    hwpt = TRY(make_hwpt_locked(Ref<Ioas>(ioas), device->iommu_device(), false, track_dirty));
    TRY(ioas->add_domain(call.task, *hwpt));
    ScopeGuard remove([&] { ioas->remove_domain(*hwpt); });
    if ((cmd.flags & uapi::iommu_hwpt::kFaultIdValid) != 0) return fail(Errno::Enoent);
    cmd.out_hwpt_id = TRY(objects_.reserve());
    ++ioas->users;
    remove.dismiss();
  }
  const Result<void> answered = call.respond();
  MutexGuard guard(lock_);
  if (!answered) {
    objects_.release(cmd.out_hwpt_id);
    static_cast<void>(retire_hwpt_locked(*hwpt));
    return answered;
  }
  objects_.finalize(cmd.out_hwpt_id, hwpt);
  return {};
}

Result<void> IommufdFile::get_hw_info(Call<uapi::IommuHwInfo>& call) {
  uapi::IommuHwInfo& cmd = call.cmd;
  if ((cmd.flags & ~uapi::iommu_hw_info::kFlagInputType) != 0) return fail(Errno::Eopnotsupp);
  for (u8 byte : cmd.reserved) {
    if (byte != 0) return fail(Errno::Eopnotsupp);
  }
  uapi::IommuHwInfoVtd info{};
  // Device TLBs are never enabled.
  u64 capabilities = uapi::iommu_hw_info::kCapPciAtsNotSupported;
  {
    MutexGuard guard(lock_);
    const Device* const device = objects_.find_as<Device>(cmd.dev_id);
    if (!device) return fail(Errno::Enoent);
    const UnitInfo& unit = device->iommu_device().unit().info();
    info.cap_reg = unit.cap;
    info.ecap_reg = unit.ecap;
    if (unit.dirty_tracking.format != pt::FormatId::None) capabilities |= uapi::iommu_hw_info::kCapDirtyTracking;
  }
  const u32 wanted = (cmd.flags & uapi::iommu_hw_info::kFlagInputType) != 0 ? cmd.data_type : 0;
  if (wanted != uapi::iommu_hw_info::kTypeNone && wanted != uapi::iommu_hw_info::kTypeIntelVtd) {
    return fail(Errno::Eopnotsupp);
  }
  const UserAddr data(cmd.data_uptr);
  const u32 filled = std::min<u32>(cmd.data_len, sizeof(info));
  TRY(call.task.copy_out(data, std::as_bytes(std::span(&info, 1)).first(filled)));
  constexpr std::byte kZeroes[512] = {};
  for (u32 at = filled; at < cmd.data_len;) {
    const u32 bytes = std::min<u32>(sizeof(kZeroes), cmd.data_len - at);
    TRY(call.task.copy_out(data + at, std::span(kZeroes).first(bytes)));
    at += bytes;
  }
  cmd.data_len = sizeof(info);
  cmd.data_type = uapi::iommu_hw_info::kTypeIntelVtd;
  cmd.out_max_pasid_log2 = 0;
  cmd.out_capabilities = capabilities;
  return call.respond();
}

// A restored HWPT is there to be kept or replaced; what was written through it is in the tables of the one that follows
// it (iommu-liveupdate §5.3, §5.5).
Result<void> IommufdFile::hwpt_set_dirty_tracking(Call<uapi::IommuHwptSetDirtyTracking>& call) {
  // Its reserved member is not looked at (uapi §2.7).
  if ((call.cmd.flags & ~uapi::iommu_dirty::kEnable) != 0) return fail(Errno::Eopnotsupp);
  MutexGuard guard(lock_);
  HwptPaging* const hwpt = objects_.find_as<HwptPaging>(call.cmd.hwpt_id);
  if (!hwpt) return fail(Errno::Enoent);
  TRY(hwpt->immutability.may_change());
  if (hwpt->restored()) return fail(Errno::Einval);
  return hwpt->domain().set_dirty_tracking((call.cmd.flags & uapi::iommu_dirty::kEnable) != 0);
}

// The whole range and each page of the bitmap are multiples of the page that the program asks in.
Result<void> IommufdFile::hwpt_get_dirty_bitmap(Call<uapi::IommuHwptGetDirtyBitmap>& call) {
  const uapi::IommuHwptGetDirtyBitmap& cmd = call.cmd;
  if ((cmd.flags & ~uapi::iommu_dirty::kNoClear) != 0 || cmd.reserved != 0) return fail(Errno::Eopnotsupp);
  MutexGuard guard(lock_);
  HwptPaging* const hwpt = objects_.find_as<HwptPaging>(cmd.hwpt_id);
  if (!hwpt) return fail(Errno::Enoent);
  TRY(hwpt->immutability.may_change());
  if (cmd.length == 0) return fail(Errno::Einval);
  if (range_overflows(cmd.iova, cmd.length)) return fail(Errno::Eoverflow);
  const u64 end = cmd.iova + cmd.length;
  const u64 alignment = hwpt->ioas() ? hwpt->ioas()->iova_alignment() : kPageSize;
  if ((cmd.iova | end) % alignment != 0 || cmd.page_size == 0) return fail(Errno::Einval);
  if (cmd.iova % cmd.page_size != 0 || end % cmd.page_size != 0) return fail(Errno::Einval);
  if (hwpt->restored()) return fail(Errno::Einval);
  if (!hwpt->domain().can_track_dirty()) return fail(Errno::Eopnotsupp);
  return hwpt->ioas()->read_dirty(call.task, *hwpt,
                                  {.iova = Iova(cmd.iova),
                                   .length = cmd.length,
                                   .page_size = cmd.page_size,
                                   .bitmap = UserAddr(cmd.data),
                                   .clear = (cmd.flags & uapi::iommu_dirty::kNoClear) == 0});
}

// Only caches of nested tables are invalidated by programs, and there are none. The count of entries handled is
// written on every failure, too.
Result<void> IommufdFile::hwpt_invalidate(Call<uapi::IommuHwptInvalidate>& call) {
  uapi::IommuHwptInvalidate& cmd = call.cmd;
  const u32 entries = std::exchange(cmd.entry_num, 0);
  const auto judge = [&]() -> Errno {
    if (cmd.reserved != 0) return Errno::Eopnotsupp;
    if (entries != 0 &&
        (cmd.data_uptr == 0 || cmd.entry_len == 0 || cmd.entry_len > kPageSize || entries > (u32{1} << 19))) {
      return Errno::Einval;
    }
    MutexGuard guard(lock_);
    return objects_.find(cmd.hwpt_id) ? Errno::Einval : Errno::Enoent;
  };
  const Errno error = judge();
  TRY(call.respond());
  return fail(error);
}

// --- what no unit here does: answered after what Linux checks before it asks the driver -----------------------------

Result<void> IommufdFile::viommu_alloc(Call<uapi::IommuViommuAlloc>& call) {
  const uapi::IommuViommuAlloc& cmd = call.cmd;
  if (cmd.flags != 0 || cmd.type == 0) return fail(Errno::Eopnotsupp);
  MutexGuard guard(lock_);
  return fail(objects_.find_as<Device>(cmd.dev_id) ? Errno::Eopnotsupp : Errno::Enoent);
}

// No vIOMMU can be there to be named.
Result<void> IommufdFile::vdevice_alloc(Call<uapi::IommuVdeviceAlloc>&) {
  return fail(Errno::Enoent);
}

Result<void> IommufdFile::veventq_alloc(Call<uapi::IommuVeventqAlloc>& call) {
  const uapi::IommuVeventqAlloc& cmd = call.cmd;
  constexpr u32 kMostEvents = 1 << 19;
  if (cmd.flags != 0 || cmd.reserved != 0 || cmd.type == 0) return fail(Errno::Eopnotsupp);
  if (cmd.veventq_depth == 0 || cmd.veventq_depth > kMostEvents) return fail(Errno::Einval);
  return fail(Errno::Enoent);
}

Result<void> IommufdFile::hw_queue_alloc(Call<uapi::IommuHwQueueAlloc>& call) {
  const uapi::IommuHwQueueAlloc& cmd = call.cmd;
  if (cmd.flags != 0 || cmd.type == 0) return fail(Errno::Eopnotsupp);
  if (cmd.length == 0) return fail(Errno::Einval);
  if (range_overflows(cmd.nesting_parent_iova, cmd.length)) return fail(Errno::Eoverflow);
  return fail(Errno::Enoent);
}

}  // namespace perdure::iommufd
