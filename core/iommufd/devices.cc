// Devices of a context: binding, attaching, replacing (uapi §2.6, §2.8). Devices of one group are attached to one HWPT:
// the first attaches the group, the last detaches it, and each that replaces moves all.
#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/iommufd/iommufd.h"

namespace perdure::iommufd {

// --- binding --------------------------------------------------------------------------------------------------

Result<Ref<Device>> IommufdFile::bind(IommuDevice& device) {
  Ref<Device> bound = TRY(heap_.make_ref<Device>(device));
  MutexGuard guard(lock_);
  const u32 id = TRY(objects_.reserve());
  const Result<void> claimed = bound->group().claim(owner_);
  if (!claimed) {
    objects_.release(id);
    return fail(claimed.error());
  }
  objects_.finalize(id, bound);
  return bound;
}

Result<Ref<Device>> IommufdFile::bind_held(IommuDevice& device, u64 generation, u64 token) {
  Ref<Device> bound = TRY(heap_.make_ref<Device>(device));
  MutexGuard guard(lock_);
  // Numbers alone do not make an heir: it is the context that LUO retrieved for that token of that session.
  if (!incoming_ || incoming_->generation != generation || incoming_->token != token) return fail(Errno::Eperm);
  const u32 id = TRY(objects_.reserve());
  ScopeGuard release([&] {
    lock_.assert_held();
    objects_.release(id);
  });
  TRY(bound->group().claim_held(owner_, generation, token));
  ScopeGuard back([&] { bound->group().unclaim_held(*owner_); });
  // What it is attached to was reclaimed already, or grafted onto a new table together with another device.
  for (Object* object = objects_.next(0); object; object = objects_.next(object->id())) {
    if (HwptPaging* hwpt = object_cast<HwptPaging>(object)) TRY(link_attached_locked(*bound, *hwpt));
  }
  back.dismiss();
  release.dismiss();
  objects_.finalize(id, bound);
  return bound;
}

Result<void> IommufdFile::link_attached_locked(Device& device, HwptPaging& hwpt) {
  if (device.hwpt || device.group().domain() != hwpt.domain_ref()) return {};
  if (Ioas* ioas = hwpt.ioas()) TRY(reserve_for(*ioas, device));
  set_hwpt_locked(device, hwpt);
  return {};
}

void IommufdFile::unbind_to_held(Device& device) {
  Ref<Object> drop[2];
  MutexGuard guard(lock_);
  if (Ref<HwptPaging> hwpt = std::move(device.hwpt)) {
    if (Ioas* ioas = hwpt->ioas()) ioas->unreserve(&device);
    drop[0] = drop_use_locked(*hwpt);
  }
  device.group().unclaim_held(*owner_);
  drop[1] = objects_.remove(device.id());
}

void IommufdFile::unbind(Device& device) {
  Ref<Object> drop[2];
  MutexGuard guard(lock_);
  if (!detach_locked(device, drop[0])) log_line(LogLevel::Error, "unbinding a device that could not be detached");
  device.group().release(*owner_);
  drop[1] = objects_.remove(device.id());
}

// --- attaching --------------------------------------------------------------------------------------------------

// Whether what it is attached to may become another, or nothing. The IOMMU core asks the device's group; here, so that
// nothing is prepared for it, its HWPT is asked (R46), which is preserved before its devices and for longer.
Result<void> IommufdFile::check_attach_locked(const Device& device) const {
  if (device.hwpt) TRY(device.hwpt->immutability.may_change());
  // A former kernel's translation that no HWPT stands for yet: it is to be reclaimed first.
  if (!device.hwpt && !attached_sibling_locked(device) && device.group().domain()) return fail(Errno::Ebusy);
  return {};
}

void IommufdFile::set_hwpt_locked(Device& device, HwptPaging& hwpt) {
  device.hwpt = Ref<HwptPaging>(&hwpt);
  ++hwpt.users;
}

Result<void> IommufdFile::reserve_for(Ioas& ioas, Device& device) const {
  Vec<FirmwareRegion> regions(heap_);
  TRY(device.group().regions(regions));
  ScopeGuard undo([&] { ioas.unreserve(&device); });
  TRY(ioas.reserve(&device, kMsiWindow));
  for (const FirmwareRegion& region : regions) {
    TRY(ioas.reserve(&device, {region.base.value, region.base.value + (region.length - 1)}));
  }
  undo.dismiss();
  return {};
}

Device* IommufdFile::attached_sibling_locked(const Device& device) const {
  for (Object* o = objects_.next(0); o; o = objects_.next(o->id())) {
    Device* const other = object_cast<Device>(o);
    if (other && other != &device && other->hwpt && &other->group() == &device.group()) return other;
  }
  return nullptr;
}

Result<void> IommufdFile::first_attach_locked(Device& device, HwptPaging& hwpt) {
  const Device* const sibling = attached_sibling_locked(device);
  if (sibling && sibling->hwpt.get() != &hwpt) return fail(Errno::Einval);
  TRY(reserve_for(*hwpt.ioas(), device));
  const Result<void> attached = sibling ? Result<void>() : device.group().attach(*owner_, hwpt.domain_ref());
  if (!attached) {
    hwpt.ioas()->unreserve(&device);
    return attached;
  }
  set_hwpt_locked(device, hwpt);
  return {};
}

// `hwpt` takes over. When the old one is restored, every device that runs on it moves at once (design §7, graft), so
// every one of them is prepared for.
Result<void> IommufdFile::replace_locked(Device& device, HwptPaging& hwpt, Ref<Object>& drop) {
  const Ref<HwptPaging> old = device.hwpt;
  Ioas* const to = hwpt.ioas();
  const auto moves = [&](Object* object) -> Device* {
    Device* const candidate = object_cast<Device>(object);
    if (!candidate || candidate->hwpt != old) return nullptr;
    return &candidate->group() == &device.group() || old->restored() ? candidate : nullptr;
  };
  const bool new_space = to != old->ioas();
  ScopeGuard unprepare([&] {
    lock_.assert_held();
    for (Object* o = objects_.next(0); o && new_space; o = objects_.next(o->id())) {
      if (Device* d = moves(o)) to->unreserve(d);
    }
  });
  for (Object* o = objects_.next(0); o && new_space; o = objects_.next(o->id())) {
    if (Device* d = moves(o)) TRY(reserve_for(*to, *d));
  }
  const auto replace = [&]() -> Result<void> { return device.group().replace(*owner_, hwpt.domain_ref()); };
  if (old->restored()) {
    TRY(to->with_equal_areas(old->recorded_areas(), replace));
  } else {
    TRY(replace());
  }
  unprepare.dismiss();

  for (Object* o = objects_.next(0); o; o = objects_.next(o->id())) {
    Device* const d = moves(o);
    if (!d) continue;
    if (d != &device && d->group().domain() != hwpt.domain_ref()) {
      if (new_space) to->unreserve(d);
      continue;
    }
    if (Ioas* from = old->ioas(); from && new_space) from->unreserve(d);
    d->hwpt = nullptr;
    set_hwpt_locked(*d, hwpt);
    if (Ref<Object> gone = drop_use_locked(*old)) drop = std::move(gone);
  }
  return {};
}

Result<void> IommufdFile::switch_to_locked(Device& device, HwptPaging& hwpt, Ref<Object>& drop) {
  if (device.hwpt.get() == &hwpt) return {};
  TRY(hwpt.immutability.may_change());
  // A restored HWPT is there to be kept or replaced by the devices that run on it already.
  if (hwpt.restored() || !module_.iommu.compatible(hwpt.domain(), device.iommu_device())) return fail(Errno::Einval);
  return device.hwpt ? replace_locked(device, hwpt, drop) : first_attach_locked(device, hwpt);
}

// The automatic HWPTs of the IOAS in the order of their creation; Einval means that one does not fit, and the next is
// tried. Else a new one.
Result<void> IommufdFile::attach_automatic_locked(Task& task, Device& device, Ioas& ioas, Ref<Object>& drop) {
  for (HwptPaging& hwpt : automatic_) {
    if (hwpt.ioas() != &ioas) continue;
    const Result<void> attached = switch_to_locked(device, hwpt, drop);
    if (attached || attached.error() != Errno::Einval) return attached;
  }
  Ref<HwptPaging> hwpt = TRY(make_hwpt_locked(Ref<Ioas>(&ioas), device.iommu_device(), true));
  const u32 id = TRY(objects_.reserve());
  ScopeGuard release([&] {
    lock_.assert_held();
    objects_.release(id);
  });
  if (!device.hwpt) {
    // Attached first, then filled: what reserves addresses is known before areas are looked at.
    TRY(first_attach_locked(device, *hwpt));
    const Result<void> filled = ioas.add_domain(task, *hwpt);
    if (!filled) {
      if (!device.group().detach(*owner_)) hwpt->lost = true;
      ioas.unreserve(&device);
      device.hwpt = nullptr;
      --hwpt->users;
      return filled;
    }
  } else {
    TRY(ioas.add_domain(task, *hwpt));
    const Result<void> replaced = replace_locked(device, *hwpt, drop);
    if (!replaced) {
      ioas.remove_domain(*hwpt);
      return replaced;
    }
  }
  ++ioas.users;
  automatic_.push_back(*hwpt);
  release.dismiss();
  objects_.finalize(id, std::move(hwpt));
  return {};
}

Result<u32> IommufdFile::attach(Task& task, Device& device, u32 pt_id) {
  Ref<Object> drop;
  MutexGuard guard(lock_);
  TRY(check_attach_locked(device));
  Object* const pt = objects_.find(pt_id);
  if (!pt) return fail(Errno::Enoent);
  if (HwptPaging* hwpt = object_cast<HwptPaging>(pt)) {
    TRY(switch_to_locked(device, *hwpt, drop));
  } else if (Ioas* ioas = object_cast<Ioas>(pt)) {
    TRY(attach_automatic_locked(task, device, *ioas, drop));
  } else {
    return fail(Errno::Einval);
  }
  return device.hwpt->id();
}

Result<void> IommufdFile::detach_locked(Device& device, Ref<Object>& drop) {
  if (!device.hwpt) return {};
  const Ref<HwptPaging> hwpt = device.hwpt;
  const bool shared = attached_sibling_locked(device) != nullptr;
  const Result<void> detached = shared ? Result<void>() : device.group().detach(*owner_);
  if (!detached && detached.error() == Errno::Ebusy) return detached;
  // Blocked now in any case. A unit that did not confirm may still walk the tables: nothing that they reach is freed.
  if (!detached) hwpt->lost = true;
  if (Ioas* ioas = hwpt->ioas()) ioas->unreserve(&device);
  device.hwpt = nullptr;
  drop = drop_use_locked(*hwpt);
  return {};
}

Result<void> IommufdFile::detach(Device& device) {
  Ref<Object> drop;
  Ref<HwptPaging> last_use;  // not to be the one that ends it under the lock
  MutexGuard guard(lock_);
  last_use = device.hwpt;
  TRY(check_attach_locked(device));
  return detach_locked(device, drop);
}

}  // namespace perdure::iommufd
