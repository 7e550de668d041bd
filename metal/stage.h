// One kernel's part of a run: its program comes up, looks at its devices, and leaves for the next kernel; told on the
// serial line as it happens.
#pragma once
#include "core/kernel/kernel.h"
#include "metal/options.h"
#include "metal/program.h"
#include "sabotage/saboteur.h"
#include "scenarios/bus_masters.h"

namespace perdure::metal {

class Stage final : private scenarios::Witness, private Meddler {
 public:
  Stage(Kernel& kernel, MetalMachine& machine, const Options& options);
  // Ends with the run or in the jump.
  [[noreturn]] void run();

 private:
  void intend(const scenarios::Intended&) override {}
  void problem(std::string_view what, Errno why) override;
  void before_store(Phys at, Width width, u64 value) override { saboteur_.before_store(at, width, value); }
  void before_jump() override;

  void announce();
  void announce_quarantined();
  void announce_memory();
  // Of all devices or, when it is quiet, of those that are not well.
  void tell_evidence(bool all);
  bool look();
  void stretch();
  bool last() const { return hop_ == options_.hops; }
  [[noreturn]] void finish(bool ok);
  template <class T>
  T must(std::string_view what, Result<T> result);

  Kernel& kernel_;
  MetalMachine& machine_;
  const Options& options_;
  const u32 hop_;
  Program program_;
  scenarios::BusMasters masters_;
  sabotage::Saboteur saboteur_;
};

}  // namespace perdure::metal
