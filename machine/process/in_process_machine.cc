#include "machine/process/in_process_machine.h"

#include "core/abi/kernel_note.h"

namespace perdure::process {

namespace {

constexpr Config kKernels[] = {
    {.release = "perdure-a", .write_version = 1},
    {.release = "perdure-b", .write_version = 2},
};

class ConfigImage final : public KernelImage, private host::HostObjects::Object {
 public:
  ConfigImage(host::HostObjects& home, std::string_view name, std::optional<abi::KernelNote> note)
      : Object(home), name_(name), note_(note) {}
  std::string_view name() const override { return name_; }
  std::string_view note() const override {
    return note_ ? std::string_view(reinterpret_cast<const char*>(&*note_), sizeof *note_) : std::string_view();
  }

 private:
  void dispose() override { ::delete this; }
  void destroy() override { ::delete this; }
  std::string name_;
  std::optional<abi::KernelNote> note_;
};

}  // namespace

const Config* in_process_kernel(std::string_view name) {
  if (name == "a") return &kKernels[0];
  if (name == "b") return &kKernels[1];
  return nullptr;
}

Result<std::unique_ptr<InProcessMachine>> InProcessMachine::create(board::Board& board, Phys boot_info, LogSink log,
                                                                   BoardSteps* steps) {
  std::unique_ptr<InProcessMachine> machine(new InProcessMachine(board, std::move(log), steps));
  machine->steps = steps;
  TRY(machine->open(boot_info));
  InProcessMachine* m = machine.get();
  board.set_msi_sink([m](u64 address, u32 data) {
    const std::scoped_lock lock(m->queue_mutex_);
    m->queued_.emplace_back(address, data);
  });
  return machine;
}

InProcessMachine::~InProcessMachine() {
  board_.set_msi_sink(nullptr);
}

Result<Ref<KernelImage>> InProcessMachine::image_open(std::string_view name) {
  std::optional<abi::KernelNote> note;
  if (const Config* config = in_process_kernel(name)) {
    note = abi::kernel_note(config->release, config->write_version);
  } else if (name == "future") {
    // A kernel from a time when nobody reads today's records any more.
    note = abi::kernel_note("perdure-future", 2);
    for (abi::FormatVersions& f : std::span(note->formats, note->format_count)) f.read_min = f.read_max = f.write = 9;
  } else if (name != "noteless") {
    return fail(Errno::Enoent);
  }
  return Ref<KernelImage>(Ref<ConfigImage>::adopt(new ConfigImage(host_objects(), name, note)));
}

Result<void> InProcessMachine::jump(KernelImage& image, const abi::BootInfo& next, Phys at) {
  if (fail_jump_) return fail(*std::exchange(fail_jump_, std::nullopt));
  jumped_ = Jump{.image = std::string(image.name()), .next = next, .at = at};
  return {};
}

void InProcessMachine::abandon() {
  abandoned_ = true;
  board_.set_msi_sink(nullptr);
  for (const auto& [address, data] : std::exchange(queued_, {})) board_.give_back(address, data);
  revoke();
}

void InProcessMachine::irq_raise(MsiTarget target) {
  const std::scoped_lock lock(queue_mutex_);
  queued_.emplace_back(target.address, target.data);
}

void InProcessMachine::deliver_interrupts() {
  irqs().deliver([this](auto&& deliver) {
    std::vector<std::pair<u64, u32>> now;
    {
      const std::scoped_lock lock(queue_mutex_);
      now.swap(queued_);
    }
    for (const auto& [address, data] : now) deliver(address, data);
  });
}

}  // namespace perdure::process
