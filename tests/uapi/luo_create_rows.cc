// /dev/liveupdate: one opener, numbers, sessions by name (uapi.md 1 and 4; kho-luo 2.10 and 3).
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/uapi/luo.h"

namespace perdure::uapi_test::luo {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

// --- the node -------------------------------------------------------------------------------------------------------

UAPI_TEST("1 /dev/liveupdate", SecondOpenIsEbusy) {
  const Fd first = t.open(kNode);
  CHECK_ERRNO(t.sys.open(kNode), Errno::Ebusy);
}

UAPI_TEST("1 /dev/liveupdate", OpensAgainAfterTheLastClose) {
  t.open(kNode).reset();
  t.open(kNode).reset();
}

UAPI_TEST("1 /dev/liveupdate", SessionsDoNotNeedTheDevice) {
  const Fd session = create(t);
  CHECK_EQ(name_of(t, session), t.name());
  const Fd again = t.open(kNode);
  CHECK_ERRNO(create(t, again, t.name()), Errno::Eexist);
}

UAPI_PROGRAM_TEST("1 /dev/liveupdate", ReadOnlyOpenIsEnough) {
  t.open(kNode).reset();
  const Fd device(t.sys, ::open(kNode, O_RDONLY | O_CLOEXEC));
  REQUIRE(device);
  CHECK_OK(create(t, device, t.name()));
}

UAPI_PROGRAM_TEST("1 /dev/liveupdate", ADuplicateKeepsItOpen) {
  Fd device = t.open(kNode);
  Fd copy(t.sys, ::dup(device.number()));
  REQUIRE(copy);
  device.reset();
  CHECK_ERRNO(t.sys.open(kNode), Errno::Ebusy);
  CHECK_OK(create(t, copy, t.name()));
  copy.reset();
  t.open(kNode).reset();
}

UAPI_PROGRAM_TEST("1 /dev/liveupdate", AChildKeepsItOpen) {
  Fd device = t.open(kNode);
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    char byte = 0;
    close(ends[1]);
    _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);  // until the parent is done
  }
  close(ends[0]);
  device.reset();
  CHECK_ERRNO(t.sys.open(kNode), Errno::Ebusy);
  close(ends[1]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_EQ(status, 0);
  t.open(kNode).reset();
}

// --- numbers
// ----------------------------------------------------------------------------------------------------------

UAPI_TEST("4 dispatch", NumbersBeyondTheDevicesAreEinval) {
  const Fd device = t.open(kNode);
  LiveupdateSession call = named(t.name());
  const UserMemory memory;
  for (const u32 cmd : {0xba02U, 0xba03U, 0xbaffU, kLiveupdateSessionPreserveFd, kLiveupdateSessionGetName}) {
    CHECK_ERRNO(t.ioctl(device, cmd, call), Errno::Einval);
    CHECK_ERRNO(t.ioctl_at(device, cmd, memory.beyond()), Errno::Einval);  // nothing is read for it
  }
}

UAPI_TEST("4 dispatch", NumbersOutsideASessionsAreEinval) {
  const Fd session = create(t);
  LiveupdateGetName call;
  call.size = sizeof call;
  const UserMemory memory;
  for (const u32 cmd : {kLiveupdateCreateSession, kLiveupdateRetrieveSession, 0xba3fU, 0xba44U, 0xbaffU}) {
    CHECK_ERRNO(t.ioctl(session, cmd, call), Errno::Einval);
    CHECK_ERRNO(t.ioctl_at(session, cmd, memory.beyond()), Errno::Einval);
  }
}

// Interception tells calls by the upper bits of their numbers, so those of other types are not all its own.
UAPI_TEST("4 dispatch", SizeOrDirectionBitsAreEnottyAfterEfault) {
  const Fd device = t.open(kNode);
  const Fd session = MUST(create(t, device, t.name()));
  const UserMemory memory;
  LiveupdateSession create_call = named(t.name("2"));
  LiveupdateGetName name_call;
  name_call.size = sizeof name_call;
  for (const u32 bits : {0x40000000U, 0x80480000U, 0xc0480000U}) {
    CHECK_ERRNO(t.ioctl(device, kLiveupdateCreateSession | bits, create_call), Errno::Enotty);
    CHECK_ERRNO(t.ioctl_at(device, kLiveupdateCreateSession | bits, memory.beyond()), Errno::Efault);
    CHECK_ERRNO(t.ioctl(session, kLiveupdateSessionGetName | bits, name_call), Errno::Enotty);
    CHECK_ERRNO(t.ioctl_at(session, kLiveupdateSessionGetName | bits, memory.beyond()), Errno::Efault);
  }
}

// --- CREATE_SESSION
// ---------------------------------------------------------------------------------------------------

UAPI_TEST("4 CREATE_SESSION", SizeRule) {
  const Fd device = t.open(kNode);
  check_size_rule(t, device, kLiveupdateCreateSession, named(t.name()));
  // Nothing of all that made a session.
  LiveupdateSession call = named(t.name());
  MUST(call_with_zero_tail(t, device, kLiveupdateCreateSession, call));
  CHECK_EQ(name_of(t, Fd(t.sys, call.fd)), t.name());
}

UAPI_TEST("4 CREATE_SESSION", EmptyNameIsEinval) {
  const Fd device = t.open(kNode);
  CHECK_ERRNO(create(t, device, ""), Errno::Einval);
}

UAPI_TEST("4 CREATE_SESSION", UnterminatedNameIsEinval) {
  const Fd device = t.open(kNode);
  CHECK_ERRNO(create(t, device, std::string(kLiveupdateNameLength, 'x')), Errno::Einval);
}

UAPI_TEST("4 CREATE_SESSION", NamesOf63Bytes) {
  const Fd device = t.open(kNode);
  const std::string name(kLiveupdateNameLength - 1, 'x');
  const Fd session = MUST(create(t, device, name));
  CHECK_EQ(name_of(t, session), name);
}

UAPI_TEST("4 CREATE_SESSION", NamesOfAnyBytes) {
  const Fd device = t.open(kNode);
  for (const std::string name : {"/", "a/../b\n", "\xff\xfe\x01", " ", "%s%n"}) {
    const Fd session = MUST(create(t, device, name));
    CHECK_EQ(name_of(t, session), name);
  }
}

UAPI_TEST("4 CREATE_SESSION", DuplicateNameIsEexist) {
  const Fd device = t.open(kNode);
  Fd session = MUST(create(t, device, t.name()));
  CHECK_ERRNO(create(t, device, t.name()), Errno::Eexist);
  session.reset();
  CHECK_OK(create(t, device, t.name()));
}

// More than a block of the list holds (51).
UAPI_TEST("4 CREATE_SESSION", ManySessions) {
  const Fd device = t.open(kNode);
  constexpr unsigned kMany = 120;
  std::vector<Fd> sessions;
  sessions.reserve(kMany);
  for (unsigned i = 0; i < kMany; ++i) sessions.push_back(MUST(create(t, device, t.name(std::to_string(i)))));
  for (unsigned i = 0; i < kMany; ++i) {
    CHECK_EQ(name_of(t, sessions[i]), t.name(std::to_string(i)));
    CHECK_ERRNO(create(t, device, t.name(std::to_string(i))), Errno::Eexist);
  }
}

UAPI_TEST("4 CREATE_SESSION", WhenTheAnswerFaultsThereIsNoSession) {
  const Fd device = t.open(kNode);
  CHECK_ERRNO(answer_faults(t, device, kLiveupdateCreateSession, named(t.name())), Errno::Efault);
  CHECK_OK(create(t, device, t.name()));
}

UAPI_PROGRAM_TEST("4 CREATE_SESSION", DescriptorIsClosedAtExec) {
  const Fd session = create(t);
  CHECK_EQ(fcntl(session.number(), F_GETFD), FD_CLOEXEC);
}

// The lowest free number, as every new descriptor.
UAPI_PROGRAM_TEST("4 CREATE_SESSION", DescriptorIsTheLowestFreeNumber) {
  const Fd device = t.open(kNode);
  const int free_number = ::dup(device.number());
  REQUIRE(free_number >= 0);
  close(free_number);
  const Fd session = MUST(create(t, device, t.name()));
  CHECK_EQ(session.number(), free_number);
}

// The descriptor is reserved before the name is looked at.
UAPI_PROGRAM_TEST("4 CREATE_SESSION", NoDescriptorLeftIsEmfileBeforeTheName) {
  const Fd device = t.open(kNode);
  rlimit limit = {};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = static_cast<rlim_t>(device.number()) + 1;
  // Every number below is in use from now on.
  std::vector<Fd> rest;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  for (int fd = 0; (fd = ::dup(device.number())) >= 0;) rest.emplace_back(t.sys, fd);
  CHECK_ERRNO(create(t, device, t.name()), Errno::Emfile);
  CHECK_ERRNO(create(t, device, ""), Errno::Emfile);
  CHECK_ERRNO(retrieve(t, device, "nobody"), Errno::Emfile);
  limit.rlim_cur = before;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK_OK(create(t, device, t.name()));  // there was none
}

// --- RETRIEVE_SESSION
// -------------------------------------------------------------------------------------------------

UAPI_TEST("4 RETRIEVE_SESSION", SizeRule) {
  const Fd device = t.open(kNode);
  check_size_rule(t, device, kLiveupdateRetrieveSession, named("nobody"));
}

UAPI_TEST("4 RETRIEVE_SESSION", UnknownNameIsEnoent) {
  const Fd device = t.open(kNode);
  CHECK_ERRNO(retrieve(t, device, "nobody"), Errno::Enoent);
  CHECK_ERRNO(retrieve(t, device, ""), Errno::Enoent);
  CHECK_ERRNO(retrieve(t, device, std::string(kLiveupdateNameLength, 'x')), Errno::Enoent);
}

UAPI_TEST("4 RETRIEVE_SESSION", OutgoingSessionsAreNotFound) {
  const Fd device = t.open(kNode);
  const Fd session = MUST(create(t, device, t.name()));
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Enoent);
}

UAPI_STAGED_TEST("4 RETRIEVE_SESSION", ByTheNameThatItHad, hand_over) {
  const Fd device = t.open(kNode);
  LiveupdateSession call = named(t.name());
  MUST(call_with_zero_tail(t, device, kLiveupdateRetrieveSession, call));
  const Fd session(t.sys, call.fd);
  CHECK_EQ(name_of(t, session), t.name());
}

UAPI_STAGED_TEST("4 RETRIEVE_SESSION", TwiceIsEinvalAndAfterItsEndEnoent, hand_over) {
  const Fd device = t.open(kNode);
  Fd session = MUST(retrieve(t, device, t.name()));
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Einval);
  MUST(finish(t, session));
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Einval);  // still held
  session.reset();
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Enoent);
}

UAPI_STAGED_TEST("4 RETRIEVE_SESSION", ItsNameIsFreeForANewSession, hand_over) {
  const Fd device = t.open(kNode);
  const Fd outgoing = MUST(create(t, device, t.name()));
  const Fd incoming = MUST(retrieve(t, device, t.name()));
  CHECK_ERRNO(retrieve_fd(t, outgoing, 1), Errno::Einval);
  CHECK_OK(retrieve_fd(t, incoming, 1));
}

UAPI_STAGED_TEST("4 RETRIEVE_SESSION", WhenTheAnswerFaultsTheSessionIsOver, hand_over) {
  const Fd device = t.open(kNode);
  CHECK_ERRNO(answer_faults(t, device, kLiveupdateRetrieveSession, named(t.name())), Errno::Efault);
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Enoent);
}

// --- GET_NAME
// ---------------------------------------------------------------------------------------------------------

UAPI_TEST("4 GET_NAME", SizeRule) {
  const Fd session = create(t);
  LiveupdateGetName call;
  call.size = sizeof call;
  check_size_rule(t, session, kLiveupdateSessionGetName, call);
  MUST(call_with_zero_tail(t, session, kLiveupdateSessionGetName, call));
  CHECK_EQ(std::string(call.name), t.name());
}

UAPI_TEST("4 GET_NAME", ReservedIsEinval) {
  const Fd session = create(t);
  for (const u32 reserved : {1U, 0x80000000U}) {
    LiveupdateGetName call;
    call.size = sizeof call;
    call.reserved = reserved;
    CHECK_ERRNO(t.ioctl(session, kLiveupdateSessionGetName, call), Errno::Einval);
  }
}

UAPI_TEST("4 GET_NAME", AnswerThatFaultsIsEfault) {
  const Fd session = create(t);
  LiveupdateGetName call;
  call.size = sizeof call;
  CHECK_ERRNO(answer_faults(t, session, kLiveupdateSessionGetName, call), Errno::Efault);
  CHECK_EQ(name_of(t, session), t.name());
}

UAPI_STAGED_TEST("4 GET_NAME", OfARetrievedAndOfAFinishedSession, hand_over) {
  const Fd session = retrieve(t);
  CHECK_EQ(name_of(t, session), t.name());
  MUST(finish(t, session));
  CHECK_EQ(name_of(t, session), t.name());
}

}  // namespace
}  // namespace perdure::uapi_test::luo
