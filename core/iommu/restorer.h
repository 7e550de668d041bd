// One commit of a validated model: what hardware does is compared with what the records say, and only where both agree
// an object of this kernel takes the place of a former one. No entry is written; everything else is blocked.
#pragma once
#include "core/iommu/incoming_model.h"
#include "core/iommu/live_update.h"

namespace perdure {

class Restorer {
 public:
  Restorer(Iommu& iommu, Kho& kho, IncomingModel& model, IommuLiveUpdate::Report& report);
  // Holds what can be held. The caller then quarantines everything that is live and not attached.
  void run();
  // After that: ids that were reserved for devices that are not held.
  void free_unused_dids();

 private:
  void match_units();
  void match_devices();
  void match_device(u32 index);
  std::string_view compare_with_hardware(const IncomingDevice& entry, IommuDevice& device, bool& live) const;
  void reserve_dids();
  void refuse_shared_did(IncomingDevice& entry);
  void restore_domains();
  Result<void> restore_domain(u32 index);
  Result<Owned<pt::IoPageTable>> adopt_table(const abi::IommuDomainRecord& record);
  void restore_device(IncomingDevice& entry);
  void taint_domains_of_unknown_entries();
  bool tells_everything() const;
  void restore_orphans();

  void refuse(IncomingDevice& entry, std::string_view why);

  Iommu& iommu_;
  Kho& kho_;
  IncomingModel& model_;
  IommuLiveUpdate::Report& report_;
};

}  // namespace perdure
