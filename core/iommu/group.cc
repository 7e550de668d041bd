#include "core/iommu/group.h"

#include "core/base/log.h"
#include "core/iommu/iommu.h"

namespace perdure {

Group::Group(Iommu& iommu, IommuUnit& unit, u32 id, SourceId leader)
    : iommu_(iommu), unit_(unit), id_(id), leader_(leader) {}

Ownership Group::ownership() const {
  MutexGuard guard(lock_);
  return ownership_;
}

Ref<PagingDomain> Group::domain() const {
  MutexGuard guard(lock_);
  settle_locked();
  return domain_;
}

Result<void> Group::regions(Vec<FirmwareRegion>& all) const {
  MutexGuard guard(lock_);
  for (const IommuDevice& device : devices_) {
    for (const FirmwareRegion& region : device.regions()) TRY(all.push_back(region));
  }
  return {};
}

Result<void> Group::claim(Ref<DmaOwner> owner) {
  MutexGuard guard(lock_);
  switch (ownership_) {
    case Ownership::Quarantined: return fail(Errno::Eio);
    case Ownership::HeldForSession: return fail(Errno::Eperm);
    case Ownership::Owned:
      if (owner_ != owner) return fail(Errno::Eperm);
      ++owner_count_;
      return {};
    case Ownership::Unowned: break;
  }
  if (!iommu_.usable(unit_)) return fail(Errno::Eio);
  // Unowned means blocked already; a live entry here belongs to something that is not an owner.
  if (domain_ || awaiting_restore_ || entry_present_locked()) return fail(Errno::Ebusy);
  ownership_ = Ownership::Owned;
  owner_ = std::move(owner);
  owner_count_ = 1;
  return {};
}

Result<void> Group::claim_held(Ref<DmaOwner> owner, u64 generation, u64 token) {
  MutexGuard guard(lock_);
  if (ownership_ == Ownership::Quarantined) return fail(Errno::Eio);
  if (ownership_ != Ownership::HeldForSession || !held_->is_for(generation, token)) return fail(Errno::Eperm);
  TRY(immutability_.may_change());  // on its way to the next kernel already
  ownership_ = Ownership::Owned;
  owner_ = std::move(owner);
  owner_count_ = 1;  // handed over, not added to (R09)
  return {};
}

void Group::unclaim_held(DmaOwner& owner) {
  MutexGuard guard(lock_);
  if (ownership_ != Ownership::Owned || owner_.get() != &owner || !held_) return;
  ownership_ = Ownership::HeldForSession;
  owner_ = Ref<DmaOwner>(held_);
  owner_count_ = 1;
}

void Group::release(DmaOwner& owner) {
  Ref<DmaOwner> last;  // dropped without the lock
  {
    MutexGuard guard(lock_);
    if (owner_.get() != &owner || owner_count_ == 0) return;
    if (!immutability_.may_change()) {
      log(iommu_.machine(), LogLevel::Error,
          Line() << "iommu: group " << id_ << " is preserved and cannot be released: unpreserve it first");
      return;
    }
    if (--owner_count_ > 0) return;
    settle_locked();
    if (domain_) static_cast<void>(detach_locked());
    last = std::move(owner_);
    held_ = nullptr;
    if (ownership_ == Ownership::Owned) ownership_ = Ownership::Unowned;
  }
  iommu_.isolate_failed_units();
}

Result<void> Group::check_owner_locked(const DmaOwner& owner) const {
  if (ownership_ == Ownership::Quarantined) return fail(Errno::Eio);
  if (ownership_ != Ownership::Owned || owner_.get() != &owner) return fail(Errno::Eperm);
  return immutability_.may_change();
}

Result<void> Group::attach(DmaOwner& owner, Ref<PagingDomain> domain) {
  Result<void> result;
  {
    MutexGuard guard(lock_);
    TRY(check_owner_locked(owner));
    settle_locked();
    if (domain_) return fail(Errno::Ebusy);
    result = attach_locked(std::move(domain));
  }
  if (!result) iommu_.isolate_failed_units();
  return result;
}

Result<void> Group::replace(DmaOwner& owner, Ref<PagingDomain> domain) {
  Result<void> result;
  Ref<PagingDomain> former;  // its last reference may go here, and is dropped without the lock
  {
    MutexGuard guard(lock_);
    TRY(check_owner_locked(owner));
    settle_locked();
    if (domain_ == domain) return {};
    former = domain_;
    result = domain_ ? replace_locked(std::move(domain)) : attach_locked(std::move(domain));
  }
  if (!result) iommu_.isolate_failed_units();
  if (former && former->successor()) {
    // The others that shared it follow, so that nothing but an HWPT keeps the old tables.
    for (Group* g = iommu_.next_group(nullptr); g; g = iommu_.next_group(g)) static_cast<void>(g->domain());
  }
  return result;
}

Result<void> Group::detach(DmaOwner& owner) {
  Result<void> result;
  {
    MutexGuard guard(lock_);
    TRY(check_owner_locked(owner));
    settle_locked();
    if (!domain_) return fail(Errno::Enoent);
    result = detach_locked();
  }
  if (!result) iommu_.isolate_failed_units();
  return result;
}

Result<void> Group::attach_locked(Ref<PagingDomain> domain) {
  if (!iommu_.usable(unit_)) return fail(Errno::Eio);
  // Bypassed only for restored domains, which never come here (R27).
  if (!domain->restored() && !domain->suits(unit_)) return fail(Errno::Einval);
  const u32 devices = device_total_;
  const u32 did = TRY(domain->begin_attach(unit_, devices));
  bool flushed = true;
  if (Result<void> set = set_entries_locked(did, *domain, flushed); !set) {
    domain->end_attach(unit_, devices, flushed);
    return set;
  }
  domain_ = std::move(domain);
  return {};
}

Result<void> Group::replace_locked(Ref<PagingDomain> domain) {
  if (domain_->restored()) {
    if (domain->restored()) return fail(Errno::Eopnotsupp);
    const Result<void> taken = domain->take_over(*domain_);
    settle_locked();
    return taken;
  }
  if (!iommu_.usable(unit_)) return fail(Errno::Eio);
  if (!domain->restored() && !domain->suits(unit_)) return fail(Errno::Einval);
  const u32 devices = device_total_;
  const u32 former_did = domain_->did_on(unit_);
  const u32 did = TRY(domain->begin_attach(unit_, devices));
  // From here on DMA of the group is blocked until its new entries are set.
  Result<void> done = clear_entries_locked();
  bool flushed = done.has_value();
  if (done) {
    done = set_entries_locked(did, *domain, flushed);
    if (done) {
      domain_->end_attach(unit_, devices, true);
      domain_ = std::move(domain);
      return {};
    }
  }
  domain->end_attach(unit_, devices, flushed);
  // Back to the former domain; on a unit that failed there is no way back, it is about to be isolated.
  if (flushed && set_entries_locked(former_did, *domain_, flushed)) return done;
  log(iommu_.machine(), LogLevel::Error,
      Line() << "iommu: group " << id_ << ": replace failed and the former domain could not be set again: its DMA is "
             << "blocked");
  domain_->end_attach(unit_, devices, flushed);
  domain_ = nullptr;
  return done;
}

Result<void> Group::detach_locked() {
  const Result<void> cleared = clear_entries_locked();
  domain_->end_attach(unit_, device_total_, cleared.has_value());
  domain_ = nullptr;
  return cleared;
}

Result<void> Group::hold_locked(Ref<HeldOwner> owner, Ref<PagingDomain> domain) {
  lock_.assert_held();  // R05
  if (owner_ || ownership_ != Ownership::Unowned || domain_) {
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: group " << id_ << " has an owner already; it cannot be held for its session");
    return fail(Errno::Eexist);
  }
  if (device_total_ != 1) return fail(Errno::Eopnotsupp);
  ownership_ = Ownership::HeldForSession;
  owner_ = Ref<DmaOwner>(owner);
  owner_count_ = 1;
  held_ = std::move(owner);
  domain_ = std::move(domain);
  awaiting_restore_ = false;
  for (Requester& requester : requesters_) requester.attached.store(true);
  return {};
}

void Group::settle_locked() const {
  while (domain_) {
    Ref<PagingDomain> next = domain_->successor();
    if (!next) return;
    domain_ = std::move(next);
  }
}

Result<void> Group::set_entries_locked(u32 did, const PagingDomain& domain, bool& flushed) {
  for (Requester& requester : requesters_) {
    requester.attached.store(true);
    const Result<void> set = unit_.set_entry(requester.source, did, domain.table());
    if (set) continue;
    requester.attached.store(false);
    if (set.error() == Errno::Eio) iommu_.note_failure(unit_);
    flushed = set.error() != Errno::Eio;
    for (Requester& done : requesters_) {
      if (&done == &requester) break;
      done.attached.store(false);
      if (unit_.clear_entry(done.source)) continue;
      iommu_.note_failure(unit_);
      flushed = false;
    }
    return set;
  }
  return {};
}

Result<void> Group::clear_entries_locked() {
  Result<void> result;
  for (Requester& requester : requesters_) {
    // Also when none is present: the unit may owe a flush for it.
    const Result<void> cleared = unit_.clear_entry(requester.source);
    requester.attached.store(false);
    if (cleared) continue;
    iommu_.note_failure(unit_);
    result = fail(Errno::Eio);
  }
  return result;
}

bool Group::entry_present_locked() const {
  for (const Requester& requester : requesters_) {
    if (unit_.read_entry(requester.source).present) return true;
  }
  return false;
}

}  // namespace perdure
