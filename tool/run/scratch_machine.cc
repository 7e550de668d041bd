#include "tool/run/scratch_machine.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine/process/board_server.h"
#include "tool/rig.h"

namespace perdure::tool {

std::unique_ptr<ScratchMachine> ScratchMachine::start() {
  auto machine = std::make_unique<ScratchMachine>();
  int line[2];
  if (pipe2(line, O_CLOEXEC) != 0) return nullptr;
  machine->line_ = host::Descriptor(line[0]);
  host::Descriptor theirs(line[1]);
  machine->pid_ = fork();
  if (machine->pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    process::BoardServer server({.board = demo_machine(u64{1} << 32, 1).board,
                                 .kernel_directory = std::filesystem::read_symlink("/proc/self/exe").parent_path(),
                                 .program_socket = machine->socket()});
    server.board().start();
    if (!server.power_on() || !server.wait_ready(std::nullopt, 30'000'000'000)) _exit(1);
    if (write(theirs.get(), "", 1) != 1) _exit(1);
    for (;;) pause();
  }
  theirs.reset();
  char ready = 0;
  if (machine->pid_ < 0 || read(line[0], &ready, 1) != 1) return nullptr;
  return machine;
}

ScratchMachine::~ScratchMachine() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

}  // namespace perdure::tool
