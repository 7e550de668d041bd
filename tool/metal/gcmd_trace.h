// QEMU's own trace of what was written to the global command register of its VT-d: the witness that translation was
// never off, whatever the guest says.
#pragma once
#include <string>
#include <string_view>

#include "core/base/types.h"
#include "tool/report.h"

namespace perdure::tool::metal {

// The event to be traced, and the only one.
inline constexpr std::string_view kGcmdEvent = "vtd_reg_write_gcmd";

class GcmdTrace {
 public:
  // A trace log, whole or in pieces of whole lines.
  void take(std::string_view log);

  u64 writes() const { return writes_; }
  u64 root_tables() const { return root_tables_; }        // times the root pointer was set while translation was on
  u64 queue_restarts() const { return queue_restarts_; }  // times the queue was turned on while translation was on
  bool enabled() const { return enabled_; }

  RunCheck never_dropped() const;
  // After each jump queue and root table are made anew.
  RunCheck remade(unsigned jumps) const;

 private:
  void line(std::string_view text);

  u64 lines_ = 0;
  u64 writes_ = 0;
  u64 root_tables_ = 0;
  u64 queue_restarts_ = 0;
  bool enabled_ = false;
  bool queue_on_ = false;
  std::string dropped_;  // the first time
  u64 drops_ = 0;
  std::string unreadable_;  // the first line that is none of QEMU's
};

}  // namespace perdure::tool::metal
