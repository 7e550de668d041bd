// The two-stage test of the series (iommu-liveupdate §7.5), with everything that must be refused on the way: stage one
// in the old kernel, then a kexec, then stage two in the new one. Phase 2 exists here, so that what its tests of phase
// 1 expect to fail becomes what the older ones expected: see each step.
#pragma once
#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "scenarios/context.h"

namespace perdure::scenarios {

class Selftest {
 public:
  explicit Selftest(Context context, std::string_view device = "/dev/vfio/devices/vfio0")
      : context_(context), device_path_(device) {}

  // Everything up to the jump, which the caller makes; the session is open then. `next`: a kernel that could be jumped
  // to, for the jump that must be refused. Eproto: something was not as it must be; the witness is told which step.
  Result<void> before(std::string_view next);
  Result<void> after();
  // For where the program does not die with its kernel: its descriptors did, there is nothing to close.
  void forget();

 private:
  static constexpr u64 kBytes = u64{1} << 20;
  static constexpr u64 kIova = u64{4} << 30;
  static constexpr u64 kMemfdToken = 1, kIommufdToken = 2, kDeviceToken = 3, kHwptToken = 4, kLooseToken = 5;

  // What must succeed, and what must be refused with this error.
  template <class T>
  Result<T> must(std::string_view step, Result<T> result) {
    if (result) return result;
    context_.witness.problem(step, result.error());
    return fail(Errno::Eproto);
  }
  template <class T>
  Result<void> must_not(std::string_view step, const Result<T>& result, Errno with) {
    if (!result && result.error() == with) return {};
    context_.witness.problem(step, result ? Errno{} : result.error());
    return fail(Errno::Eproto);
  }

  Result<void> set_up();
  Result<void> preserve_in_order();
  Result<void> refusals_while_preserved();
  Result<void> resized_memory_refuses_the_jump(std::string_view next);
  Result<void> check_memory();

  Context context_;
  std::string_view device_path_;
  client::Memfd memory_;
  client::Iommufd iommufd_;
  client::VfioDevice device_;
  client::Session session_;
  u32 device_id_ = 0;
  u32 ioas_ = 0;
  u32 hwpt_ = 0;
};

}  // namespace perdure::scenarios
