// A kernel process. Built once for each kernel, with its release and the version of its records.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <new>
#include <thread>

#include "core/abi/kernel_note.h"
#include "machine/process/board_protocol.h"
#include "machine/process/kernel_config.h"
#include "machine/process/kernel_machine.h"
#include "machine/process/kernel_options.h"
#include "machine/process/syscall_server.h"

PERDURE_KERNEL_NOTE(perdure_kernel_note, PERDURE_KERNEL_RELEASE, PERDURE_KERNEL_WRITES);

namespace {

using namespace perdure;           // NOLINT(google-build-using-namespace)
using namespace perdure::process;  // NOLINT(google-build-using-namespace)

int refuse(const char* what, Errno why) {
  std::fprintf(stderr, "perdure-kernel: %s: %s; a kernel is started by a board: perdure demo\n", what,
               std::string(errno_name(why)).c_str());
  return 1;
}

// What a kernel knows, it knows from the board (docs/architecture.md): no argument, no environment, and of descriptors
// the board's socket and the standard streams only. Anything else would be a way around the handover.
bool comes_with_nothing(int argc) {
  if (argc != 1 || (environ && *environ)) return false;
  constexpr int kMost = 4096;
  for (int fd = kBoardSocket + 1; fd < kMost; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char**) {
  if (!comes_with_nothing(argc)) return refuse("started with arguments, environment or open files", Errno::Einval);
  auto port = RemotePort::connect(host::Descriptor(kBoardSocket));
  if (!port) return refuse("no board at descriptor 3", port.error());
  KernelOptions options;
  auto machine = KernelMachine::create(**port, [&options](LogLevel level, std::string_view line) {
    static constexpr const char* kNames[] = {"debug", "info", "warn", "error"};
    if (level >= options.log) {
      std::fprintf(stderr, "%s: %s: %.*s\n", kKernelConfig.release.data(), kNames[static_cast<int>(level)],
                   static_cast<int>(line.size()), line.data());
    }
  });
  if (!machine) return refuse("the machine cannot be mapped", machine.error());

  std::vector<std::string> unknown;
  options = read_options((*machine)->boot().command_line, unknown);
  for (const std::string& word : unknown) {
    std::fprintf(stderr, "%s: warn: \"%s\" of the command line means nothing to this kernel\n",
                 kKernelConfig.release.data(), word.c_str());
  }

  // Never destroyed: a kernel ends by the jump, or with the machine.
  alignas(Kernel) static std::byte storage[sizeof(Kernel)];
  auto* kernel = new (storage) Kernel(**machine, configure(kKernelConfig, options));
  if (auto booted = kernel->boot(); !booted) return refuse("boot failed", booted.error());

  std::thread([&m = **machine, kernel] {
    m.serve_interrupts([kernel] { kernel->service(); });
    _exit(0);  // the board is gone, and with it the machine
  }).detach();
  SyscallServer server(*kernel, **machine, options.creds);
  if (auto listening = server.listen((*port)->program_socket()); !listening) {
    return refuse("programs' socket", listening.error());
  }
  (*machine)->before_jump([&server, &m = **machine] {
    if (const unsigned silent = server.reboot(); silent != 0) {
      log(m, LogLevel::Warn,
          Line() << silent << " supervisors did not end their programs in time; the kernel goes without waiting more");
    }
  });
  if (auto said = (*port)->ready(kKernelConfig.release); !said) return refuse("the board", said.error());
  server.run();
  return 0;
}
