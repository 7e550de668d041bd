// The old kernel's side of IommuLiveUpdate, and its life as shared state of LUO's files. restore.cc is the new
// kernel's side.
#include "core/iommu/live_update.h"

#include <cstring>

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/iommu/incoming_model.h"
#include "core/iommu/outgoing_records.h"
#include "core/iommu/record_reader.h"

namespace perdure {
namespace {

// Finds which preserved block an address lies in. Neighbouring leaves mostly lie in one, so the last is kept.
class PreservedBlocks {
 public:
  explicit PreservedBlocks(const Kho& kho) : kho_(kho) {}

  bool cover(Phys phys, u64 length) {
    for (u64 done = 0; done < length;) {
      const Phys at = phys + done;
      if (length_ == 0 || at < base_ || at - base_ >= length_) {
        if (!find(at)) return false;
      }
      const u64 left_in_block = length_ - (at - base_);
      done += left_in_block < length - done ? left_in_block : length - done;
    }
    return true;
  }

 private:
  bool find(Phys at) {
    const unsigned limit = kho_.max_order() < 52 - kPageShift ? kho_.max_order() : 52 - kPageShift;
    for (unsigned order = 0; order <= limit; ++order) {
      const u64 bytes = kPageSize << order;
      const Phys base(align_down(at.value, bytes));
      if (!kho_.is_preserved(base, order)) continue;
      base_ = base;
      length_ = bytes;
      return true;
    }
    return false;
  }
  const Kho& kho_;
  Phys base_;
  u64 length_ = 0;
};

}  // namespace

IommuLiveUpdate::IommuLiveUpdate(Iommu& iommu, Kho& kho, u32 write_version)
    : iommu_(iommu), kho_(kho), write_version_(write_version) {
  PERDURE_ASSERT(write_version >= abi::kIommuReadMin && write_version <= abi::kIommuReadMax);
  PERDURE_ASSERT(iommu_.live_update_ == nullptr);
  iommu_.live_update_ = this;
}

// The machine goes off: what is still preserved is given back, devices before domains.
IommuLiveUpdate::~IommuLiveUpdate() {
  iommu_.each_device([&](IommuDevice& device) { unpreserve_device(device); });
  while (Ref<PagingDomain> domain = any_preserved_domain()) unpreserve_domain(*domain);
  iommu_.live_update_ = nullptr;
}

Ref<PagingDomain> IommuLiveUpdate::any_preserved_domain() const {
  MutexGuard guard(lock_);
  if (!outgoing_) return nullptr;
  for (const OutgoingRecords::Domain& slot : outgoing_->domains) {
    if (slot.domain) return slot.domain;
  }
  return nullptr;
}

std::string_view IommuLiveUpdate::compatible() const {
  return abi::kIommuCompatible;
}

// --- shared state of the preserved files ------------------------------------------------------------------------

Result<u64> IommuLiveUpdate::preserve() {
  MutexGuard guard(lock_);
  if (outgoing_) return fail(Errno::Ebusy);
  Owned<OutgoingRecords> records = TRY(kho_.heap().make<OutgoingRecords>(kho_, write_version_));
  records->header = TRY(kho_.alloc_preserved(sizeof(abi::IommuHeader)));
  // Unique per update, since the machine's clock runs on across jumps and every update takes longer than its tick.
  const u64 now = iommu_.machine().now_ns();
  records->generation = now != 0 ? now : 1;
  outgoing_ = std::move(records);
  return outgoing_->header.value;
}

void IommuLiveUpdate::unpreserve(u64 data) {
  MutexGuard guard(lock_);
  if (!outgoing_ || outgoing_->header.value != data) return;
  // LUO undoes files before the state they share.
  PERDURE_ASSERT(outgoing_->domain_chain.in_use() == 0 && outgoing_->device_chain.in_use() == 0);
  outgoing_.reset();
}

Result<u64> IommuLiveUpdate::freeze(u64 data) {
  MutexGuard guard(lock_);
  if (!outgoing_ || outgoing_->header.value != data) return fail(Errno::Enoent);
  TRY(outgoing_->seal(iommu_.bus_master_));
  return data;
}

// --- preserve ---------------------------------------------------------------------------------------------------

Result<u32> IommuLiveUpdate::preserve_domain(PagingDomain& domain, u64 generation, LeafCheck* check) {
  MutexGuard guard(lock_);
  if (generation == 0) return fail(Errno::Einval);
  if (!outgoing_) return fail(Errno::Enoent);
  if (domain.geometry().format == pt::FormatId::None) return fail(Errno::Eopnotsupp);
  OutgoingRecords& out = *outgoing_;
  TRY(domain.begin_preserve());  // immutable before anything is looked at
  ScopeGuard mutable_again([&] { domain.end_preserve(); });
  const u32 index = TRY(OutgoingRecords::add(out.domain_chain, out.domains));
  ScopeGuard free_slot([&] { OutgoingRecords::remove(out.domain_chain, out.domains, index); });

  u64 done = 0;
  const Result<void> preserved = domain.table().each_block([&](Phys base, unsigned order) -> Result<void> {
    TRY(kho_.preserve(base, order));
    ++done;
    return {};
  });
  if (!preserved) {
    // In the same order, as far as it went.
    static_cast<void>(domain.table().each_block([&](Phys base, unsigned order) -> Result<void> {
      if (done == 0) return fail(Errno::Enoent);
      --done;
      kho_.unpreserve(base, order);
      return {};
    }));
    return fail(preserved.error());
  }
  free_slot.dismiss();
  mutable_again.dismiss();
  OutgoingRecords::Domain& slot = out.domains[index];
  slot.domain = Ref<PagingDomain>(&domain);
  slot.check = check;
  slot.owner_generation = generation;
  domain.record_index_ = index;
  return index;
}

void IommuLiveUpdate::unpreserve_domain(PagingDomain& domain) {
  Ref<PagingDomain> last;  // dropped without the lock
  MutexGuard guard(lock_);
  if (!outgoing_ || !domain.preserved()) return;
  OutgoingRecords& out = *outgoing_;
  const u32 index = domain.record_index_;
  PERDURE_ASSERT(out.domains[index].domain.get() == &domain && out.domains[index].devices == 0);
  static_cast<void>(domain.table().each_block([&](Phys base, unsigned order) -> Result<void> {
    kho_.unpreserve(base, order);
    return {};
  }));
  last = std::move(out.domains[index].domain);
  OutgoingRecords::remove(out.domain_chain, out.domains, index);
  domain.end_preserve();
}

Result<u32> IommuLiveUpdate::preserve_device(IommuDevice& device, const DmaOwner& owner, u64 generation, u64 token) {
  Group& group = device.group();
  MutexGuard guard(lock_);
  MutexGuard group_guard(group.lock_);
  if (group.ownership_ == Ownership::Quarantined) return fail(Errno::Eio);
  // Only what user space owns, and this owner (R11).
  if (group.ownership_ != Ownership::Owned || group.owner_.get() != &owner) return fail(Errno::Einval);
  return preserve_in_group_locked(device, group, generation, token);
}

Result<u32> IommuLiveUpdate::preserve_held_device(IommuDevice& device, u64 generation, u64 token, u64 new_generation,
                                                  u64 new_token) {
  Group& group = device.group();
  MutexGuard guard(lock_);
  MutexGuard group_guard(group.lock_);
  if (group.ownership_ == Ownership::Quarantined) return fail(Errno::Eio);
  if (group.ownership_ != Ownership::HeldForSession || !group.held_->is_for(generation, token)) {
    return fail(Errno::Eperm);
  }
  return preserve_in_group_locked(device, group, new_generation, new_token);
}

Result<u32> IommuLiveUpdate::preserve_in_group_locked(IommuDevice& device, Group& group, u64 generation, u64 token) {
  if (!outgoing_) return fail(Errno::Enoent);
  OutgoingRecords& out = *outgoing_;
  if (device.preserved()) return fail(Errno::Ebusy);
  std::string_view why;
  if (device.foreign_ids()) {
    why = "its DMA carries another function's requester id";  // R49
  } else if (group.device_total_ != 1) {
    why = "it shares its group with other functions";  // R14: add_device() lets nobody in from now on
  } else if (device.aliases().size() - 1 > abi::kIommuMaxAliases) {
    why = "its DMA carries more requester ids than a record holds";
  }
  if (!why.empty()) {
    log(iommu_.machine(), LogLevel::Warn,
        Line() << "iommu: " << Hex{device.source().bdf} << " cannot be preserved: " << why);
    return fail(Errno::Eopnotsupp);
  }
  group.settle_locked();
  if (!group.domain_ || !group.domain_->preserved()) return fail(Errno::Einval);
  const u32 domain = group.domain_->record_index_;
  if (generation == 0 || out.domains[domain].owner_generation != generation) return fail(Errno::Einval);
  // One iommufd for all devices of a domain; a reader insists on it.
  if (out.domains[domain].devices != 0 && out.domains[domain].owner_token != token) return fail(Errno::Einval);
  IommuUnit& unit = device.unit();
  if (!iommu_.usable(unit)) return fail(Errno::Eio);

  const u32 index = TRY(OutgoingRecords::add(out.device_chain, out.devices));
  ScopeGuard free_device([&] { OutgoingRecords::remove(out.device_chain, out.devices, index); });

  u32 unit_index = 0;
  while (unit_index < out.units.size() && out.units[unit_index].unit != &unit) ++unit_index;
  const bool first_of_unit = unit_index == out.units.size();
  if (first_of_unit) unit_index = TRY(OutgoingRecords::add(out.unit_chain, out.units));
  ScopeGuard free_unit([&] {
    if (first_of_unit) OutgoingRecords::remove(out.unit_chain, out.units, unit_index);
  });

  u32 attachment = 0;
  while (attachment < out.attachments.size() &&
         !(out.attachments[attachment].devices != 0 && out.attachments[attachment].domain == domain &&
           out.attachments[attachment].unit == unit_index)) {
    ++attachment;
  }
  const bool first_of_pair = attachment == out.attachments.size();
  if (first_of_pair) attachment = TRY(OutgoingRecords::add(out.attachment_chain, out.attachments));
  ScopeGuard free_attachment([&] {
    if (first_of_pair) OutgoingRecords::remove(out.attachment_chain, out.attachments, attachment);
  });

  if (first_of_unit) TRY(unit.preserve(kho_));
  free_attachment.dismiss();
  free_unit.dismiss();
  free_device.dismiss();
  out.units[unit_index].unit = &unit;
  ++out.units[unit_index].devices;
  out.attachments[attachment].domain = domain;
  out.attachments[attachment].unit = unit_index;
  ++out.attachments[attachment].devices;
  ++out.domains[domain].devices;
  out.domains[domain].owner_token = token;
  out.devices[index] = {&device, unit_index, domain, attachment, generation, token};
  device.record_index_ = index;
  device.preserved_.store(true, std::memory_order_release);
  group.immutability_.hold();
  return index;
}

void IommuLiveUpdate::unpreserve_device(IommuDevice& device) {
  Group& group = device.group();
  MutexGuard guard(lock_);
  MutexGuard group_guard(group.lock_);
  if (!outgoing_ || !device.preserved()) return;
  OutgoingRecords& out = *outgoing_;
  const OutgoingRecords::Device slot = out.devices[device.record_index_];
  PERDURE_ASSERT(slot.device == &device);
  OutgoingRecords::remove(out.device_chain, out.devices, device.record_index_);
  device.preserved_.store(false, std::memory_order_release);
  group.immutability_.release();
  --out.domains[slot.domain].devices;
  if (--out.attachments[slot.attachment].devices == 0) {
    OutgoingRecords::remove(out.attachment_chain, out.attachments, slot.attachment);
  }
  if (--out.units[slot.unit].devices == 0) {
    out.units[slot.unit].unit->unpreserve(kho_);
    OutgoingRecords::remove(out.unit_chain, out.units, slot.unit);
  }
}

// --- between preserve and the jump ----------------------------------------------------------------------------

Result<void> IommuLiveUpdate::audit() {
  MutexGuard guard(lock_);
  if (!outgoing_) return {};
  for (u32 i = 0; i < outgoing_->domains.size(); ++i) {
    if (outgoing_->domain_chain.used(i)) TRY(audit_domain_locked(i));
  }
  return {};
}

// The only walk over leaves of an update: tables cannot change any more, and nothing waits for it yet (design §5).
Result<void> IommuLiveUpdate::audit_domain_locked(u32 index) {
  const OutgoingRecords::Domain& slot = outgoing_->domains[index];
  PagingDomain& domain = *slot.domain;
  MutexGuard domain_guard(domain.lock_);
  PreservedBlocks blocks(kho_);
  u64 mapped = 0;
  const auto check = [&](const pt::Leaf& leaf) -> Result<void> {
    mapped += leaf.length;
    std::string_view why;
    if (!blocks.cover(leaf.phys, leaf.length)) why = "is not preserved";
    if (why.empty() && slot.check && !slot.check->expected(domain, leaf)) why = "is not what its owner mapped";
    if (why.empty()) return {};
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: domain record " << index << ": what IOVA " << leaf.iova << " leads to, " << leaf.phys << ", "
               << why);
    return fail(Errno::Efault);
  };
  const u64 span = u64{1} << domain.geometry().iova_bits;
  const bool leaf_by_leaf = slot.check && !slot.check->takes_runs();
  TRY(leaf_by_leaf ? domain.table_->each_leaf(Iova(0), span, check) : domain.table_->each_run(Iova(0), span, check));
  if (!domain.mapped_bytes_known_) {
    domain.mapped_bytes_ = mapped;
    domain.mapped_bytes_known_ = true;
  }
  if (mapped == domain.mapped_bytes_) return {};
  log(iommu_.machine(), LogLevel::Error,
      Line() << "iommu: domain record " << index << ": its table maps " << Hex{mapped} << " bytes, "
             << Hex{domain.mapped_bytes_} << " were mapped");
  return fail(Errno::Efault);
}

Result<void> IommuLiveUpdate::quiesce() {
  const Result<void> quiet = quiesce_units();
  // One that does not answer is no better for staying: what is behind it is stopped now (design §8).
  if (!quiet) iommu_.isolate_failed_units();
  return quiet;
}

Result<void> IommuLiveUpdate::quiesce_units() {
  MutexGuard guard(lock_);
  const auto keep = [&](SourceId source) {
    const Requester* requester = iommu_.find_requester(source);
    return requester && requester->group->immutability_.held();
  };
  // Preserved units first: they can fail, turning off cannot.
  Result<void> result;
  iommu_.each_unit([&](IommuUnit& unit) {
    if (!result || !unit.preserved()) return;
    result = unit.quiesce(keep);
    if (!result) {
      log(iommu_.machine(), LogLevel::Error,
          Line() << "iommu: unit at " << unit.info().base << " does not come to rest: " << result.error());
    }
  });
  if (!result) {
    iommu_.each_unit([](IommuUnit& unit) { unit.resume(); });
    return result;
  }
  if (outgoing_) outgoing_->seal_units();
  iommu_.each_unit([](IommuUnit& unit) {
    if (!unit.preserved()) unit.disable();
  });
  return {};
}

void IommuLiveUpdate::resume() {
  MutexGuard guard(lock_);
  iommu_.each_unit([](IommuUnit& unit) { unit.resume(); });
}

}  // namespace perdure
