// The least machine that core units can be tested on: RAM, a clock, a log. No devices.
#pragma once
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/abi/boot_info.h"
#include "core/base/machine.h"

namespace perdure::test {

// Fails the nth allocation from now, counting from 1; 0: none. Counts all stores and allocations.
class CountingSteps final : public StepHook {
 public:
  void stored(Phys) override { ++stores; }
  bool may_allocate() override { return ++allocations != fail_at; }
  // What `call` answers when its nth allocation fails.
  template <class Call>
  auto failing(u64 nth, Call call) {
    allocations = 0;
    fail_at = nth;
    auto answer = call();
    fail_at = 0;
    return answer;
  }
  u64 stores = 0;
  u64 allocations = 0;
  u64 fail_at = 0;
};

// What a test may put behind a TestMachine: registers, interrupts, somebody who looks at what is written back.
class TestHardware {
 public:
  virtual u64 mmio_read(Phys at, Width width) = 0;
  virtual void mmio_write(Phys at, Width width, u64 value) = 0;
  virtual void relax() {}
  virtual void written_back(Phys, u64) {}
  virtual Result<MsiTarget> irq_alloc(IrqSink&) { return fail(Errno::Enospc); }
  virtual void irq_free(MsiTarget) {}
  virtual Result<void> irq_claim(MsiTarget, IrqSink&) { return fail(Errno::Eopnotsupp); }
  virtual void irq_raise(MsiTarget) {}
  virtual bool has_line(const InterruptLine&) { return false; }
  virtual Result<void> line_connect(const InterruptLine&, IrqSink&) { return fail(Errno::Enodev); }
  virtual void line_disconnect(const InterruptLine&) {}
  virtual void line_mask(const InterruptLine&, bool) {}

 protected:
  ~TestHardware() = default;
};

class TestMachine : public Machine {
 public:
  explicit TestMachine(u64 ram_bytes = u64{64} << 20) {
    void* at = mmap(nullptr, ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::runtime_error("mmap");
    direct_map = static_cast<std::byte*>(at);
    window = ram_bytes;
    steps = &counting;
  }
  virtual ~TestMachine() { munmap(direct_map, window); }
  TestMachine(const TestMachine&) = delete;
  TestMachine& operator=(const TestMachine&) = delete;

  const abi::BootInfo& boot() override { return boot_info; }
  u64 mmio_read(Phys at, Width width) override { return hardware ? hardware->mmio_read(at, width) : ~u64{0}; }
  void mmio_write(Phys at, Width width, u64 value) override {
    if (hardware) hardware->mmio_write(at, width, value);
  }
  u64 now_ns() override { return clock_ns += clock_step_ns; }
  void relax() override {
    if (hardware) hardware->relax();
  }
  void log(LogLevel, std::string_view line) override {
    const std::scoped_lock lock(lines_mutex);
    lines.emplace_back(line);
  }
  Result<MsiTarget> irq_alloc(IrqSink& sink) override {
    return hardware ? hardware->irq_alloc(sink) : fail(Errno::Enospc);
  }
  void irq_free(MsiTarget target) override {
    if (hardware) hardware->irq_free(target);
  }
  Result<void> irq_claim(MsiTarget target, IrqSink& sink) override {
    return hardware ? hardware->irq_claim(target, sink) : fail(Errno::Eopnotsupp);
  }
  void irq_raise(MsiTarget target) override {
    if (hardware) hardware->irq_raise(target);
  }
  bool has_line(const InterruptLine& line) override { return hardware && hardware->has_line(line); }
  Result<void> line_connect(const InterruptLine& line, IrqSink& sink) override {
    return hardware->line_connect(line, sink);
  }
  void line_disconnect(const InterruptLine& line) override { hardware->line_disconnect(line); }
  void line_mask(const InterruptLine& line) override { hardware->line_mask(line, true); }
  void line_unmask(const InterruptLine& line) override { hardware->line_mask(line, false); }
  void write_back(const void* at, usize bytes) override {
    ++write_backs;
    if (hardware) hardware->written_back(phys(at), bytes);
  }
  Result<Bank> bank_attach(HostMemory&, u64, u64) override { return fail(Errno::Enospc); }
  void bank_detach(const Bank&) override {}
  Result<Ref<HostMemory>> bank_memory(u64) override { return fail(Errno::Enoent); }
  Result<Ref<HostMemory>> host_memory_create(u64) override { return fail(Errno::Enomem); }
  Result<Ref<KernelImage>> image_open(std::string_view) override { return fail(Errno::Enoent); }
  Result<void> jump(KernelImage&, const abi::BootInfo&, Phys) override { return fail(Errno::Enoexec); }

  CountingSteps counting;
  abi::BootInfo boot_info;
  std::atomic<u64> clock_ns = 0;
  u64 clock_step_ns = 1;  // that each look at the clock takes
  TestHardware* hardware = nullptr;
  std::atomic<u64> write_backs = 0;
  std::mutex lines_mutex;  // for tests with threads; those without read `lines` as they like
  std::vector<std::string> lines;
};

}  // namespace perdure::test
