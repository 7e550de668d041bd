#include "machine/process/kernel_machine.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include "machine/host/host_files.h"
#include "machine/process/bell.h"
#include "machine/process/board_protocol.h"
#include "machine/process/kernel_image.h"

namespace perdure::process {

Result<std::unique_ptr<KernelMachine>> KernelMachine::create(RemotePort& port, LogSink log) {
  std::unique_ptr<KernelMachine> machine(new KernelMachine(port, std::move(log)));
  TRY(machine->open(port.boot_info()));
  return machine;
}

Result<Ref<KernelImage>> KernelMachine::image_open(std::string_view name) {
  return Ref<KernelImage>(TRY(FileImage::open(
      kernel_path(remote_.kernel_directory(), name.empty() ? std::string_view(remote_.next_kernel()) : name))));
}

Result<void> KernelMachine::jump(KernelImage& image, const abi::BootInfo& next, Phys at) {
  TRY(remote_.prepare(next, at));
  if (before_jump_) {
    before_jump_();
    // The jump begins when programs have ended: how long that takes is no kernel's doing.
    abi::BootInfo later = next;
    later.jump_ns = now_ns();
    TRY(remote_.prepare(later, at));
  }
  // Everything but the board's socket and the standard streams is close-on-exec, and no argument or environment goes
  // along: what the next kernel knows, it knows from the board.
  char name[] = "perdure-kernel";
  char* const arguments[] = {name, nullptr};
  char* const nothing[] = {nullptr};
  fexecve(static_cast<FileImage&>(image).fd(), arguments, nothing);
  const Errno why = host::last_error();
  TRY(remote_.cancel());
  return fail(why);
}

void KernelMachine::deliver() {
  irqs().deliver([this](auto&& deliver) { remote_.interrupt_page().take(deliver); });
}

void KernelMachine::irq_enable() {
  irqs().enable(true);
  deliver();
}

void KernelMachine::serve_interrupts(std::function<void()> service) {
  BellWatch{.socket = remote_.interrupts(),
            .now_ns = [this] { return now_ns(); },
            .deliver = [this] { deliver(); },
            .service = std::move(service)}
      .run();
}

}  // namespace perdure::process
