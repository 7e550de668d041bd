// A test machine with host memory: real memfds, mapped as banks above RAM, and a memory map for the next kernel.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "tests/support/test_machine.h"

namespace perdure::test {

class TestMemfd final : public HostMemory {
 public:
  static Ref<TestMemfd> create(u64 bytes) {
    const int fd = memfd_create("perdure-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) throw std::runtime_error("memfd");
    auto* made = ::new TestMemfd(fd);
    // An abandoned kernel's references are never given back: that is no leak to report.
    static auto& all = *new std::vector<TestMemfd*>;
    all.push_back(made);
    return Ref<TestMemfd>::adopt(made);
  }
  ~TestMemfd() override { close(fd_); }

  u64 id() const override { return id_; }
  u64 size() const override { return static_cast<u64>(status().st_size); }
  u32 seals() const override { return static_cast<u32>(fcntl(fd_, F_GET_SEALS)); }
  Result<void> add_seals(u32 seals) override {
    if (fcntl(fd_, F_ADD_SEALS, seals) != 0) return fail(static_cast<Errno>(errno));
    return {};
  }
  Result<void> resize(u64 bytes) override {
    if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) return fail(static_cast<Errno>(errno));
    return {};
  }
  u64 position() const override { return static_cast<u64>(lseek(fd_, 0, SEEK_CUR)); }
  void set_position(u64 bytes) override { lseek(fd_, static_cast<off_t>(bytes), SEEK_SET); }

  bool nameless() const override { return !named; }

  bool named = false;  // it has a name in a file system
  int fd() const { return fd_; }
  void fill(u64 offset, std::string_view text) {
    if (pwrite(fd_, text.data(), text.size(), static_cast<off_t>(offset)) != static_cast<ssize_t>(text.size()))
      throw std::runtime_error("pwrite");
  }
  std::string contents(u64 offset, u64 bytes) const {
    std::string s(bytes, '\0');
    s.resize(static_cast<usize>(std::max<ssize_t>(0, pread(fd_, s.data(), bytes, static_cast<off_t>(offset)))));
    return s;
  }

 private:
  explicit TestMemfd(int fd) : fd_(fd), id_(status().st_ino) {}
  struct stat status() const {
    struct stat s = {};
    fstat(fd_, &s);
    return s;
  }
  void dispose() override { ::delete this; }
  int fd_;
  u64 id_;
};

// Physical memory: RAM from 0 to `ram`, banks above it up to `window`.
class BankMachine : public TestMachine {
 public:
  BankMachine(u64 ram, u64 window_bytes) : TestMachine(window_bytes), ram_(ram), next_(ram) {}

  u64 ram_bytes() const { return ram_; }

  Result<Bank> bank_attach(HostMemory& memory, u64 offset, u64 length) override {
    if (length == 0 || offset % kPageSize != 0 || length % kPageSize != 0) return fail(Errno::Einval);
    if (!counting.may_allocate()) return fail(Errno::Enomem);
    u64 alignment = kPageSize;
    while (alignment < length && alignment < kGiantPageSize) alignment *= 2;
    const u64 base = align_up(next_, alignment);
    if (base > window || length > window - base) return fail(Errno::Enospc);
    auto& memfd = static_cast<TestMemfd&>(memory);
    if (mmap(direct_map + base, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd.fd(),
             static_cast<off_t>(offset)) == MAP_FAILED)
      return fail(static_cast<Errno>(errno));
    next_ = base + length;
    const Bank bank{Phys(base), length, offset, memory.id()};
    banks[base] = bank;
    hosts.insert_or_assign(memory.id(), Ref<TestMemfd>(&memfd));
    return bank;
  }
  void bank_detach(const Bank& bank) override {
    const auto at = banks.find(bank.base.value);
    if (at == banks.end() || at->second.length != bank.length) throw std::runtime_error("no such bank");
    mmap(direct_map + bank.base.value, bank.length, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    banks.erase(at);
    const u64 id = bank.host_id;
    if (std::none_of(banks.begin(), banks.end(), [&](const auto& b) { return b.second.host_id == id; }))
      hosts.erase(id);
  }
  Result<Ref<HostMemory>> bank_memory(u64 host_id) override {
    const auto at = hosts.find(host_id);
    if (at == hosts.end()) return fail(Errno::Enoent);
    return Ref<HostMemory>(at->second);
  }
  Result<Ref<HostMemory>> host_memory_create(u64 bytes) override {
    if (!counting.may_allocate()) return fail(Errno::Enomem);
    return Ref<HostMemory>(TestMemfd::create(bytes));
  }

  // Leaves the memory map of what is attached now at `at`, for the next kernel.
  void write_memory_map(Phys at) {
    auto* map = virt<abi::MemoryMapEntry>(at);
    u32 n = 0;
    map[n++] = {0, ram_, static_cast<u32>(abi::MemoryType::Ram), 0, 0, 0};
    for (const auto& [base, bank] : banks)
      map[n++] = {base, bank.length, static_cast<u32>(abi::MemoryType::Bank), 0, bank.host_id, bank.offset};
    boot_info.memory_map = at.value;
    boot_info.memory_map_count = n;
  }

  std::map<u64, Bank> banks;            // by base
  std::map<u64, Ref<TestMemfd>> hosts;  // by id, while a bank holds them

 private:
  u64 ram_;
  u64 next_;
};

}  // namespace perdure::test
