// Preservation of domains, devices and units: the shared state (FLB "perdure-iommu") of an update, and what a kernel
// that was booted by one makes of it. Formats: abi/iommu.h. Parse → validate → commit; the image is never written to,
// never trusted, and no reference in it is an address of a record: records refer to each other by index.
#pragma once
#include "core/iommu/iommu.h"
#include "core/luo/luo.h"

namespace perdure {

class IommuLiveUpdate final : public luo::Flb {
 public:
  explicit IommuLiveUpdate(Iommu& iommu, Kho& kho, u32 write_version);

  // --- old kernel; called by iommufd's and vfio's handlers, under the session lock ------------------------------
  // Makes the domain immutable and its tables survive. Returns its index in the records. Ebusy when preserved already,
  // Eopnotsupp for a format that cannot be preserved.
  Result<u32> preserve_domain(PagingDomain& domain);
  void unpreserve_domain(PagingDomain& domain);
  // The device must be owned by `owner` and attached to a preserved domain (Einval), not preserved yet (Ebusy).
  // `token`: under which the owner's iommufd is preserved in the session of `generation`.
  Result<u32> preserve_device(IommuDevice& device, const DmaOwner& owner, u64 generation, u64 token);
  void unpreserve_device(IommuDevice& device);
  // Every leaf of every preserved domain must lie in preserved memory (kho), and be where `expected` says. Between
  // preserve and freeze; Efault names the first that does not in the log.
  Result<void> audit();

  // --- new kernel, early boot ------------------------------------------------------------------------------
  // Reads and validates the records that `data` (LUO's value for this FLB) points at. Bad parts become devices to
  // quarantine. Eproto: nothing is usable (unknown version, unreadable).
  Result<void> load(u64 data);
  // The validated record of the unit with these registers, or null.
  const abi::IommuUnitRecord* unit_record(Phys base) const;
  // After all units and devices are there: reserves DIDs, restores domains, holds groups, and reconciles hardware's
  // entries with the records both ways.
  Result<void> commit();

  // --- new kernel, programs come back ---------------------------------------------------------------------------
  // The restored domain with this index, of the update of `generation`; Enoent. Each can be reclaimed once (Ebusy).
  Result<Ref<PagingDomain>> reclaim_domain(u32 index, u64 generation);
  void unreclaim_domain(PagingDomain& domain);

  // --- luo::Flb -------------------------------------------------------------------------------------------------
  std::string_view compatible() const override;
  Result<u64> preserve() override;
  void unpreserve(u64 data) override;
  Result<u64> freeze(u64 data) override;
  Result<void> retrieve(u64 data) override;
  void finish(u64 data) override;

 private:
  Iommu& iommu_;
  Kho& kho_;
  u32 write_version_;
};

}  // namespace perdure
