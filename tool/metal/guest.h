// One run of QEMU with the guest in it, from power on to its end, whatever that is.
#pragma once
#include <signal.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "machine/host/descriptor.h"
#include "tool/metal/monitor.h"
#include "tool/metal/process.h"
#include "tool/metal/qemu.h"
#include "tool/metal/traffic.h"

namespace perdure::tool::metal {

// Statuses that the guest ends QEMU with (isa-debug-exit: twice the value, plus one).
inline constexpr int kGuestContent = 33;
inline constexpr int kGuestFailed = 35;
inline constexpr int kGuestPanicked = 37;

struct GuestRun {
  std::optional<Ending> ending;  // none: it had to be ended
  std::string fault;             // what went wrong on the host's side; empty: nothing
  std::string output;            // what QEMU itself said, the last of it
  u64 elapsed_ns = 0;
};

// While it lives, the signals that ask us to end wait to be read, on every thread that is started meanwhile: whoever
// reads them can leave nothing behind.
class EndSignals {
 public:
  EndSignals();
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;
  int fd() const { return fd_.get(); }
  bool take();

 private:
  sigset_t former_{};
  host::Descriptor fd_;
};

class Guest {
 public:
  // Throws std::runtime_error when the host is out of what it takes.
  Guest(const Qemu& qemu, const MachineSpec& machine, Attachments with, u32 seed);

  // What came from the serial line, and when (host's clock, from the start).
  std::function<void(std::string_view bytes, u64 now_ns)> on_serial;

  // To the end, or for this long. Asks `on_serial` on this thread.
  GuestRun run(u64 deadline_ns);

  // From within on_serial: frames flow from now on. Not from power-on: a QEMU 7.2 whose network has frames waiting then
  // does not get through qboot.
  void plug_in();
  // From within on_serial: one byte to the guest; its monitor.
  bool send(char byte);
  Monitor& monitor() { return *monitor_; }
  // From within on_serial: no more of it.
  void give_up(std::string why) { fault_ = std::move(why); }

 private:
  bool drain(int fd, const std::function<void(std::string_view)>& take);

  EndSignals signals_;  // before the feeder's thread
  std::optional<Monitor> monitor_;
  host::Descriptor wire_;  // until it is plugged in
  u32 seed_ = 0;
  std::optional<Feeder> feeder_;
  std::optional<Process> process_;
  std::string start_fault_;
  std::string fault_;
};

// How such an end is to be understood; empty: as the guest said (status 33).
std::string judge(const GuestRun& run);

}  // namespace perdure::tool::metal
