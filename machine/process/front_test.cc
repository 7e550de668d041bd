// Front ends of a kernel, honest ones and others.
#include <sys/uio.h>

#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/uapi/iommufd_test.h"
#include "core/uapi/vfio.h"
#include "machine/process/front_fixture.h"

namespace perdure::process {
namespace {

using uapi::IommuIoasAlloc;
using uapi::LiveupdateSession;
using wire::Call;
using wire::Question;

class Front : public FrontFixture {
 protected:
  static LiveupdateSession named(const char* name) {
    LiveupdateSession s{.size = sizeof s, .fd = -1, .name = {}};
    std::strncpy(s.name, name, sizeof s.name - 1);
    return s;
  }
  static u32 op(Question q) { return static_cast<u32>(q); }
  static u32 op(Call c) { return static_cast<u32>(c); }
};

// Where the host lets the kernel process read and write the program, nothing is asked.
TEST_F(Front, MemoryIsAccessedDirectly) {
  auto s = connect();
  ASSERT_TRUE(s->front());
  const u64 iommu = *s->open("/dev/iommu");
  IommuIoasAlloc alloc{.size = sizeof alloc, .flags = 0, .out_ioas_id = 0};
  ASSERT_TRUE(s->ioctl(iommu, uapi::kIommuIoasAlloc, &alloc));
  EXPECT_EQ(alloc.out_ioas_id, 1U);
  EXPECT_TRUE(s->questions.empty());
  EXPECT_EQ(s->ioctl(iommu, 0x3bff, &alloc).error(), Errno::Enotty);
  EXPECT_TRUE(s->close(iommu));
  EXPECT_EQ(s->ioctl(iommu, uapi::kIommuIoasAlloc, &alloc).error(), Errno::Ebadf);
}

// uapi §6: a kernel as it is built has none; machines give it to theirs (kernel_options.h).
TEST_F(Front, TestOperationsAreNotThereUnlessTheyAreAskedFor) {
  auto s = connect();
  ASSERT_TRUE(s->front());
  const u64 iommu = *s->open("/dev/iommu");
  uapi::IommuTestCmd cmd{.size = sizeof cmd, .op = uapi::iommu_test::kSetTempMemoryLimit};
  cmd.set(uapi::iommu_test::MemoryLimit{65536});
  EXPECT_EQ(s->ioctl(iommu, uapi::kIommuTestCmd, &cmd).error(), Errno::Enotty);
}

// uapi §2.1, step 6: what cannot be written back is undone.
TEST_F(Front, APageThatEndsOrIsReadOnlyIsEfaultAndUndone) {
  auto s = connect();
  const u64 iommu = *s->open("/dev/iommu");
  auto* const pages =
      static_cast<std::byte*>(mmap(nullptr, 2 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  munmap(pages + kPageSize, kPageSize);
  const IommuIoasAlloc alloc{.size = sizeof alloc, .flags = 0, .out_ioas_id = 0};
  // Half of the structure is on the page that is not there.
  std::memcpy(pages + kPageSize - 8, &alloc, 8);
  EXPECT_EQ(s->ioctl(iommu, uapi::kIommuIoasAlloc, pages + kPageSize - 8).error(), Errno::Efault);
  std::memcpy(pages, &alloc, sizeof alloc);
  ASSERT_EQ(mprotect(pages, kPageSize, PROT_READ), 0);
  EXPECT_EQ(s->ioctl(iommu, uapi::kIommuIoasAlloc, pages).error(), Errno::Efault);
  ASSERT_EQ(mprotect(pages, kPageSize, PROT_READ | PROT_WRITE), 0);
  ASSERT_TRUE(s->ioctl(iommu, uapi::kIommuIoasAlloc, pages));
  IommuIoasAlloc done{};
  std::memcpy(&done, pages, sizeof done);
  EXPECT_EQ(done.out_ioas_id, 1U) << "a failed one left its id taken";
  EXPECT_TRUE(s->questions.empty());
  munmap(pages, kPageSize);
}

// Whose process is not known, or must not be touched, is asked.
TEST_F(Front, WithoutAProcessMemoryIsAskedFor) {
  auto s = connect();
  s->task = 0;
  IommuIoasAlloc theirs{.size = sizeof theirs, .flags = 0, .out_ioas_id = 0};
  constexpr u64 kAt = 0x1234560;  // an address of nobody here
  s->answer = [&](Message& q) -> Result<wire::Reply> {
    wire::Reply reply;
    const u64 into = q.head.a - kAt;
    if (q.head.op == op(Question::CopyIn)) {
      if (into + q.head.b > sizeof theirs) return fail(Errno::Efault);
      const auto bytes = std::as_bytes(std::span(&theirs, 1)).subspan(into, q.head.b);
      reply.payload.assign(bytes.begin(), bytes.end());
    } else if (q.head.op == op(Question::CopyOut)) {
      if (into + q.payload.size() > sizeof theirs) return fail(Errno::Efault);
      std::memcpy(reinterpret_cast<std::byte*>(&theirs) + into, q.payload.data(), q.payload.size());
    }
    return reply;
  };
  const u64 iommu = *s->open("/dev/iommu");
  Header ioctl{.op = op(Call::Ioctl), .a = iommu, .b = uapi::kIommuIoasAlloc, .c = kAt};
  ASSERT_TRUE(s->call(ioctl));
  EXPECT_EQ(theirs.out_ioas_id, 1U);
  ioctl.c = kAt + 16;
  EXPECT_EQ(s->call(ioctl).error(), Errno::Efault);
}

TEST_F(Front, ANewDescriptorHasTheNumberThatTheSupervisorGaveIt) {
  auto s = connect();
  const u64 lu = *s->open("/dev/liveupdate");
  LiveupdateSession session = named("one");
  ASSERT_TRUE(s->ioctl(lu, uapi::kLiveupdateCreateSession, &session));
  EXPECT_EQ(session.fd, Supervisor::kFirstFd);
  ASSERT_EQ(s->installed.size(), 1U);
  EXPECT_EQ(s->installed[0].c, wire::kCloseOnExec);
  EXPECT_EQ(s->installed[0].task, s->task);
  // By its handle it is what the program asked for.
  uapi::LiveupdateGetName name{.size = sizeof name, .reserved = 0, .name = {}};
  ASSERT_TRUE(s->ioctl(s->installed[0].b, uapi::kLiveupdateSessionGetName, &name));
  EXPECT_STREQ(name.name, "one");
}

// Programs name descriptors in structures; the supervisor knows which file of the kernel one is.
TEST_F(Front, DescriptorsAreFilesOfTheKernelOrOfTheHost) {
  auto s = connect();
  const u64 lu = *s->open("/dev/liveupdate");
  LiveupdateSession session = named("one");
  ASSERT_TRUE(s->ioctl(lu, uapi::kLiveupdateCreateSession, &session));
  const u64 handle = s->installed[0].b;
  const int memory = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(memory, 4096), 0);
  s->answer = [&](Message& q) -> Result<wire::Reply> {
    if (q.head.op != op(Question::Descriptor)) return s->usual(q);
    wire::Reply reply;
    reply.a = q.head.a == 7 ? wire::kNoHandle : handle;
    if (q.head.a == 7) reply.fd = memory;
    return reply;
  };
  uapi::LiveupdatePreserveFd preserve{.size = sizeof preserve, .fd = 7, .token = 1};
  EXPECT_TRUE(s->ioctl(handle, uapi::kLiveupdateSessionPreserveFd, &preserve));
  preserve = {.size = sizeof preserve, .fd = 8, .token = 2};
  EXPECT_EQ(s->ioctl(handle, uapi::kLiveupdateSessionPreserveFd, &preserve).error(), Errno::Enoent)
      << "a session is no file that can be preserved";
  ::close(memory);
}

TEST_F(Front, ADescriptorThatCannotBeGivenIsUndone) {
  auto s = connect();
  const u64 lu = *s->open("/dev/liveupdate");
  for (const Question refused : {Question::MayInstall, Question::Install}) {
    SCOPED_TRACE(op(refused));
    s->answer = [&](Message& q) -> Result<wire::Reply> {
      if (q.head.op == op(refused)) return fail(Errno::Emfile);
      return s->usual(q);
    };
    LiveupdateSession session = named("one");
    EXPECT_EQ(s->ioctl(lu, uapi::kLiveupdateCreateSession, &session).error(), Errno::Emfile);
  }
  s->answer = {};
  LiveupdateSession session = named("one");
  EXPECT_TRUE(s->ioctl(lu, uapi::kLiveupdateCreateSession, &session)) << "a session stayed behind";
}

TEST_F(Front, ConnectionsOfOneFrontShareItsHandlesAndOthersDoNot) {
  auto first = connect();
  const u64 id = *first->front();
  const u64 lu = *first->open("/dev/liveupdate");
  auto second = connect();
  EXPECT_EQ(*second->front(id), id);
  auto other = connect();
  EXPECT_NE(*other->front(), id);

  LiveupdateSession session = named("one");
  EXPECT_EQ(other->ioctl(lu, uapi::kLiveupdateCreateSession, &session).error(), Errno::Ebadf);
  EXPECT_EQ(other->close(lu).error(), Errno::Ebadf);
  EXPECT_TRUE(second->ioctl(lu, uapi::kLiveupdateCreateSession, &session));
  // One of two connections goes: nothing is closed.
  hang_up(first, 0);
  EXPECT_EQ(other->open("/dev/liveupdate").error(), Errno::Ebusy);
  LiveupdateSession again = named("two");
  EXPECT_TRUE(second->ioctl(lu, uapi::kLiveupdateCreateSession, &again));
  // The last one does.
  hang_up(second, 1);
  const u64 theirs = *other->open("/dev/liveupdate");
  EXPECT_TRUE(other->ioctl(theirs, uapi::kLiveupdateCreateSession, &again)) << "its sessions were closed";
}

TEST_F(Front, NobodyJoinsAFrontThatIsNot) {
  auto s = connect();
  EXPECT_EQ(s->front(1).error(), Errno::Enoent);
  EXPECT_EQ(s->open("/dev/iommu").error(), Errno::Ekilled) << "and is served as none";
}

TEST_F(Front, AFrontIsChosenOnce) {
  auto s = connect();
  ASSERT_TRUE(s->open("/dev/iommu"));
  EXPECT_EQ(s->front().error(), Errno::Einval);
  EXPECT_TRUE(s->open("/dev/iommu"));
}

TEST_F(Front, HandlesAreNeverUsedTwice) {
  auto s = connect();
  const u64 first = *s->open("/dev/iommu");
  ASSERT_TRUE(s->close(first));
  EXPECT_NE(*s->open("/dev/iommu"), first);
  EXPECT_EQ(s->close(first).error(), Errno::Ebadf);
}

// A supervisor that dies while it is asked takes its programs with it, and nothing of theirs is left.
TEST_F(Front, DyingInTheMiddleOfAQuestionUndoesTheCall) {
  for (const Question last : {Question::MayInstall, Question::Install}) {
    SCOPED_TRACE(op(last));
    auto s = connect();
    const u64 lu = *s->open("/dev/liveupdate");
    s->answer = [&](Message& q) -> Result<wire::Reply> {
      if (q.head.op == op(last)) shutdown(s->channel().socket(), SHUT_RDWR);
      return s->usual(q);
    };
    LiveupdateSession session = named("one");
    EXPECT_FALSE(s->ioctl(lu, uapi::kLiveupdateCreateSession, &session));
    hang_up(s, serving_.size() - 1);
    auto next = connect();
    const u64 theirs = *next->open("/dev/liveupdate");
    EXPECT_TRUE(next->ioctl(theirs, uapi::kLiveupdateCreateSession, &session));
    hang_up(next, serving_.size() - 1);
  }
}

// Whoever breaks the protocol is cut off, and costs others nothing.
TEST_F(Front, MalformedAnswersEndTheConnection) {
  const auto answers = std::vector<std::pair<const char*, std::function<void(Supervisor&, Message&)>>>{
      {"no answer", [](Supervisor& s, Message&) { (void)s.channel().send({.op = op(Call::Open)}); }},
      {"too few bytes",
       [](Supervisor& s, Message& q) {
         const std::vector<std::byte> few(q.head.b - 1);
         (void)s.channel().send({.op = op(Question::Answer)}, few);
       }},
      {"a runt", [](Supervisor& s, Message&) { ASSERT_EQ(::send(s.channel().socket(), "x", 1, MSG_NOSIGNAL), 1); }},
      {"a length that is not there",
       [](Supervisor& s, Message&) {
         Header lie{.op = op(Question::Answer), .bytes = 4096};
         ASSERT_EQ(::send(s.channel().socket(), &lie, sizeof lie, MSG_NOSIGNAL), sizeof lie);
       }},
      {"a descriptor that is not there",
       [](Supervisor& s, Message&) {
         Header lie{.op = op(Question::Answer), .has_fd = 1};
         ASSERT_EQ(::send(s.channel().socket(), &lie, sizeof lie, MSG_NOSIGNAL), sizeof lie);
       }},
  };
  auto bystander = connect();
  for (const auto& [what, say] : answers) {
    SCOPED_TRACE(what);
    auto s = connect();
    const u64 iommu = *s->open("/dev/iommu");
    // By hand: task 0, so that memory is asked for.
    ASSERT_TRUE(s->channel().send({.op = op(Call::Ioctl), .a = iommu, .b = uapi::kIommuIoasAlloc, .c = 0x1000}));
    auto question = s->channel().receive();
    ASSERT_TRUE(question);
    ASSERT_EQ(question->head.op, op(Question::CopyIn));
    say(*s, *question);
    EXPECT_EQ(s->channel().receive().error(), Errno::Ekilled);
    EXPECT_TRUE(bystander->open("/dev/iommu"));
  }
}

TEST_F(Front, MalformedPiecesAndDescriptors) {
  const auto ask = [&](const char* what, std::function<wire::Reply(Message&)> reply, u32 cmd, void* arg) {
    SCOPED_TRACE(what);
    auto s = connect();
    const u64 iommu = *s->open("/dev/iommu");
    IommuIoasAlloc alloc{.size = sizeof alloc, .flags = 0, .out_ioas_id = 0};
    EXPECT_TRUE(s->ioctl(iommu, uapi::kIommuIoasAlloc, &alloc));
    // Pages are looked up once a device needs them.
    const u64 device = *s->open("/dev/vfio/devices/vfio0");
    uapi::VfioBindIommufd bind{};
    bind.argsz = sizeof bind;
    bind.iommufd = 5;
    s->answer = [&](Message&) -> Result<wire::Reply> { return wire::Reply{.a = iommu, .payload = {}, .own = {}}; };
    EXPECT_TRUE(s->ioctl(device, uapi::kVfioDeviceBindIommufd, &bind));
    uapi::VfioAttachIommufdPt attach{};
    attach.argsz = sizeof attach;
    attach.pt_id = alloc.out_ioas_id;
    EXPECT_TRUE(s->ioctl(device, uapi::kVfioDeviceAttachIommufdPt, &attach));
    s->answer = [&](Message& q) -> Result<wire::Reply> { return reply(q); };
    EXPECT_EQ(s->ioctl(iommu, cmd, arg).error(), Errno::Ekilled);
    hang_up(s, serving_.size() - 1);
  };
  uapi::IommuIoasMap map{};
  map.size = sizeof map;
  map.flags = uapi::iommu_map::kReadable;
  map.ioas_id = 1;
  map.user_va = 0x10000;
  map.length = kPageSize;
  const auto shared = static_cast<u64>(wire::Piece::Shared);
  ask(
      "a piece of nothing",
      [&](Message&) { return wire::Reply{.a = 0, .b = 0, .c = shared, .payload = {}, .own = {}}; }, uapi::kIommuIoasMap,
      &map);
  ask(
      "a piece that is too long",
      [&](Message& q) { return wire::Reply{.a = 0, .b = q.head.b + 1, .c = shared, .payload = {}, .own = {}}; },
      uapi::kIommuIoasMap, &map);
  ask(
      "shared memory without a descriptor",
      [&](Message& q) { return wire::Reply{.a = 0, .b = q.head.b, .c = shared, .payload = {}, .own = {}}; },
      uapi::kIommuIoasMap, &map);
  ask(
      "a piece of no kind",
      [&](Message& q) { return wire::Reply{.a = 0, .b = q.head.b, .c = 77, .payload = {}, .own = {}}; },
      uapi::kIommuIoasMap, &map);
  uapi::IommuIoasMapFile file{};
  file.size = sizeof file;
  file.flags = uapi::iommu_map::kReadable;
  file.ioas_id = 1;
  file.length = kPageSize;
  ask(
      "a host file without a descriptor",
      [&](Message&) { return wire::Reply{.a = wire::kNoHandle, .payload = {}, .own = {}}; }, uapi::kIommuIoasMapFile,
      &file);
}

TEST_F(Front, CallsThatAreNoneAreRefused) {
  auto s = connect();
  EXPECT_EQ(s->call({.op = 0}).error(), Errno::Enosys);
  EXPECT_EQ(s->call({.op = 99}).error(), Errno::Enosys);
  EXPECT_EQ(s->open("/dev/null").error(), Errno::Enoent);
  EXPECT_EQ(s->call({.op = op(Call::SysfsWrite)}).error(), Errno::Einval);
  EXPECT_EQ(s->call({.op = op(Call::Ioctl), .a = ~u64{0}}).error(), Errno::Ebadf);
  EXPECT_EQ(s->call({.op = op(Call::Poll), .a = 3}).error(), Errno::Ebadf);
}

// Trapped accesses carry their data; a device that is not bound has none.
TEST_F(Front, RegionAccessesOfOddSizesAreRefused) {
  auto s = connect();
  const u64 device = *s->open("/dev/vfio/devices/vfio0");
  for (const u64 bytes : {u64{0}, u64{3}, u64{16}, ~u64{0}}) {
    EXPECT_EQ(s->call({.op = op(Call::RegionRead), .a = device, .b = bytes}).error(), Errno::Einval) << bytes;
  }
  EXPECT_EQ(s->call({.op = op(Call::RegionRead), .a = device, .b = 4, .c = vfio::VfioFile::kRegions}).error(),
            Errno::Einval);
}

TEST_F(Front, DevicesAreListed) {
  auto s = connect();
  auto said = s->call({.op = op(Call::Devices)});
  ASSERT_TRUE(said);
  const auto all = nlohmann::json::parse(
      std::string_view(reinterpret_cast<const char*>(said->payload.data()), said->payload.size()));
  bool found = false;
  for (const auto& device : all) {
    if (device["bdf"] != "0000:00:03.0") continue;
    found = true;
    EXPECT_EQ(device["vfio"], 0);
    EXPECT_EQ(device["driver"], "vfio-pci");
    EXPECT_EQ(device["bars"].size(), 6U);
    EXPECT_GT(device["bars"][0]["size"].get<u64>(), 0U);
    EXPECT_EQ(device["bars"][0]["base"].get<u64>(), board_->device(kStreamer)->bar_address(0));
    EXPECT_TRUE(device["sriov"].is_null());
  }
  EXPECT_TRUE(found) << all.dump(1);
}

// --- the word before the jump ----------------------------------------------------------------------------------------

TEST_F(Front, RebootIsSaidOnTheEventChannelAndAwaited) {
  auto calls = connect();
  const u64 id = *calls->front();
  auto events = connect();
  ASSERT_TRUE(events->front(id));
  ASSERT_TRUE(events->call({.op = op(Call::Events)}));
  auto more = connect();
  ASSERT_TRUE(more->front(id));
  EXPECT_EQ(more->call({.op = op(Call::Events)}).error(), Errno::Ebusy);

  std::atomic<bool> answered = false;
  std::thread supervisor([&] {
    const auto event = events->channel().receive();
    ASSERT_TRUE(event);
    EXPECT_EQ(event->head.op, static_cast<u32>(wire::Event::Reboot));
    answered = true;
    wire::Reply reply;
    reply.a = event->head.a;
    EXPECT_TRUE(events->channel().reply(std::move(reply)));
  });
  EXPECT_EQ(server_->reboot(), 0U);
  EXPECT_TRUE(answered) << "the jump did not wait";
  supervisor.join();
}

// A front without an event channel is just cut; one that went is not waited for; one that says nothing costs its time.
TEST_F(Front, RebootWaitsForNobodyForEver) {
  auto none = connect();
  ASSERT_TRUE(none->front());
  auto gone = connect();
  ASSERT_TRUE(gone->front());
  ASSERT_TRUE(gone->call({.op = op(Call::Events)}));
  shutdown(gone->channel().socket(), SHUT_RDWR);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(server_->reboot(), 0U);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(wire::kRebootTimeoutMs));

  auto silent = connect();
  ASSERT_TRUE(silent->front());
  ASSERT_TRUE(silent->call({.op = op(Call::Events)}));
  // What it says instead of the answer is no answer.
  ASSERT_TRUE(silent->channel().send({.op = op(Question::Answer), .a = 77}));
  EXPECT_EQ(server_->reboot(std::chrono::milliseconds(50)), 1U);
}

}  // namespace
}  // namespace perdure::process
