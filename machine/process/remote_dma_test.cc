// Devices reach memory that is a program's alone, for as long as it has it (interception: private and anonymous memory;
// docs/limits.md says how that differs from pinned pages).
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/uapi/vfio.h"
#include "machine/board/edu.h"
#include "machine/host/memory_access.h"
#include "machine/process/front_fixture.h"
#include "machine/process/local_program.h"

namespace perdure::process {
namespace {

using wire::Piece;
using wire::Question;

constexpr u64 kPages = 4;
constexpr u64 kBytes = kPages * kPageSize;

// The program: does to its pages what it is told, one letter a deed.
class Child {
 public:
  Child() {
    pages_ = static_cast<std::byte*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    argument_ =
        static_cast<std::byte*>(mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memset(pages_, 0x11, kBytes);
    auto sockets = *wire::socket_pair();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      live(sockets.second.get());
    }
    socket_ = std::move(sockets.first);
  }
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    munmap(pages_, kBytes);
    munmap(argument_, kPageSize);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // False: it is gone.
  bool tell(char deed) {
    if (send(socket_.get(), &deed, 1, MSG_NOSIGNAL) != 1) return false;
    return recv(socket_.get(), &deed, 1, 0) == 1;
  }
  u64 at(u64 page) const { return reinterpret_cast<u64>(pages_) + page * kPageSize; }
  u64 argument() const { return reinterpret_cast<u64>(argument_); }
  pid_t pid() const { return pid_; }
  u64 word(u64 page) const {
    u64 value = 0;
    EXPECT_TRUE(host::read_memory_of(pid_, std::as_writable_bytes(std::span(&value, 1)), at(page)));
    return value;
  }

 private:
  [[noreturn]] void live(int socket) {
    char deed = 0;
    while (recv(socket, &deed, 1, 0) == 1) {
      switch (deed) {
        case 'm': munmap(pages_, kPageSize); break;
        case 'f': {
          const int file = memfd_create("other", MFD_CLOEXEC);
          if (ftruncate(file, kPageSize) != 0) _exit(3);
          mmap(pages_, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0);
          break;
        }
        case 'r':
          mmap(pages_, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
          break;
        case 'p': mprotect(pages_, kPageSize, PROT_READ); break;
        case 'k':  // a child that writes: the page is copied for it
          if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pages_[8] = std::byte{0x77};
            pause();
          }
          break;
        case 'e': {
          char name[] = "sleep", seconds[] = "60";
          char* const words[] = {name, seconds, nullptr};
          execv("/bin/sleep", words);
          _exit(4);
        }
        case 'x': _exit(0);
        default: break;
      }
      if (send(socket, &deed, 1, MSG_NOSIGNAL) != 1) break;
    }
    _exit(0);
  }

  std::byte* pages_;
  std::byte* argument_;
  pid_t pid_ = -1;
  host::Descriptor socket_;
};

class RemoteDma : public FrontFixture {
 protected:
  static constexpr board::Bdf kEdu = board::Bdf(0, 3, 0);
  static constexpr u64 kIova = 0x100000;

  board::BoardConfig config() const override {
    board::BoardConfig c = FrontFixture::config();
    c.devices[0].kind = board::DeviceKind::Edu;
    return c;
  }
  void SetUp() override {
    child_ = std::make_unique<Child>();
    FrontFixture::SetUp();
    s_ = connect();
    s_->task = wire::task_of(static_cast<u32>(child_->pid()), static_cast<u32>(child_->pid()));
    s_->answer = [this](Message& q) { return answer(q); };
    iommu_ = *s_->open("/dev/iommu");
    device_ = *s_->open("/dev/vfio/devices/vfio0");
    uapi::VfioBindIommufd bind{};
    bind.argsz = sizeof bind;
    bind.iommufd = 5;
    ASSERT_TRUE(ioctl(device_, uapi::kVfioDeviceBindIommufd, bind));
    uapi::IommuIoasAlloc alloc{.size = sizeof alloc, .flags = 0, .out_ioas_id = 0};
    ASSERT_TRUE(ioctl(iommu_, uapi::kIommuIoasAlloc, alloc));
    ioas_ = alloc.out_ioas_id;
    uapi::VfioAttachIommufdPt attach{};
    attach.argsz = sizeof attach;
    attach.pt_id = ioas_;
    ASSERT_TRUE(ioctl(device_, uapi::kVfioDeviceAttachIommufdPt, attach));
    // Bus master on, by a trapped access to its configuration.
    constexpr u64 kCommand = vfio::VfioFile::kRegions + (u64{7} << vfio::VfioFile::kRegionShift) + 4;
    const auto command = s_->call({.op = static_cast<u32>(Call::RegionRead), .a = device_, .b = 2, .c = kCommand});
    ASSERT_TRUE(command);
    ASSERT_TRUE(s_->call({.op = static_cast<u32>(Call::RegionWrite),
                          .a = device_,
                          .b = 2,
                          .c = kCommand,
                          .d = command->head.a | 4 | 2}));
    registers_ = board_->device(kEdu)->bar_address(0);
  }

  virtual Result<wire::Reply> answer(Message& q) {
    wire::Reply reply;
    if (q.head.op == static_cast<u32>(Question::Descriptor)) {
      reply.a = iommu_;
      return reply;
    }
    if (q.head.op != static_cast<u32>(Question::Resolve)) return s_->usual(q);
    reply.b = q.head.b;
    reply.c = static_cast<u64>(Piece::Remote);
    return reply;
  }
  // With the structure in the program's memory.
  template <class T>
  Result<void> ioctl(u64 handle, u32 cmd, T& arg) {
    const auto bytes = std::as_writable_bytes(std::span(&arg, 1));
    TRY(host::write_memory_of(child_->pid(), child_->argument(), bytes));
    TRY(s_->call({.op = static_cast<u32>(Call::Ioctl), .a = handle, .b = cmd, .c = child_->argument()}));
    return host::read_memory_of(child_->pid(), bytes, child_->argument());
  }
  Result<void> map(u64 va, u64 length, u64 iova) {
    uapi::IommuIoasMap map{};
    map.size = sizeof map;
    map.flags = uapi::iommu_map::kFixedIova | uapi::iommu_map::kReadable | uapi::iommu_map::kWriteable;
    map.ioas_id = ioas_;
    map.user_va = va;
    map.length = length;
    map.iova = iova;
    return ioctl(iommu_, uapi::kIommuIoasMap, map);
  }
  // One transfer of 8 bytes between the device's buffer and `iova`.
  void transfer(u64 iova, bool to_memory) {
    constexpr u64 kBuffer = board::Edu::kBufferAt;
    board_->mmio_write(Phys(registers_ + 0x80), Width::W64, to_memory ? kBuffer : iova);
    board_->mmio_write(Phys(registers_ + 0x88), Width::W64, to_memory ? iova : kBuffer);
    board_->mmio_write(Phys(registers_ + 0x90), Width::W64, 8);
    board_->mmio_write(Phys(registers_ + 0x98), Width::W64, to_memory ? 3 : 1);
    for (int i = 0; i < 1000 && (board_->mmio_read(Phys(registers_ + 0x98), Width::W64) & 1) != 0; ++i) {
      board_->step_for(1'000'000);
    }
    ASSERT_EQ(board_->mmio_read(Phys(registers_ + 0x98), Width::W64) & 1, 0U);
  }
  u64 faults() { return board_->memory().foreign_faults(); }

  std::unique_ptr<Child> child_;
  std::unique_ptr<Supervisor> s_;
  u64 iommu_ = 0, device_ = 0, registers_ = 0;
  u32 ioas_ = 0;
};

constexpr u64 kInitial = 0x1111111111111111;

TEST_F(RemoteDma, ReachesPrivateMemoryBothWays) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  EXPECT_EQ(board_->memory().foreign(), 1U) << "one bank for a mapping";
  transfer(kIova + kPageSize, false);  // into the device
  transfer(kIova + 3 * kPageSize, true);
  EXPECT_EQ(child_->word(3), kInitial);
  // What the program writes now is what the device sees.
  const u64 fresh = 0x0123456789abcdef;
  ASSERT_TRUE(host::write_memory_of(child_->pid(), child_->at(1), std::as_bytes(std::span(&fresh, 1))));
  transfer(kIova + kPageSize, false);
  transfer(kIova, true);
  EXPECT_EQ(child_->word(0), fresh);
  EXPECT_EQ(faults(), 0U);
  uapi::IommuIoasUnmap unmap{};
  unmap.size = sizeof unmap;
  unmap.ioas_id = ioas_;
  unmap.iova = kIova;
  unmap.length = kBytes;
  ASSERT_TRUE(ioctl(iommu_, uapi::kIommuIoasUnmap, unmap));
  EXPECT_EQ(board_->memory().foreign(), 0U);
}

// The machine's state as a tree: who has which device, and what it is attached to.
TEST_F(RemoteDma, TheStatusTellsOfContextsAndOwners) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  const auto other = s_->open("/dev/iommu");
  const auto said = s_->call({.op = static_cast<u32>(Call::Status)});
  ASSERT_TRUE(said);
  const auto tree = nlohmann::json::parse(
      std::string_view(reinterpret_cast<const char*>(said->payload.data()), said->payload.size()));
  ASSERT_EQ(tree["contexts"].size(), 2U) << tree.dump(1);
  const auto& context = tree["contexts"][0];
  EXPECT_EQ(context["ioas"], nlohmann::json::parse(R"([{"id":2,"areas":1,"bytes":16384}])")) << tree.dump(1);
  EXPECT_EQ(context["devices"][0]["function"], "0000:00:03.0");
  EXPECT_EQ(context["devices"][0]["hwpt"], context["hwpts"][0]["id"]);
  EXPECT_EQ(context["hwpts"][0]["automatic"], true);
  EXPECT_TRUE(tree["contexts"][1]["ioas"].empty());
  ASSERT_EQ(tree["domains"].size(), 1U);
  EXPECT_EQ(tree["domains"][0]["mapped_bytes"], kBytes);
  EXPECT_EQ(tree["domains"][0]["devices"], 1);
  for (const auto& device : tree["devices"]) {
    if (device["function"] != "0000:00:03.0") continue;
    EXPECT_EQ(device["owner"], context["number"]);
    EXPECT_EQ(device["ownership"], "owned");
  }
  ASSERT_TRUE(s_->close(*other));
  const auto after = s_->call({.op = static_cast<u32>(Call::Status)});
  EXPECT_EQ(nlohmann::json::parse(std::string_view(reinterpret_cast<const char*>(after->payload.data()),
                                                   after->payload.size()))["contexts"]
                .size(),
            1U);
}

// A page that is gone is a transfer that fails, and no more.
TEST_F(RemoteDma, AfterMunmapTransfersFailAndOthersGoOn) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  transfer(kIova + kPageSize, false);
  ASSERT_TRUE(child_->tell('m'));
  transfer(kIova, true);
  EXPECT_EQ(faults(), 1U);
  transfer(kIova, false);
  EXPECT_EQ(faults(), 2U);
  transfer(kIova + 2 * kPageSize, true);
  EXPECT_EQ(faults(), 2U);
  EXPECT_EQ(child_->word(2), kInitial);
}

// Linux's device would go on with the page that was there; nobody here can, and must not touch the other one.
TEST_F(RemoteDma, WhatReplacedThePageIsNotTouched) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  ASSERT_TRUE(child_->tell('f'));
  transfer(kIova, true);
  EXPECT_EQ(faults(), 1U);
  EXPECT_EQ(child_->word(0), 0U);
}

// Fresh anonymous memory at the old address cannot be told from the old one.
TEST_F(RemoteDma, FreshAnonymousMemoryTakesThePlace) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  transfer(kIova + kPageSize, false);
  ASSERT_TRUE(child_->tell('r'));
  transfer(kIova, true);
  EXPECT_EQ(faults(), 0U);
  EXPECT_EQ(child_->word(0), kInitial);
}

// Pages stay pinned as writable as they were.
TEST_F(RemoteDma, LaterProtectionIsNoneAgainstDevices) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  const u64 fresh = 0x2222222222222222;
  ASSERT_TRUE(host::write_memory_of(child_->pid(), child_->at(1), std::as_bytes(std::span(&fresh, 1))));
  transfer(kIova + kPageSize, false);
  ASSERT_TRUE(child_->tell('p'));
  transfer(kIova, true);
  EXPECT_EQ(faults(), 0U);
  EXPECT_EQ(child_->word(0), fresh);
}

// After a fork the pages are the parent's.
TEST_F(RemoteDma, AForkLeavesDevicesWithTheParent) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  const u64 fresh = 0x3333333333333333;
  ASSERT_TRUE(host::write_memory_of(child_->pid(), child_->at(1), std::as_bytes(std::span(&fresh, 1))));
  transfer(kIova + kPageSize, false);
  ASSERT_TRUE(child_->tell('k'));
  transfer(kIova, true);
  EXPECT_EQ(child_->word(0), fresh);
}

TEST_F(RemoteDma, AfterExitTransfersFail) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  EXPECT_FALSE(child_->tell('x'));
  transfer(kIova, true);
  EXPECT_EQ(faults(), 1U);
}

// The number of the process is the same; its memory is another one's.
TEST_F(RemoteDma, AfterExecTransfersFailAndTheProcessIsAnother) {
  ASSERT_TRUE(map(child_->at(0), kBytes, kIova));
  EXPECT_FALSE(child_->tell('e'));
  transfer(kIova, true);
  EXPECT_EQ(faults(), 1U);
}

// What the supervisor opened for us counts, if it is what it says.
TEST_F(RemoteDma, MemoryOpenedByOthersIsTaken) {
  const std::string path = "/proc/" + std::to_string(child_->pid()) + "/mem";
  const auto adopted = host::RemoteProcess::adopt(child_->pid(), host::Descriptor(open(path.c_str(), O_RDWR)));
  ASSERT_TRUE(adopted);
  u64 word = 0;
  EXPECT_TRUE((*adopted)->read(child_->at(2), std::as_writable_bytes(std::span(&word, 1))));
  EXPECT_EQ(word, kInitial);
  EXPECT_FALSE((*adopted)->read(0, std::as_writable_bytes(std::span(&word, 1))));
  EXPECT_EQ(host::RemoteProcess::adopt(child_->pid(), host::Descriptor(open("/dev/zero", O_RDWR))).error(),
            Errno::Einval);
  EXPECT_EQ(host::RemoteProcess::adopt(getpid(), host::Descriptor(open(path.c_str(), O_RDWR))).error(), Errno::Einval);
  EXPECT_EQ(host::RemoteProcess::adopt(child_->pid(), host::Descriptor(open(path.c_str(), O_RDONLY))).error(),
            Errno::Einval);
  EXPECT_EQ(host::RemoteProcess::open(0x7ffffff0).error(), Errno::Enoent);
}

// Many small mappings are as many banks.
TEST_F(RemoteDma, ThousandsOfMappings) {
  constexpr u64 kMany = 10'000;
  for (u64 i = 0; i < kMany; ++i) ASSERT_TRUE(map(child_->at(i % kPages), kPageSize, kIova + i * kPageSize));
  EXPECT_EQ(board_->memory().foreign(), kMany);
  transfer(kIova + 1 * kPageSize, false);
  transfer(kIova + (kMany - 1) * kPageSize, true);
  EXPECT_EQ(faults(), 0U);
  uapi::IommuIoasUnmap unmap{};
  unmap.size = sizeof unmap;
  unmap.ioas_id = ioas_;
  unmap.length = ~u64{0};
  ASSERT_TRUE(ioctl(iommu_, uapi::kIommuIoasUnmap, unmap));
  EXPECT_EQ(board_->memory().foreign(), 0U);
}

}  // namespace
}  // namespace perdure::process
