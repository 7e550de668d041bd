// A machine with the streams scenario on it, whichever way it runs: what the demo and the end-to-end tests drive.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/vtd/table_mode_policy.h"
#include "machine/board/board.h"
#include "scenarios/streams.h"
#include "tool/report.h"

namespace perdure::tool {

// What one of the two kernels makes of IOMMU units.
struct TablePolicy {
  vtd::TableModePolicy mode = vtd::TableModePolicy::Auto;
  vtd::StagePolicy stage = vtd::StagePolicy::SecondStage;
};

struct RigConfig {
  board::BoardConfig board;
  scenarios::StreamsPlan plan;
  // Of kernels that run in this process; others are built with theirs.
  TablePolicy tables_a;
  TablePolicy tables_b;
  // Where the plan's devices are, one by one. Empty: the board's devices, in their order.
  std::vector<board::Bdf> streamed;
  bool verbose = false;
  u64 unit_timeout_ns = 0;  // in process: see Config; 0: the kernel's own
  // Programs run the selftest instead of the streams: stage one at hop 0, else stage two. Hosted only.
  bool selftest = false;
  // Programs talk to the kernel's socket, with a library that knows of it, instead of being ordinary ones under
  // `perdure run`. Hosted only.
  bool wire = false;

  board::Bdf device(u32 number) const { return streamed.empty() ? board.devices[number].bdf : streamed[number]; }
};

class Rig {
 public:
  virtual ~Rig() = default;

  virtual board::Board& board() = 0;
  // Starts the first kernel.
  virtual Result<void> power_on(std::string_view kernel) = 0;
  // A new program in the present kernel: Streams::begin(hop).
  virtual Result<void> start_program(u32 hop) = 0;
  // The program ends in an orderly way: everything it has is closed.
  virtual void end_program() = 0;
  virtual Result<void> verify() = 0;
  virtual Result<void> preserve() = 0;
  // Loads the kernel and jumps; the program dies. On success the new kernel serves.
  virtual Result<void> kexec(std::string_view kernel) = 0;
  // At the next jump one page of a table is treated as if it had not been preserved.
  virtual void forget_table_page(board::Bdf device) = 0;
  virtual board::PoisonStats poison() = 0;
  virtual std::vector<TimedPhase> timeline() = 0;
  virtual std::string release() = 0;
  // Lets devices run for this much of the board's time.
  virtual void run_for(u64 ns) = 0;

  // What programs, kernels and the rig said went wrong since the last call.
  std::vector<std::string> take_problems() { return std::exchange(problems_, {}); }
  void add_problem(std::string what) { problems_.push_back(std::move(what)); }

 protected:
  // Passes a program's intent on to the ledger.
  void declare(const RigConfig& config, const scenarios::Intended& intended);

 private:
  std::vector<std::string> problems_;
};

// How the machine's units translate, with kernels that take what they find. FirstStage: nothing else.
enum class Tables : u8 { Legacy, SecondStage, FirstStage };
void set_tables(RigConfig& config, Tables tables);

// Four streamers behind one unit, three domains, `memory` bytes of guest memory in all (sparse).
RigConfig demo_machine(u64 memory, u64 seed);
std::unique_ptr<Rig> in_process_rig(const RigConfig& config);
// `socket`: where programs find the kernel. Throws std::runtime_error as Board does.
std::unique_ptr<Rig> hosted_rig(const RigConfig& config);

}  // namespace perdure::tool
