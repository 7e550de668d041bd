// The words of the command line (docs/metal.md).
#pragma once
#include <string_view>

#include "core/vtd/table_mode_policy.h"

namespace perdure::metal {

struct Options {
  explicit Options(const char* command_line);
  bool wants(std::string_view device) const;

  u32 hops = 0;
  vtd::TableModePolicy tables = vtd::TableModePolicy::Auto;
  std::string_view devices;   // empty: all that are there
  std::string_view breakage;  // empty: nothing is broken
  u64 stretch_us = 0;
  bool pause_at_jump = false;
  bool quiet = false;
  bool interrupts = false;
  std::string_view unknown;  // a word that is none of these
};

}  // namespace perdure::metal
