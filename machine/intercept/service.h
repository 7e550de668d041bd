// Serves one system call after the other: what is not ours goes on as if it had not been looked at.
#pragma once
#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "machine/intercept/answers.h"
#include "machine/intercept/eventfds.h"
#include "machine/intercept/kernel_link.h"
#include "machine/intercept/paths.h"
#include "machine/intercept/processes.h"
#include "machine/intercept/registry.h"
#include "machine/intercept/shadow.h"
#include "machine/intercept/trap/tracer.h"
#include "machine/wire/lent_turn.h"

namespace perdure::intercept {

// What all threads of a supervisor share.
struct Machine {
  Machine(std::unique_ptr<Registry> r, std::unique_ptr<Shadow> s, std::unique_ptr<Processes> p)
      : registry(std::move(r)), shadow(std::move(s)), processes(std::move(p)), paths(*shadow, *registry) {}

  std::unique_ptr<Registry> registry;
  std::unique_ptr<Shadow> shadow;
  std::unique_ptr<Processes> processes;
  Paths paths;
  EventFds events;
  std::unique_ptr<Listener> listener;  // null: calls come by way of the agent
  std::unique_ptr<Tracer> tracer;      // null: programs map no registers
  u32 high_fd = 0;                     // where files stand that take orders
  std::function<void(const std::string& line)> log;
  // Held while closes are passed on: an open that comes after a close must find it done.
  std::mutex closing;
  // Turns that the kernel has; who finds out that what it was told with them is out of date takes them back.
  std::mutex loans_mutex;
  std::vector<const wire::LentTurn*> loans;
  void end_loans();
  bool over = false;  // under `closing`: the kernel is gone, or about to go: it is told nothing any more
};

class Service {
 public:
  // `slow`: this thread will not be back soon. `answers`: where calls come from, if not from the listener.
  Service(Machine& machine, KernelLink& link, std::function<void()> slow, Answers* answers = nullptr)
      : machine_(machine),
        link_(link),
        slow_(std::move(slow)),
        answers_(answers != nullptr ? answers : machine.listener.get()) {}

  // Ekilled: the kernel is gone. The call is not answered then: whoever made it ends with the kernel.
  Result<void> serve(const SystemCall& call);
  // The last call was one that the kernel could have served alone.
  bool was_lendable() const { return lendable_; }
  // Tells the kernel of files that nobody has any more and of processes that ended. Ekilled.
  Result<void> pass_on_closes();

 private:
  struct Outcome {
    enum class Kind : u8 { Resume, Value } kind = Kind::Resume;
    s64 value = 0;
  };
  static Outcome resume() { return {}; }
  static Outcome value(s64 v) { return {.kind = Outcome::Kind::Value, .value = v}; }
  // A descriptor of the caller's and what it stands for.
  struct Ours {
    Target target;
    Registry::Entry file;
  };

  Result<Outcome> dispatch(const SystemCall& call);
  void write_log(const SystemCall& call, const Result<Outcome>& outcome) const;
  Result<Target> target_of(const SystemCall& call);
  // Nothing: it is none of ours.
  std::optional<Ours> file_of(const SystemCall& call, s32 fd);
  Result<wire::Message> kernel(wire::Call op, const SystemCall& call, const Target& target, wire::Header head,
                               std::string_view payload = {}, int fd = -1);
  Result<void> refresh_devices();

  // service.cc
  Result<Outcome> ioctl(const SystemCall& call);
  Result<Outcome> kvm_attribute(const SystemCall& call);
  Result<Outcome> positioned(const SystemCall& call);
  Result<Outcome> vectored(const SystemCall& call);
  Result<Outcome> transfer(const SystemCall& call, const Ours& ours, u64 address, u64 bytes, u64 position, bool write);
  Result<Outcome> mmap(const SystemCall& call);
  // Registers that the process maps can be trapped.
  bool traps(const Target& target) const;
  Result<Outcome> order(const SystemCall& call);
  Result<Outcome> order_vector(const SystemCall& call);
  Result<s64> obey(const SystemCall& call, const Ours& ours, const std::string& text);
  Result<Outcome> eventfd(const SystemCall& call);
  // service_files.cc
  struct Look {
    Target target;
    Found found;
  };
  // What a path of the caller's leads to; nothing: it is the host's business.
  Result<std::optional<Look>> look(const SystemCall& call, s32 directory, u64 path, bool follow);
  Result<std::optional<Look>> look(const Target& target, s32 directory, const std::string& path, bool follow);
  Result<Outcome> open(const SystemCall& call);
  Result<Outcome> open_device(const SystemCall& call, const Target& target, const std::string& path, int flags);
  Result<Outcome> open_status(const SystemCall& call, s32 process, int flags);
  Result<Outcome> open_shadow(const SystemCall& call, const Found& found, int flags);
  Result<Outcome> give(const SystemCall& call, int fd, int flags, s32 at = -1);
  s32 place_for_orders(const Target& target) const;
  Result<Outcome> stat(const SystemCall& call);
  Result<Outcome> stat_found(const SystemCall& call, const Target& target, const std::string& path, const Node& node);
  Result<Outcome> access(const SystemCall& call);
  Result<Outcome> readlink(const SystemCall& call);
  // service_kexec.cc
  Result<Outcome> kexec_load(const SystemCall& call);
  Result<Outcome> reboot(const SystemCall& call);

  Machine& machine_;
  KernelLink& link_;
  std::function<void()> slow_;
  Answers* answers_;  // null: none come
  bool lendable_ = false;
};

}  // namespace perdure::intercept
