// The core of Perdure in a program of your own: a machine of 64 MiB, and two kernels of which the second takes over
// from the first what a session holds. Hypervisors and kernels embed it the same way, with memory, registers and
// interrupts that exist. Build: find_package(Perdure COMPONENTS core), link Perdure::core.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <string>

#include "core/abi/kernel_note.h"
#include "core/kernel/kernel.h"
#include "core/uapi/liveupdate.h"

using namespace perdure;

// What the core asks for besides memcpy and its relatives (core/base/platform.h).
extern "C" ThreadContext* perdure_thread_context() {
  thread_local ThreadContext context;
  return &context;
}
extern "C" void perdure_relax() {}
extern "C" void perdure_panic(const char* what, const char* file, unsigned line) {
  std::fprintf(stderr, "%s:%u: %s\n", file, line, what);
  std::abort();
}

template <class T>
T must(const char* what, Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "embed: %s: %s\n", what, std::string(errno_name(result.error())).c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// Memory that belongs to a program: a memfd, which the machine shows to the kernel as a bank.
class Memory final : public HostMemory {
 public:
  explicit Memory(u64 bytes) : fd(memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING)), bytes_(bytes) {
    if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) std::abort();
  }
  u64 id() const override { return static_cast<u64>(fd); }
  u64 size() const override { return bytes_; }
  u32 seals() const override { return 0; }
  Result<void> add_seals(u32) override { return fail(Errno::Eperm); }
  Result<void> resize(u64) override { return fail(Errno::Eperm); }
  u64 position() const override { return 0; }
  void set_position(u64) override {}
  const int fd;

 private:
  void dispose() override { ::delete this; }
  u64 bytes_;
};

// The next kernel is this program again: its note says which formats it reads.
class Image final : public KernelImage {
 public:
  std::string_view name() const override { return "second"; }
  std::string_view note() const override { return {reinterpret_cast<const char*>(&note_), sizeof note_}; }

 private:
  void dispose() override { ::delete this; }
  abi::KernelNote note_ = abi::kernel_note("second", 2);
};

class SmallMachine final : public Machine {
 public:
  static constexpr u64 kRam = u64{64} << 20;
  SmallMachine() {
    window = u64{1} << 30;
    void* const at = mmap(nullptr, window, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    direct_map = static_cast<std::byte*>(at);
    boot_.memory_map = kPageSize;
    write_firmware();
    describe(boot_);
  }
  const abi::BootInfo& boot() override { return boot_; }
  u64 mmio_read(Phys, Width) override { return ~u64{0}; }  // no devices
  void mmio_write(Phys, Width, u64) override {}
  u64 now_ns() override { return static_cast<u64>(std::clock()) * 1000; }
  void relax() override {}
  void log(LogLevel, std::string_view line) override {
    std::printf("  %.*s\n", static_cast<int>(line.size()), line.data());
  }
  Result<MsiTarget> irq_alloc(IrqSink&) override { return fail(Errno::Enospc); }
  void irq_free(MsiTarget) override {}
  void write_back(const void*, usize) override {}
  Result<Bank> bank_attach(HostMemory& memory, u64 offset, u64 length) override {
    const Bank bank{Phys(next_bank_), length, offset, memory.id()};
    if (mmap(virt(bank.base), length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, static_cast<Memory&>(memory).fd,
             static_cast<off_t>(offset)) == MAP_FAILED)
      return fail(Errno::Enomem);
    next_bank_ += align_up(length, kGiantPageSize / 8);
    banks_[memory.id()] = {bank, Ref<HostMemory>(&memory)};
    return bank;
  }
  void bank_detach(const Bank& bank) override { banks_.erase(bank.host_id); }
  Result<Ref<HostMemory>> bank_memory(u64 id) override {
    const auto found = banks_.find(id);
    return found == banks_.end() ? Result<Ref<HostMemory>>(fail(Errno::Enoent)) : found->second.second;
  }
  Result<Ref<HostMemory>> host_memory_create(u64 bytes) override {
    return Ref<HostMemory>(Ref<Memory>::adopt(new Memory(bytes)));
  }
  Result<Ref<KernelImage>> image_open(std::string_view) override {
    return Ref<KernelImage>(Ref<Image>::adopt(new Image));
  }
  // Here control comes back: the caller abandons the first kernel as it is.
  Result<void> jump(KernelImage&, const abi::BootInfo& next, Phys at) override {
    boot_ = next;
    describe(boot_);
    *virt<abi::BootInfo>(at) = boot_;
    return {};
  }

 private:
  static constexpr u64 kRoot = 64;  // of the ACPI tables
  // ACPI tables that say that there is nothing: no IOMMU, no PCI.
  void write_firmware() {
    auto* const root = virt<unsigned char>(Phys(kRoot));
    unsigned char* const table = root + 64;
    const auto seal = [](unsigned char* from, usize bytes, usize checksum) {
      unsigned char sum = 0;
      for (usize i = 0; i < bytes; ++i) sum = static_cast<unsigned char>(sum + from[i]);
      from[checksum] = static_cast<unsigned char>(-sum);
    };
    std::memcpy(root, "RSD PTR ", 8);
    root[15] = 2;           // revision
    root[20] = 36;          // length
    root[24] = kRoot + 64;  // address of the list of tables, which is empty
    seal(root, 20, 8);
    seal(root, 36, 32);
    std::memcpy(table, "XSDT", 4);
    table[4] = 36;
    table[8] = 1;
    seal(table, 36, 9);
  }
  // RAM below, programs' memory above; the memory map lies where the boot information says.
  void describe(abi::BootInfo& info) {
    auto* const map = virt<abi::MemoryMapEntry>(Phys(info.memory_map));
    u32 n = 0;
    map[n++] = {.base = 0, .length = kRam, .type = static_cast<u32>(abi::MemoryType::Ram)};
    map[n++] = {.base = 0, .length = 2 * kPageSize, .type = static_cast<u32>(abi::MemoryType::Reserved)};
    for (const auto& [id, bank] : banks_) {
      map[n++] = {.base = bank.first.base.value,
                  .length = bank.first.length,
                  .type = static_cast<u32>(abi::MemoryType::Bank),
                  .host_id = id,
                  .host_offset = bank.first.offset};
    }
    info.memory_map_count = n;
    info.rsdp = kRoot;
    abi::seal(info);
  }
  abi::BootInfo boot_;
  u64 next_bank_ = kGiantPageSize / 2;
  std::map<u64, std::pair<Bank, Ref<HostMemory>>> banks_;
};

// The calls of a program that runs in the same address space.
class Program final : public Task {
 public:
  Result<void> copy_in(std::span<std::byte> to, UserAddr from) override {
    std::memcpy(to.data(), reinterpret_cast<const void*>(from.value), to.size());
    return {};
  }
  Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override {
    std::memcpy(reinterpret_cast<void*>(to.value), from.data(), from.size());
    return {};
  }
  Result<void> resolve(UserAddr, u64, Access, FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)>) override {
    return fail(Errno::Efault);
  }
  Result<Ref<File>> file(s32 fd) override {
    const auto found = files.find(fd);
    return found == files.end() ? Result<Ref<File>>(fail(Errno::Ebadf)) : found->second;
  }
  Result<s32> reserve_fd() override { return next_++; }
  void install_fd(s32 fd, Ref<File> opened) override { files[fd] = std::move(opened); }
  void release_fd(s32) override {}
  const Creds& creds() const override { return creds_; }
  Result<Ref<Process>> process() override { return fail(Errno::Enosys); }

  s32 add(Ref<File> opened) {
    files[next_] = std::move(opened);
    return next_++;
  }
  template <class T>
  T call(s32 fd, u32 cmd, T arg) {
    arg.size = sizeof arg;
    must("ioctl", files.at(fd)->ioctl(*this, cmd, UserAddr(reinterpret_cast<u64>(&arg))));
    return arg;
  }
  std::map<s32, Ref<File>> files;

 private:
  s32 next_ = 3;
  Creds creds_;
};

int main() {
  SmallMachine machine;
  // Abandoned as it is when the second one starts, so nothing destroys it.
  auto* const first = new Kernel(machine, Config{.release = "first"});
  must("boot the first kernel", first->boot());
  auto* const before = new Program;
  const s32 device = before->add(must("open", first->open("/dev/liveupdate")));
  const s32 session = before->call(device, uapi::kLiveupdateCreateSession, uapi::LiveupdateSession{.name = "guest"}).fd;
  const Ref<Memory> memory = Ref<Memory>::adopt(new Memory(u64{1} << 20));
  const s32 file = before->add(must("wrap", first->host_files().memory(Ref<HostMemory>(memory.get()))));
  before->call(session, uapi::kLiveupdateSessionPreserveFd, uapi::LiveupdatePreserveFd{.fd = file, .token = 1});
  must("write", pwrite(memory->fd, "still here", 11, 0) == 11 ? Result<void>() : fail(Errno::Eio));
  must("load", first->kexec_load("second"));
  must("kexec", first->kexec());

  auto* const second = new Kernel(machine, Config{.release = "second"});
  must("boot the second kernel", second->boot());
  Program after;
  const s32 again = after.add(must("open", second->open("/dev/liveupdate")));
  const s32 held = after.call(again, uapi::kLiveupdateRetrieveSession, uapi::LiveupdateSession{.name = "guest"}).fd;
  const s32 back = after.call(held, uapi::kLiveupdateSessionRetrieveFd, uapi::LiveupdateRetrieveFd{.token = 1}).fd;
  auto& retrieved = static_cast<Memory&>(static_cast<SharedMemory&>(*after.files.at(back)).host());
  char text[16] = {};
  if (pread(retrieved.fd, text, sizeof text, 0) < 0) return 1;
  after.call(held, uapi::kLiveupdateSessionFinish, uapi::LiveupdateFinish{});
  std::printf("%s says to %s: %s\n", std::string(second->former_release()).c_str(), "second", text);
  return std::strcmp(text, "still here") == 0 ? 0 : 1;
}
