// Memfds through an update: what comes back, and what may be done with them meanwhile (kho-luo 4).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/memfd.h"
#include "tests/uapi/luo.h"

namespace perdure::uapi_test::luo {
namespace {

constexpr u64 kToken = 1;

void keep(Case& t, Fd session, Fd memory) {
  t.keep(std::move(session));
  t.keep(std::move(memory));
}

// --- while preserved
// --------------------------------------------------------------------------------------------------

UAPI_TEST("4 memfd", ContentsMayChangeWhilePreserved) {
  const Fd session = create(t);
  const Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  const Mapped mapped(t, memory);
  mapped.word(kBytes - 8) = 7;
  CHECK_EQ(mapped.word(kBytes - 8), 7U);
  CHECK_EQ(MUST(t.sys.file_size(memory.number())), kBytes);
}

UAPI_TEST("4 memfd", SealedOnesArePreserved) {
  const Fd session = create(t);
  u64 token = 0;
  for (const u32 seals : {1U, 2U, 4U, 7U}) {
    const Fd memory = memfd(t);
    MUST(t.sys.add_seals(memory.number(), seals));
    CHECK_OK(preserve(t, session, memory.number(), token++));
  }
}

UAPI_PROGRAM_TEST("4 memfd", SizeIsItsOwnAgainAfterTheSession) {
  Fd session = create(t);
  const Fd memory = memfd(t);
  MUST(preserve(t, session, memory.number(), kToken));
  session.reset();
  CHECK_EQ(ftruncate(memory.number(), 2 * kBytes), 0);
  CHECK_EQ(fallocate(memory.number(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPageSize), 0);
}

// --- after the update
// ---------------------------------------------------------------------------------------------------

void with_contents(Case& t) {
  Fd session = create(t);
  Fd memory = memfd(t);
  const Mapped mapped(t, memory);
  for (u64 at = 0; at < kBytes / 2; at += kPageSize) mapped.word(at) = ~at;
  MUST(preserve(t, session, memory.number(), kToken));
  // What is written until the jump is carried over, too.
  for (u64 at = kBytes / 2; at < kBytes; at += 2 * kPageSize) mapped.word(at) = ~at;
  keep(t, std::move(session), std::move(memory));
}
UAPI_STAGED_TEST("4 memfd", ContentsAndHolesComeBack, with_contents) {
  const Fd session = retrieve(t);
  const Fd memory = MUST(retrieve_fd(t, session, kToken));
  CHECK_EQ(MUST(t.sys.file_size(memory.number())), kBytes);
  const Mapped mapped(t, memory);
  for (u64 at = 0; at < kBytes; at += kPageSize) {
    const bool hole = at >= kBytes / 2 && at % (2 * kPageSize) != 0;
    CHECK_EQ(mapped.word(at), hole ? u64{0} : ~at);
  }
}

void of_every_size(Case& t) {
  Fd session = create(t);
  u64 token = 0;
  for (const u64 bytes : {u64{0}, u64{1}, kPageSize - 1, kPageSize, kPageSize + 1, u64{5} << 20}) {
    Fd memory = memfd(t, bytes);
    MUST(preserve(t, session, memory.number(), token++));
    t.keep(std::move(memory));
  }
  t.keep(std::move(session));
}
UAPI_STAGED_TEST("4 memfd", SizesComeBackToTheByte, of_every_size) {
  const Fd session = retrieve(t);
  u64 token = 0;
  for (const u64 bytes : {u64{0}, u64{1}, kPageSize - 1, kPageSize, kPageSize + 1, u64{5} << 20}) {
    const Fd memory = MUST(retrieve_fd(t, session, token++));
    CHECK_EQ(MUST(t.sys.file_size(memory.number())), bytes);
  }
}

void with_seals(Case& t) {
  Fd session = create(t);
  u64 token = 0;
  for (const u32 seals : {0U, 2U, 6U, client::Memfd::kSealsForUpdate}) {
    Fd memory = memfd(t);
    MUST(t.sys.add_seals(memory.number(), seals));
    MUST(preserve(t, session, memory.number(), token++));
    t.keep(std::move(memory));
  }
  t.keep(std::move(session));
}
UAPI_STAGED_TEST("4 memfd", SealsComeBack, with_seals) {
  const Fd session = retrieve(t);
  u64 token = 0;
  for (const u32 seals : {0U, 2U, 6U, client::Memfd::kSealsForUpdate}) {
    const Fd memory = MUST(retrieve_fd(t, session, token++));
    CHECK_EQ(MUST(t.sys.seals(memory.number())), seals);
    if ((seals & 4) != 0) CHECK_ERRNO(t.sys.ftruncate(memory.number(), 2 * kBytes), Errno::Eperm);
  }
}

// Whatever it was opened for; closed at exec.
void at_a_position(Case& t) {
  Fd session = create(t);
  Fd memory = memfd(t);
  if (t.program) REQUIRE(lseek(memory.number(), 12345, SEEK_SET) == 12345);
  MUST(preserve(t, session, memory.number(), kToken));
  if (t.program) REQUIRE(lseek(memory.number(), 23456, SEEK_SET) == 23456);
  keep(t, std::move(session), std::move(memory));
}
UAPI_STAGED_TEST("4 memfd", PositionAtTheFreezeComesBack, at_a_position) {
  const Fd session = retrieve(t);
  const Fd memory = MUST(retrieve_fd(t, session, kToken));
  if (!t.program) return;  // positions are libc's there
  CHECK_EQ(lseek(memory.number(), 0, SEEK_CUR), 23456);
  CHECK_EQ(fcntl(memory.number(), F_GETFL) & O_ACCMODE, O_RDWR);
  CHECK_EQ(fcntl(memory.number(), F_GETFD), FD_CLOEXEC);
}

void out_of_order(Case& t) {
  Fd session = create(t);
  for (u64 token : {u64{9}, u64{0}, ~u64{0}, u64{3}}) {
    Fd memory = memfd(t);
    const Mapped mapped(t, memory);
    mapped.word(0) = token;
    MUST(preserve(t, session, memory.number(), token));
    t.keep(std::move(memory));
  }
  t.keep(std::move(session));
}
UAPI_STAGED_TEST("4 memfd", EachByItsTokenInAnyOrder, out_of_order) {
  const Fd session = retrieve(t);
  for (u64 token : {~u64{0}, u64{3}, u64{0}, u64{9}}) {
    const Fd memory = MUST(retrieve_fd(t, session, token));
    const Mapped mapped(t, memory);
    CHECK_EQ(mapped.word(0), token);
  }
}

// --- kexec
// ------------------------------------------------------------------------------------------------------------

void many_sessions(Case& t) {
  const Fd device = t.open(kNode);
  for (unsigned i = 0; i < 60; ++i) {  // more than a block of the list holds
    Fd session = MUST(create(t, device, t.name(std::to_string(i))));
    Fd memory = memfd(t, kPageSize);
    const Mapped mapped(t, memory, kPageSize);
    mapped.word(0) = i;
    MUST(preserve(t, session, memory.number(), i));
    keep(t, std::move(session), std::move(memory));
  }
}
UAPI_STAGED_TEST("4 kexec", AllSessionsArrive, many_sessions) {
  const Fd device = t.open(kNode);
  for (unsigned i = 60; i-- != 0;) {
    const Fd session = MUST(retrieve(t, device, t.name(std::to_string(i))));
    const Fd memory = MUST(retrieve_fd(t, session, i));
    const Mapped mapped(t, memory, kPageSize);
    CHECK_EQ(mapped.word(0), i);
  }
}

void empty_session(Case& t) {
  t.keep(create(t));
}
UAPI_STAGED_TEST("4 kexec", SessionsWithoutFilesArrive, empty_session) {
  const Fd session = retrieve(t);
  CHECK_ERRNO(retrieve_fd(t, session, 0), Errno::Enoent);
  CHECK_OK(finish(t, session));
}

void closed_before(Case& t) {
  {
    const Fd gone = create(t);
    const Fd memory = memfd(t);
    MUST(preserve(t, gone, memory.number(), kToken));
  }
  t.keep(create(t, "kept"));
}
UAPI_STAGED_TEST("4 kexec", SessionsThatWereClosedDoNot, closed_before) {
  const Fd device = t.open(kNode);
  CHECK_ERRNO(retrieve(t, device, t.name()), Errno::Enoent);
  CHECK_OK(retrieve(t, device, t.name("kept")));
}

void closed_descriptor(Case& t) {
  Fd session = create(t);
  {
    const Fd memory = memfd(t);
    const Mapped mapped(t, memory);
    mapped.word(0) = 42;
    MUST(preserve(t, session, memory.number(), kToken));
  }
  t.keep(std::move(session));
}
UAPI_STAGED_TEST("4 kexec", FilesThatOnlyTheirSessionHeldArrive, closed_descriptor) {
  const Fd session = retrieve(t);
  const Fd memory = MUST(retrieve_fd(t, session, kToken));
  const Mapped mapped(t, memory);
  CHECK_EQ(mapped.word(0), 42U);
}

}  // namespace
}  // namespace perdure::uapi_test::luo
