// One connection of a front end: its calls, until it goes.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/kernel/kernel.h"
#include "machine/process/drivers.h"
#include "machine/process/front_task.h"
#include "machine/process/lent_calls.h"
#include "machine/process/port_machine.h"

namespace perdure::process {

class Connection {
 public:
  Connection(Kernel& kernel, PortMachine& machine, Fronts& fronts, Drivers& drivers, const Creds& creds,
             host::Descriptor socket)
      : kernel_(kernel),
        machine_(machine),
        fronts_(fronts),
        drivers_(drivers),
        creds_(creds),
        channel_(std::move(socket)) {}
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void run();

 private:
  struct Outcome {
    wire::Header head{.op = static_cast<u32>(wire::Question::Result)};
    std::vector<std::byte> payload;
  };

  // What comes of the call; `error` in place of the rest.
  Result<void> serve(wire::Message& call, FrontTask& task, Outcome& outcome);
  Result<u64> open(const wire::Message& call, Outcome& outcome);
  Result<u64> region_access(const wire::Header& call, FrontTask& task, Outcome& outcome);
  Result<void> mmap(const wire::Message& call, FrontTask& task, Outcome& outcome);
  // A piece of a text that may not fit a message; it is made at offset 0.
  template <class Make>
  Result<u64> text(const wire::Header& call, Outcome& outcome, Make make);
  void serve_events();
  Result<void> serve_lent(const wire::Message& call, Outcome& outcome);

  Kernel& kernel_;
  PortMachine& machine_;
  Fronts& fronts_;
  Drivers& drivers_;
  const Creds& creds_;
  wire::Channel channel_;
  std::shared_ptr<Front> front_;
  std::string text_;  // that is being asked for
  bool is_events_ = false;
  LentCalls lent_;
  bool lost_ = false;  // the other side is gone, or broke the protocol
};

}  // namespace perdure::process
