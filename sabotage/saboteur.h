// Breaks what the kernel does on its way to the hardware, so that a run can show that it notices (docs/metal.md,
// "Negative controls"). Knows registers and tables as hardware does, and nothing of the core's driver but the format of
// one record.
#pragma once
#include "core/base/machine.h"

namespace perdure::sabotage {

class Saboteur {
 public:
  // `breakage`: a name from the table in saboteur.cc; empty: nothing.
  Saboteur(Machine& machine, std::string_view breakage);
  static bool known(std::string_view breakage);

  void before_store(Phys at, Width width, u64 value);
  void before_jump();

 private:
  u64 read(u64 offset, Width width) const { return machine_.mmio_read(unit_ + offset, width); }
  void command(u32 bit, bool on);
  void rewrite(u64 (&descriptor)[2]) const;
  void open_gap();
  void poison_table();
  void damage_record();
  u64 first_table() const;

  Machine& machine_;
  const std::string_view breakage_;
  Phys unit_;
};

}  // namespace perdure::sabotage
