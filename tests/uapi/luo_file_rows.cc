// Sessions: PRESERVE_FD, RETRIEVE_FD, FINISH and what closing means (uapi.md 4; kho-luo 2.5, 2.7, 2.10).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/uapi/luo.h"
#include "tests/uapi/process.h"

namespace perdure::uapi_test::luo {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

constexpr u64 kToken = 1;

// --- PRESERVE_FD
// ------------------------------------------------------------------------------------------------------

UAPI_TEST("4 PRESERVE_FD", SizeRule) {
  const Fd session = create(t);
  const Fd memory = memfd(t);
  LiveupdatePreserveFd call{.size = sizeof call, .fd = memory.number(), .token = kToken};
  check_size_rule(t, session, kLiveupdateSessionPreserveFd, call);
  // Nothing of all that preserved it.
  CHECK_OK(call_with_zero_tail(t, session, kLiveupdateSessionPreserveFd, call));
}

UAPI_TEST("4 PRESERVE_FD", AnyTokenOncePerSession) {
  const Fd session = create(t), other = create(t, "other");
  for (const u64 token : {u64{0}, u64{1}, u64{1} << 63, ~u64{0}}) {
    const Fd a = memfd(t), b = memfd(t), c = memfd(t);
    CHECK_OK(preserve(t, session, a.number(), token));
    CHECK_ERRNO(preserve(t, session, b.number(), token), Errno::Eexist);
    CHECK_OK(preserve(t, other, c.number(), token));
  }
}

// The token is looked at before the descriptor.
UAPI_TEST("4 PRESERVE_FD", UsedTokenIsEexistWhateverTheDescriptor) {
  const Fd session = create(t);
  const Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  CHECK_ERRNO(preserve(t, session, -1, kToken), Errno::Eexist);
  CHECK_ERRNO(preserve(t, session, memory.number(), kToken), Errno::Eexist);
}

UAPI_TEST("4 PRESERVE_FD", BadDescriptorIsEbadf) {
  const Fd session = create(t);
  Fd memory = memfd(t);
  const s32 closed = memory.number();
  memory.reset();
  for (const s32 fd : {-1, closed, 0x7fffffff}) CHECK_ERRNO(preserve(t, session, fd, kToken), Errno::Ebadf);
  const Fd good = memfd(t);
  CHECK_OK(preserve(t, session, good.number(), kToken));  // the token is free
}

UAPI_TEST("4 PRESERVE_FD", FilesThatNobodyHandlesAreEnoent) {
  const Fd device = t.open(kNode);
  const Fd session = MUST(create(t, device, t.name()));
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  CHECK_ERRNO(preserve(t, session, event.number(), kToken), Errno::Enoent);
  CHECK_ERRNO(preserve(t, session, device.number(), kToken), Errno::Enoent);
  CHECK_ERRNO(preserve(t, session, session.number(), kToken), Errno::Enoent);
}

UAPI_PROGRAM_TEST("4 PRESERVE_FD", PipesSocketsAndNodesAreEnoent) {
  const Fd session = create(t);
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const Fd reader(t.sys, ends[0]), writer(t.sys, ends[1]);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  const Fd one(t.sys, ends[0]), two(t.sys, ends[1]);
  const Fd null(t.sys, ::open("/dev/null", O_RDWR | O_CLOEXEC));
  const Fd directory(t.sys, ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (const Fd* fd : {&reader, &writer, &one, &two, &null, &directory})
    CHECK_ERRNO(preserve(t, session, fd->number(), kToken), Errno::Enoent);
}

UAPI_PROGRAM_TEST("4 PRESERVE_FD", PathOnlyDescriptorIsEbadf) {
  const Fd session = create(t);
  const Fd path(t.sys, ::open("/dev/null", O_PATH | O_CLOEXEC));
  REQUIRE(path);
  CHECK_ERRNO(preserve(t, session, path.number(), kToken), Errno::Ebadf);
}

// A file with a name in its file system is somebody else's, too; without one it is as good as a memfd (kho-luo 4.1).
UAPI_PROGRAM_TEST("4 PRESERVE_FD", TmpfsFilesOnceTheyHaveNoName) {
  const Fd session = create(t);
  char path[] = "/dev/shm/uapi-test-XXXXXX";
  const Fd file(t.sys, mkstemp(path));
  if (!file) Case::skip("/dev/shm is not writable");
  CHECK_EQ(ftruncate(file.number(), kBytes), 0);
  CHECK_ERRNO(preserve(t, session, file.number(), kToken), Errno::Enoent);
  REQUIRE(unlink(path) == 0);
  CHECK_OK(preserve(t, session, file.number(), kToken));
}

UAPI_PROGRAM_TEST("4 PRESERVE_FD", HugePagesAreEnoent) {
  const Fd session = create(t);
  const Fd memory(t.sys, memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
  if (!memory) Case::skip("no huge pages here");
  CHECK_ERRNO(preserve(t, session, memory.number(), kToken), Errno::Enoent);
}

UAPI_TEST("4 PRESERVE_FD", OneSessionAtATimeHasAFile) {
  const Fd session = create(t), other = create(t, "other");
  const Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  CHECK_ERRNO(preserve(t, session, memory.number(), kToken + 1), Errno::Ebusy);
  CHECK_ERRNO(preserve(t, other, memory.number(), kToken), Errno::Ebusy);
}

// The inode counts, not the open file.
UAPI_PROGRAM_TEST("4 PRESERVE_FD", DuplicatesAndOtherOpensAreTheSameFile) {
  const Fd session = create(t), other = create(t, "other");
  const Fd memory = memfd(t);
  const Fd copy(t.sys, ::dup(memory.number()));
  const Fd again(t.sys, ::open(("/proc/self/fd/" + std::to_string(memory.number())).c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(copy && again);
  MUST(preserve(t, session, memory.number(), kToken));
  CHECK_ERRNO(preserve(t, other, copy.number(), kToken), Errno::Ebusy);
  CHECK_ERRNO(preserve(t, other, again.number(), kToken), Errno::Ebusy);
}

UAPI_TEST("4 PRESERVE_FD", WhenTheAnswerFaultsItIsPreservedAllTheSame) {
  const Fd session = create(t);
  const Fd memory = memfd(t);
  const LiveupdatePreserveFd call{.size = sizeof call, .fd = memory.number(), .token = kToken};
  CHECK_ERRNO(answer_faults(t, session, kLiveupdateSessionPreserveFd, call), Errno::Efault);
  CHECK_ERRNO(preserve(t, session, memory.number(), kToken), Errno::Eexist);
  CHECK_ERRNO(preserve(t, session, memory.number(), kToken + 1), Errno::Ebusy);
}

// More than a block of a session's list holds (63).
UAPI_TEST("4 PRESERVE_FD", ManyFiles) {
  const Fd session = create(t);
  constexpr u64 kMany = 150;
  std::vector<Fd> files;
  files.reserve(kMany);
  for (u64 token = 0; token < kMany; ++token) {
    files.push_back(memfd(t, kPageSize));
    MUST(preserve(t, session, files.back().number(), token));
  }
  for (u64 token = 0; token < kMany; ++token) CHECK_ERRNO(preserve(t, session, -1, token), Errno::Eexist);
}

UAPI_STAGED_TEST("4 PRESERVE_FD", IntoARetrievedSessionIsEinval, hand_over) {
  const Fd session = retrieve(t);
  const Fd memory = memfd(t);
  CHECK_ERRNO(preserve(t, session, memory.number(), 2), Errno::Einval);
  // Before the size is looked at.
  LiveupdatePreserveFd call{.size = 0, .fd = -1, .token = 2};
  CHECK_ERRNO(t.ioctl(session, kLiveupdateSessionPreserveFd, call), Errno::Einval);
}

UAPI_STAGED_TEST("4 PRESERVE_FD", ARetrievedFileOnlyAfterFinish, hand_over) {
  const Fd incoming = retrieve(t);
  const Fd memory = MUST(retrieve_fd(t, incoming, kToken));
  const Fd outgoing = create(t, "next");
  CHECK_ERRNO(preserve(t, outgoing, memory.number(), kToken), Errno::Ebusy);
  MUST(finish(t, incoming));
  CHECK_OK(preserve(t, outgoing, memory.number(), kToken));
}

// --- RETRIEVE_FD
// ------------------------------------------------------------------------------------------------------

UAPI_TEST("4 RETRIEVE_FD", FromAnOutgoingSessionIsEinval) {
  const Fd session = create(t);
  const Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  CHECK_ERRNO(retrieve_fd(t, session, kToken), Errno::Einval);
  LiveupdateRetrieveFd call{.size = 0, .fd = -1, .token = kToken};
  CHECK_ERRNO(t.ioctl(session, kLiveupdateSessionRetrieveFd, call), Errno::Einval);
}

UAPI_STAGED_TEST("4 RETRIEVE_FD", SizeRule, hand_over) {
  const Fd session = retrieve(t);
  LiveupdateRetrieveFd call{.size = sizeof call, .fd = -1, .token = kToken};
  check_size_rule(t, session, kLiveupdateSessionRetrieveFd, call);
  MUST(call_with_zero_tail(t, session, kLiveupdateSessionRetrieveFd, call));
  const Fd memory(t.sys, call.fd);
  CHECK_EQ(MUST(t.sys.file_size(memory.number())), kBytes);
}

UAPI_STAGED_TEST("4 RETRIEVE_FD", UnknownTokenIsEnoent, hand_over) {
  const Fd session = retrieve(t);
  for (const u64 token : {u64{0}, u64{2}, ~u64{0}}) CHECK_ERRNO(retrieve_fd(t, session, token), Errno::Enoent);
  CHECK_OK(retrieve_fd(t, session, kToken));
}

UAPI_STAGED_TEST("4 RETRIEVE_FD", TwiceIsTheSameFileUnderAnotherNumber, hand_over) {
  const Fd session = retrieve(t);
  const Fd one = MUST(retrieve_fd(t, session, kToken)), two = MUST(retrieve_fd(t, session, kToken));
  CHECK(one.number() != two.number());
  CHECK_EQ(MUST(t.sys.memory_id(one.number())), MUST(t.sys.memory_id(two.number())));
  if (t.program) {
    // The same open file: one position.
    CHECK_EQ(lseek(one.number(), 4096, SEEK_SET), 4096);
    CHECK_EQ(lseek(two.number(), 0, SEEK_CUR), 4096);
    CHECK_EQ(fcntl(two.number(), F_GETFD), FD_CLOEXEC);
  }
}

UAPI_STAGED_TEST("4 RETRIEVE_FD", WhenTheAnswerFaultsItCanBeHadAgain, hand_over) {
  const Fd session = retrieve(t);
  const LiveupdateRetrieveFd call{.size = sizeof call, .fd = -1, .token = kToken};
  CHECK_ERRNO(answer_faults(t, session, kLiveupdateSessionRetrieveFd, call), Errno::Efault);
  CHECK_OK(retrieve_fd(t, session, kToken));
}

UAPI_STAGED_TEST("4 RETRIEVE_FD", AfterFinishIsEnoent, hand_over) {
  const Fd session = retrieve(t);
  CHECK_OK(retrieve_fd(t, session, kToken));
  MUST(finish(t, session));
  CHECK_ERRNO(retrieve_fd(t, session, kToken), Errno::Enoent);
}

// --- FINISH
// -----------------------------------------------------------------------------------------------------------

UAPI_TEST("4 FINISH", OfAnOutgoingSessionIsEinval) {
  const Fd session = create(t);
  CHECK_ERRNO(finish(t, session), Errno::Einval);
  LiveupdateFinish call{.size = 0, .reserved = 0};
  CHECK_ERRNO(t.ioctl(session, kLiveupdateSessionFinish, call), Errno::Einval);
}

UAPI_STAGED_TEST("4 FINISH", SizeRule, hand_over) {
  const Fd session = retrieve(t);
  LiveupdateFinish call{.size = sizeof call, .reserved = 0};
  check_size_rule(t, session, kLiveupdateSessionFinish, call);
  CHECK_OK(retrieve_fd(t, session, kToken));  // nothing of that finished it
  CHECK_OK(call_with_zero_tail(t, session, kLiveupdateSessionFinish, call));
}

UAPI_STAGED_TEST("4 FINISH", ReservedIsEinval, hand_over) {
  const Fd session = retrieve(t);
  for (const u32 reserved : {1U, 0x80000000U}) CHECK_ERRNO(finish(t, session, reserved), Errno::Einval);
  CHECK_OK(retrieve_fd(t, session, kToken));
}

UAPI_STAGED_TEST("4 FINISH", TwiceIsDone, hand_over) {
  const Fd session = retrieve(t);
  CHECK_OK(finish(t, session));
  CHECK_OK(finish(t, session));
}

UAPI_STAGED_TEST("4 FINISH", WhenTheAnswerFaultsItIsFinishedAllTheSame, hand_over) {
  const Fd session = retrieve(t);
  const LiveupdateFinish call{.size = sizeof call, .reserved = 0};
  CHECK_ERRNO(answer_faults(t, session, kLiveupdateSessionFinish, call), Errno::Efault);
  CHECK_ERRNO(retrieve_fd(t, session, kToken), Errno::Enoent);
}

UAPI_STAGED_TEST("4 FINISH", RetrievedFilesLiveOn, hand_over) {
  Fd session = retrieve(t);
  const Fd memory = MUST(retrieve_fd(t, session, kToken));
  MUST(finish(t, session));
  session.reset();
  const Mapped mapped(t, memory);
  mapped.word(0) = 1;
  CHECK_EQ(mapped.word(0), 1U);
  CHECK_OK(t.sys.ftruncate(memory.number(), 2 * kBytes));
}

// --- closing
// ----------------------------------------------------------------------------------------------------------

UAPI_TEST("4 close", AnOutgoingSessionUnpreservesAll) {
  Fd session = create(t);
  const Fd other = create(t, "other");
  const Fd a = memfd(t), b = memfd(t);
  MUST(preserve(t, session, a.number(), 1));
  MUST(preserve(t, session, b.number(), 2));
  session.reset();
  CHECK_OK(preserve(t, other, b.number(), 1));
  CHECK_OK(preserve(t, other, a.number(), 2));
}

// The session holds the file, whoever closes it.
UAPI_TEST("4 close", APreservedFilesDescriptorMayGo) {
  const Fd session = create(t);
  Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  memory.reset();
  const Fd another = memfd(t);
  CHECK_ERRNO(preserve(t, session, another.number(), kToken), Errno::Eexist);
}

UAPI_PROGRAM_TEST("4 close", ADuplicateKeepsTheSession) {
  Fd session = create(t);
  const Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  Fd copy(t.sys, ::dup(session.number()));
  REQUIRE(copy);
  session.reset();
  const Fd other = create(t, "other");
  CHECK_ERRNO(preserve(t, other, memory.number(), kToken), Errno::Ebusy);
  copy.reset();
  CHECK_OK(preserve(t, other, memory.number(), kToken));
}

// The last of its holders is a descriptor on its way through a socket.
UAPI_PROGRAM_TEST("4 close", ASessionInASocketIsHeld) {
  Fd session = create(t);
  const Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  Channel channel(t);
  channel.send(t, session.number());
  session.reset();
  const Fd other = create(t, "other");
  CHECK_ERRNO(preserve(t, other, memory.number(), kToken), Errno::Ebusy);
  Fd received = channel.receive(t);
  CHECK_EQ(name_of(t, received), t.name());
  received.reset();
  CHECK_OK(preserve(t, other, memory.number(), kToken));
}

// A program that is killed closes what it holds.
UAPI_PROGRAM_TEST("4 close", AKilledProgramsSessionIsGone) {
  t.open(kNode).reset();
  const Fd memory = memfd(t);
  Child child(t, [&](Child& self) {
    const Fd session = create(t);
    MUST(preserve(t, session, memory.number(), kToken));
    self.ready();
    self.wait_for_ever();
  });
  child.wait_until_ready(t);
  {
    const Fd other = create(t, "other");
    CHECK_ERRNO(preserve(t, other, memory.number(), kToken), Errno::Ebusy);
  }
  child.kill(t);
  const Fd session = create(t);  // the name is free
  CHECK_OK(preserve(t, session, memory.number(), kToken));
}

UAPI_STAGED_TEST("4 close", OfARetrievedSessionFinishesIt, hand_over) {
  Fd session = retrieve(t);
  const Fd memory = MUST(retrieve_fd(t, session, kToken));
  session.reset();
  const Fd device = t.open(kNode);
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Enoent);
  const Fd next = MUST(create(t, device, t.name("next")));
  CHECK_OK(preserve(t, next, memory.number(), kToken));
}

UAPI_STAGED_TEST("4 close", UnretrievedFilesGoWithTheirSession, hand_over) {
  Fd session = retrieve(t);
  session.reset();
  const Fd device = t.open(kNode);
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Enoent);
}

}  // namespace
}  // namespace perdure::uapi_test::luo
