// What can be told of contexts and their objects, for people and tools. Nothing here has an effect.
#pragma once
#include "core/base/types.h"
#include "core/pci/source_id.h"

namespace perdure::iommufd {

struct IoasStatus {
  u32 id = 0;
  u64 areas = 0;
  u64 bytes = 0;
};

struct HwptStatus {
  u32 id = 0;
  u32 ioas = 0;  // 0: restored, with no IOAS of its own
  bool automatic = false;
  bool marked = false;  // to be preserved, as `token`
  u64 token = 0;
  u32 devices = 0;  // attached to its domain
  u64 mapped_bytes = 0;
};

struct DeviceStatus {
  u32 id = 0;
  SourceId source;
  u32 hwpt = 0;  // 0: not attached
};

// Called under the context's lock: must not enter it. In the order of the ids.
class ContextVisitor {
 public:
  virtual void ioas(const IoasStatus& ioas) = 0;
  virtual void hwpt(const HwptStatus& hwpt) = 0;
  virtual void device(const DeviceStatus& device) = 0;

 protected:
  ~ContextVisitor() = default;
};

}  // namespace perdure::iommufd
