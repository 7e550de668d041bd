// What Kernel::describe_handover() tells.
#pragma once
#include "core/iommu/iommu.h"
#include "core/luo/status.h"

namespace perdure {

struct DomainDescription {
  u64 token = 0;  // of its HWPT
  pt::Geometry geometry;
  Phys top;
  u64 table_pages = 0;  // the top included
  u64 mapped_bytes = 0;
};

struct DeviceDescription {
  SourceId source;
  Phys unit;  // registers
  u32 did = 0;
  Phys top;  // of the table that it is attached to: a domain that was told before
};

// Sessions with their files come first, then units, then each domain followed by where it leads and by the blocks that
// its tables lie in, then devices. Calls are made under locks: must not enter the kernel.
class HandoverVisitor : public luo::SessionVisitor {
 public:
  virtual void unit(const UnitInfo& unit) = 0;
  virtual void domain(const DomainDescription& domain) = 0;
  virtual void run(Iova iova, Phys phys, u64 length, Access access) = 0;
  virtual void tables(Phys base, u64 length) = 0;
  virtual void device(const DeviceDescription& device) = 0;

 protected:
  ~HandoverVisitor() = default;
};

}  // namespace perdure
