// Preservation of domains, devices and units: the shared state (FLB "perdure-iommu") of an update, and what a kernel
// that was booted by one makes of it. Formats: abi/iommu.h. Parse → validate → commit; the image is never written to,
// never trusted, and no reference in it is an address of a record: records refer to each other by index.
#pragma once
#include "core/iommu/iommu.h"
#include "core/iommu/leaf_check.h"
#include "core/luo/file_handler.h"

namespace perdure {

class IncomingModel;
class OutgoingRecords;

class IommuLiveUpdate final : public luo::Flb {
 public:
  // What commit() made of the records, in records and entries.
  struct Report {
    u32 units = 0;        // taken over
    u32 domains = 0;      // restored
    u32 devices = 0;      // held for their session
    u32 quarantined = 0;  // functions
    u32 not_held = 0;     // records whose function has no live entry or is not there
  };

  // `write_version`: kIommuReadMin..kIommuReadMax. At most one per Iommu, and gone before it.
  explicit IommuLiveUpdate(Iommu& iommu, Kho& kho, u32 write_version);
  ~IommuLiveUpdate();

  // --- old kernel; called by iommufd's and vfio's handlers, under the session lock ------------------------------
  // Makes the domain immutable and its tables survive. Returns its index in the records. `generation`: of the session
  // of its iommufd. `check`, if given, must live until unpreserve_domain(). Ebusy when preserved already, Eopnotsupp
  // for a format that cannot be preserved, Enoent before preserve() of this FLB, Enomem.
  Result<u32> preserve_domain(PagingDomain& domain, u64 generation, LeafCheck* check = nullptr);
  // After the devices that use it.
  void unpreserve_domain(PagingDomain& domain);
  // The device must be owned by `owner` and attached to a domain preserved in the same session (Einval), alone in its
  // group (Eopnotsupp), not preserved yet (Ebusy). `token`: under which the owner's iommufd is preserved in the session
  // of `generation`. Eio: quarantined, Enomem.
  Result<u32> preserve_device(IommuDevice& device, const DmaOwner& owner, u64 generation, u64 token);
  void unpreserve_device(IommuDevice& device);
  // Every leaf of every preserved domain must lie in preserved memory (kho), and be where its LeafCheck expects it.
  // Between preserve and freeze; Efault names the first that does not in the log.
  Result<void> audit();
  // The last thing before the jump, after freeze(): units with preserved devices keep translating, with every other
  // entry cleared, the others turn it off. Undone whole on failure, and by resume() when the jump fails; but a unit
  // that does not answer any more is quarantined at once.
  Result<void> quiesce();
  void resume();

  // --- handing on what was never retrieved (design §7, who dies when) ------------------------------------------
  // The restored domain with this index, of the session of `generation`, without reclaiming it. Enoent, Eio.
  Result<Ref<PagingDomain>> held_domain(u32 index, u64 generation);
  // As preserve_device(), for a device still held for (generation, token); the new record says so again, with the
  // generation and token of the session that carries it on. Eperm: not held for them.
  Result<u32> preserve_held_device(IommuDevice& device, u64 generation, u64 token, u64 new_generation, u64 new_token);

  // --- new kernel, early boot ------------------------------------------------------------------------------
  // Reads and validates the records that `data` (LUO's value for this FLB) points at. Bad parts become devices to
  // quarantine. Eproto: nothing is usable (unknown version, unreadable). Before the units are taken over.
  Result<void> load(u64 data);
  // The validated record of the unit with these registers, or null. Good until finish().
  const abi::IommuUnitRecord* unit_record(Phys base) const;
  // Whether a valid record names the function: it went on working, and until commit() compares them its entry is
  // rightful. Nobody may write to it meanwhile.
  bool records(SourceId source) const;
  // Every function with such a record.
  void each_recorded(FunctionRef<void(SourceId)> visit) const;
  // Whether a valid record has it as a further requester id of another function.
  bool records_alias(SourceId source) const;
  // Requester ids of each function behind the unit that a valid record says was preserved, its own first.
  void each_recorded_behind(Phys unit, FunctionRef<void(std::span<const SourceId> requesters)> visit) const;
  // After all units and devices are there, and before anybody may claim a group: reserves DIDs, restores domains, holds
  // groups, and reconciles hardware's entries with the records both ways. Also to be called when there are no records
  // or load() failed: every entry that nobody attached is quarantined then. What fails is quarantined, so this
  // does not fail.
  void commit();
  const Report& report() const { return report_; }

  // --- new kernel, programs come back ---------------------------------------------------------------------------
  // The restored domain with this index, of the session of `generation`; Enoent. Each can be reclaimed once (Ebusy).
  // Eio: it, or every function on it, was quarantined.
  Result<Ref<PagingDomain>> reclaim_domain(u32 index, u64 generation);
  void unreclaim_domain(PagingDomain& domain);
  // Nobody can come for these any more: every group that is still held for (generation, token) is quarantined. Returns
  // how many.
  u32 quarantine_held(u64 generation, u64 token, std::string_view why);

  // --- luo::Flb -------------------------------------------------------------------------------------------------
  std::string_view compatible() const override;
  Result<u64> preserve() override;
  void unpreserve(u64 data) override;
  Result<u64> freeze(u64 data) override;
  Result<void> retrieve(u64 data) override;
  // Gives the record memory back; nothing refers to it afterwards.
  void finish(u64 data) override;

 private:
  friend class Iommu;
  friend class Restorer;

  Result<void> quiesce_units();
  Result<u32> preserve_in_group_locked(IommuDevice& device, Group& group, u64 generation, u64 token)
      REQUIRES(lock_, group.lock_);
  Ref<PagingDomain> any_preserved_domain() const;
  Result<void> audit_domain_locked(u32 index) REQUIRES(lock_);
  Result<Ref<PagingDomain>> restored_domain_locked(u32 index, u64 generation) REQUIRES(lock_);
  // A function without a valid record walks this table, or did: nobody is given it.
  void note_unknown_entry(const EntryState& state);

  Iommu& iommu_;
  Kho& kho_;
  const u32 write_version_;
  mutable Mutex lock_{LockRank::IommuLiveUpdate};
  Owned<OutgoingRecords> outgoing_ GUARDED_BY(lock_);
  Owned<IncomingModel> incoming_ GUARDED_BY(lock_);
  Report report_;
};

}  // namespace perdure
