// A machine with units, devices and programs' memory, and kernels with iommufd that follow one another on it. LUO is
// played by a session that is one table.
#pragma once
#include "core/file/host_files.h"
#include "core/iommu/testing/iommu_world.h"
#include "core/iommufd/handler.h"
#include "tests/support/fake_task.h"

namespace perdure::testing {

template <class T>
Errno error_of(const Result<T>& result) {
  return result ? Errno{} : result.error();
}

// Files by token, in the order of preservation.
class FakeSession final : public luo::Session {
 public:
  explicit FakeSession(u64 of_generation) : generation_(of_generation) {}
  Result<u64> token_of(File& file) const override {
    for (const auto& [token, known] : files) {
      if (known.get() == &file) return token;
    }
    return fail(Errno::Enoent);
  }
  Result<Ref<File>> file_of(u64 token) override {
    ++lookups;
    if (const auto at = files.find(token); at != files.end()) return at->second;
    if (!retrieve) return fail(Errno::Enoent);
    Result<Ref<File>> file = retrieve(token);
    if (file) files[token] = *file;
    return file;
  }
  std::string_view name() const override { return "test"; }
  u64 generation() const override { return generation_; }
  u64 next_generation() const override { return generation_ + 1000; }

  std::map<u64, Ref<File>> files;
  std::function<Result<Ref<File>>(u64 token)> retrieve;
  u64 lookups = 0;

 private:
  u64 generation_;
};

class IommufdWorld {
 public:
  static constexpr u64 kGeneration = 5;
  static constexpr SourceId a0 = IommuWorld::a0, a1 = IommuWorld::a1, b0 = IommuWorld::b0;

  explicit IommufdWorld(u32 version = abi::kIommufdReadMax) : iommu(version) { boot(); }
  ~IommufdWorld() {
    task.exit();
    forget_session();
    handler.destroy();
    module.destroy();
    iommu.shut_down();
    files.destroy();
  }

  void boot() {
    files.make(iommu.heap());
    module.make(iommu.kho(), *iommu.iommu, *iommu.live, config);
    handler.make(*module);
    session = std::make_unique<FakeSession>(kGeneration);
  }
  iommufd::Iommufd::Config config{};
  // The same kernel once more, built differently.
  void restart_with(FunctionRef<void(iommufd::Iommufd::Config&)> change) {
    change(config);
    task.exit();
    forget_session();
    handler.destroy();
    module.destroy();
    files.destroy();
    boot();
  }

  Heap& heap() { return iommu.heap(); }
  test::BankMachine& machine() { return iommu.handover.machine; }

  // --- programs ----------------------------------------------------------------------------------------------------
  struct Memfd {
    Ref<test::TestMemfd> host;
    Ref<SharedMemory> memory;
    s32 fd = -1;
  };
  Memfd memfd(u64 bytes, u32 seals = seal::kPreservable) {
    Memfd m;
    m.host = test::TestMemfd::create(bytes);
    EXPECT_TRUE(m.host->add_seals(seals));
    m.memory = *files->memory(m.host);
    m.fd = task.add(m.memory);
    return m;
  }
  s32 open() { return task.add(*module->open()); }
  iommufd::IommufdFile& file(s32 fd) { return *file_cast<iommufd::IommufdFile>(task.files.at(fd).get()); }
  template <class T>
  Result<void> call(s32 fd, u32 command, T& cmd) {
    const UserAddr arg = task.put(cmd);
    const Result<u64> result = task.files.at(fd)->ioctl(task, command, arg);
    cmd = task.peek<T>(arg);
    if (!result) return fail(result.error());
    return {};
  }
  u32 ioas(s32 fd) {
    uapi::IommuIoasAlloc cmd{.size = sizeof(cmd), .flags = 0, .out_ioas_id = 0};
    EXPECT_TRUE(call(fd, uapi::kIommuIoasAlloc, cmd));
    return cmd.out_ioas_id;
  }
  static constexpr u32 kRw = uapi::iommu_map::kReadable | uapi::iommu_map::kWriteable;
  Result<u64> map_file(s32 fd, u32 ioas, s32 memfd, u64 start, u64 length, u64 iova,
                       u32 flags = kRw | uapi::iommu_map::kFixedIova) {
    uapi::IommuIoasMapFile cmd{.size = sizeof(cmd),
                               .flags = flags,
                               .ioas_id = ioas,
                               .fd = memfd,
                               .start = start,
                               .length = length,
                               .iova = iova};
    TRY(call(fd, uapi::kIommuIoasMapFile, cmd));
    return cmd.iova;
  }
  Result<u64> map(s32 fd, u32 ioas, u64 va, u64 length, u64 iova, u32 flags = kRw | uapi::iommu_map::kFixedIova) {
    uapi::IommuIoasMap cmd{.size = sizeof(cmd),
                           .flags = flags,
                           .ioas_id = ioas,
                           .reserved = 0,
                           .user_va = va,
                           .length = length,
                           .iova = iova};
    TRY(call(fd, uapi::kIommuIoasMap, cmd));
    return cmd.iova;
  }
  Result<u64> unmap(s32 fd, u32 ioas, u64 iova, u64 length) {
    uapi::IommuIoasUnmap cmd{.size = sizeof(cmd), .ioas_id = ioas, .iova = iova, .length = length};
    TRY(call(fd, uapi::kIommuIoasUnmap, cmd));
    return cmd.length;
  }
  Result<u32> hwpt(s32 fd, u32 device, u32 pt, u32 flags = 0) {
    uapi::IommuHwptAlloc cmd{};
    cmd.size = sizeof(cmd);
    cmd.flags = flags;
    cmd.dev_id = device;
    cmd.pt_id = pt;
    TRY(call(fd, uapi::kIommuHwptAlloc, cmd));
    return cmd.out_hwpt_id;
  }
  Result<void> destroy(s32 fd, u32 id) {
    uapi::IommuDestroy cmd{.size = sizeof(cmd), .id = id};
    return call(fd, uapi::kIommuDestroy, cmd);
  }
  Result<void> mark(s32 fd, u32 hwpt, u64 token) {
    uapi::IommuHwptMarkPreserve cmd{.size = sizeof(cmd), .hwpt_id = hwpt, .token = token};
    return call(fd, uapi::kIommuHwptMarkPreserve, cmd);
  }
  Result<u32> restore(s32 fd, u64 token) {
    uapi::IommuHwptRestore cmd{.size = sizeof(cmd), .flags = 0, .token = token, .out_hwpt_id = 0, .out_ioas_id = 7};
    TRY(call(fd, uapi::kIommuHwptRestore, cmd));
    EXPECT_EQ(cmd.out_ioas_id, 0u);
    return cmd.out_hwpt_id;
  }
  struct Adopted {
    u32 hwpt = 0;
    u32 ioas = 0;
  };
  Result<Adopted> adopt(s32 fd, u64 token) {
    uapi::IommuHwptRestore cmd{.size = sizeof(cmd),
                               .flags = uapi::iommu_hwpt_restore::kIoas,
                               .token = token,
                               .out_hwpt_id = 0,
                               .out_ioas_id = 0};
    TRY(call(fd, uapi::kIommuHwptRestore, cmd));
    return Adopted{cmd.out_hwpt_id, cmd.out_ioas_id};
  }
  Ref<iommufd::Device> bind(s32 fd, SourceId source) {
    Result<Ref<iommufd::Device>> bound = file(fd).bind(iommu.device(source));
    EXPECT_TRUE(bound) << text(source);
    return *bound;
  }

  // What a device behind the unit reaches at this address: the bytes of which memory, where; "" for nothing.
  std::string reached(SourceId source, u64 iova) {
    const Ref<PagingDomain> domain = iommu.group(source).domain();
    const auto& entries = iommu.hw_a.entries.contains(source) ? iommu.hw_a.entries : iommu.hw_b.entries;
    if (!domain || !entries.contains(source)) return "blocked";
    const Result<pt::Leaf> leaf = domain->leaf_at(Iova(iova));
    if (!leaf) return "";
    const u64 phys = leaf->phys.value + (iova - leaf->iova.value);
    const char* const access = leaf->access == Access::Read ? " r" : leaf->access == Access::Write ? " w" : "";
    for (const auto& [base, bank] : machine().banks) {
      if (phys >= base && phys < base + bank.length) {
        return std::to_string(bank.host_id) + "+" + std::to_string(phys - base + bank.offset) + access;
      }
    }
    return "no bank";
  }
  static std::string place(const Memfd& memfd, u64 offset) {
    return std::to_string(memfd.host->id()) + "+" + std::to_string(offset);
  }

  // --- one update ---------------------------------------------------------------------------------------------------
  u64 record = 0;
  // As memfd's handler would.
  void preserve_memfd(const Memfd& m, u64 token) {
    m.memory->pin();
    EXPECT_TRUE(m.memory->extents(0, align_up(m.host->size(), kPageSize),
                                  [](const FileExtent&) -> Result<void> { return {}; }));
    m.memory->set_preserved(true);
    EXPECT_TRUE(
        m.memory->each_bank([&](const Bank& bank) { return iommu.kho().preserve_range(bank.base, bank.length); }));
    session->files[token] = m.memory;
    memfds[token] = m.host;
  }
  luo::FileState state(u64 token, File* of = nullptr) {
    return {
        .session = *session, .token = token, .file = of, .data = record, .private_data = nullptr, .retrieve_status = 0};
  }
  Result<void> preserve(s32 fd, u64 token) {
    luo::FileState s = state(token, task.files.at(fd).get());
    TRY(handler->preserve(s));
    record = s.data;
    session->files[token] = task.files.at(fd);
    return {};
  }
  void unpreserve(s32 fd, u64 token) {
    session->files.erase(token);
    luo::FileState s = state(token, task.files.at(fd).get());
    handler->unpreserve(s);
  }
  // Kernel and programs are gone; the next kernel is up.
  void jump(u64 frozen_record_token) {
    luo::FileState s = state(frozen_record_token, session->files.at(frozen_record_token).get());
    ASSERT_TRUE(iommu.live->audit());
    ASSERT_TRUE(handler->freeze(s));
    for (auto& [fd, file] : task.files) static_cast<void>(file.release());
    task.files.clear();
    for (auto& [token, file] : session->files) static_cast<void>(file.release());
    session->files.clear();
    handler.forget();
    module.forget();
    files.forget();
    iommu.jump();
    boot();
    // As memfd's handler would.
    session->retrieve = [this](u64 token) -> Result<Ref<File>> {
      const auto at = memfds.find(token);
      if (at == memfds.end()) return fail(Errno::Enoent);
      Result<Ref<SharedMemory>> memory = files->memory(at->second);
      for (const auto& [base, bank] : machine().banks) {
        if (bank.host_id != at->second->id()) continue;
        EXPECT_TRUE((*memory)->adopt_bank(bank));
      }
      return Ref<File>(*memory);
    };
  }
  // The retrieved context, as descriptor of the program.
  Result<s32> retrieve(u64 token) {
    luo::FileState s = state(token);
    Ref<File> file = TRY(handler->retrieve(s));
    session->files[token] = file;
    return task.add(std::move(file));
  }
  bool can_finish(s32 fd, u64 token, int status = 1) {
    luo::FileState s = state(token, fd < 0 ? nullptr : task.files.at(fd).get());
    s.retrieve_status = status;
    return handler->can_finish(s);
  }
  void finish(s32 fd, u64 token) {
    luo::FileState s = state(token, fd < 0 ? nullptr : task.files.at(fd).get());
    s.retrieve_status = fd < 0 ? 0 : 1;
    handler->finish(s);
  }
  void forget_session() {
    // Whoever preserved memory for this test gives it up with the kernel.
    for (auto& [token, file] : session->files) {
      if (SharedMemory* memory = file_cast<SharedMemory>(file.get()); memory && memory->preserved()) {
        EXPECT_TRUE(memory->each_bank([&](const Bank& bank) -> Result<void> {
          iommu.kho().unpreserve_range(bank.base, bank.length);
          return {};
        }));
        memory->set_preserved(false);
        memory->unpin();
      }
    }
    session->files.clear();
  }

  IommuWorld iommu;
  test::Forgettable<HostFiles> files;
  test::Forgettable<iommufd::Iommufd> module;
  test::Forgettable<iommufd::IommufdHandler> handler;
  std::unique_ptr<FakeSession> session;
  test::FakeTask task;
  std::map<u64, Ref<test::TestMemfd>> memfds;  // preserved, by token
};

}  // namespace perdure::testing
