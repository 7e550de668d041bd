// Who dies when (design §7): what becomes of programs, files and sessions around a jump, with devices at work all the
// time. Nothing here may cost a transfer unless the test says so.
#include <thread>

#include "machine/process/status.h"
#include "machine/process/syscall_server.h"
#include "machine/wire/program.h"
#include "tests/tenant.h"

namespace perdure::tool {
namespace {

using client::LiveUpdate;
using client::Memfd;
using client::Session;

class WhoDies : public TenantTest {
 protected:
  std::string status() { return process::status_json(rig.kernel()); }
};

// The program dies between freeze and jump, as it may at any time: its last closes are not delivered, nothing is
// unpreserved, detached or reset; the next kernel finds everything.
TEST_F(WhoDies, AfterTheFreezeNoLastCloseIsDelivered) {
  preserve_all();
  ASSERT_DONE(rig.kernel().kexec_load("b"));
  ASSERT_DONE(rig.kernel().live_update().audit());
  ASSERT_DONE(rig.kernel().luo().serialize());
  const u64 keys = rig.kernel().kho().outgoing_extent().blocks;
  for (Tenant& t : tenants) t.close();
  EXPECT_EQ(rig.kernel().kho().outgoing_extent().blocks, keys) << "a close unpreserved something";
  for (usize i = 0; i < 2; ++i) traffic.expect_running(i);
  EXPECT_EQ(rig.sys().open("/dev/liveupdate").error(), Errno::Ekilled);
  // The jump fails after all: now they are closed, and what nobody holds is given up.
  rig.kernel().luo().unfreeze_all();
  EXPECT_LT(rig.kernel().kho().outgoing_extent().blocks, keys);
}

// The same, and the jump takes place.
TEST_F(WhoDies, ProgramsThatEndedBeforeTheJumpAreMissedByNobody) {
  preserve_all();
  jump("b");
  // Nobody came yet: devices are at work all the same.
  expect_nothing_lost();
  for (Tenant& t : tenants) ASSERT_DONE(t.come_back());
  expect_nothing_lost();
}

// A name is any bytes but NUL (kho-luo §2): who lists sessions copes with those that are no text.
TEST_F(WhoDies, ASessionOfAnyNameIsListed) {
  const Session odd = *(*LiveUpdate::open(rig.sys())).create_session("\xff\xc0 odd \"\n");
  EXPECT_NE(status().find(" odd "), std::string::npos) << status();
}

// More than one message of the wire holds.
TEST_F(WhoDies, HoweverManySessionsAllAreListed) {
  constexpr u32 kSessions = 1000;
  const LiveUpdate lu = *LiveUpdate::open(rig.sys());
  std::vector<Session> sessions;
  sessions.reserve(kSessions);
  for (u32 i = 0; i < kSessions; ++i) sessions.push_back(*lu.create_session("session-" + std::to_string(i)));
  auto sockets = wire::socket_pair();
  ASSERT_TRUE(sockets);
  process::SyscallServer server(rig.kernel(), rig.machine());
  std::jthread serving([&] { server.serve(std::move(sockets->first)); });
  wire::ProgramSyscalls program(std::move(sockets->second));
  const Result<std::string> listed = program.status();
  ASSERT_TRUE(listed) << errno_name(listed.error());
  EXPECT_GT(listed->size(), wire::kMaxPayload);
  EXPECT_EQ(*listed, status());
  EXPECT_NE(listed->find(R"("session-999")"), std::string::npos);
}

// A session that nobody comes for stays held, is listed, and goes on to the next kernel with everything it holds.
TEST_F(WhoDies, NeverRetrievedIsHeldListedAndHandedOn) {
  preserve_all();
  jump("b");
  for (u32 hop = 0; hop < 3; ++hop) {
    SCOPED_TRACE(hop);
    EXPECT_NE(status().find(R"("name":"tenant-0","state":"waiting")"), std::string::npos) << status();
    // Held: for nobody but its session.
    EXPECT_EQ(rig.sys().open("/dev/vfio/devices/vfio0").error(), Errno::Ebusy);
    jump(hop % 2 == 0 ? "a" : "b");
  }
  expect_nothing_lost();
  for (Tenant& t : tenants) ASSERT_DONE(t.come_back());
  expect_nothing_lost();
  EXPECT_NE(status().find(R"("name":"tenant-0","state":"finished")"), std::string::npos) << status();
  for (Tenant& t : tenants) t.session = {};
  EXPECT_EQ(status().find("tenant-0"), std::string::npos) << "finished and closed";
}

// One session waits, the other is in the middle of its transfer: no jump, and the log names it.
TEST_F(WhoDies, InTheMiddleOfATransferRefusesTheNextJump) {
  preserve_all();
  jump("b");
  Tenant& t = tenants[1];
  const auto refused = [&](std::string_view step) {
    SCOPED_TRACE(step);
    ASSERT_DONE(rig.kernel().kexec_load("a"));
    rig.take_problems();
    EXPECT_EQ(rig.kernel().kexec().error(), Errno::Ebusy);
    said("session \"tenant-1\" is in the middle of a transfer");
    EXPECT_NE(status().find(R"("name":"tenant-1","state":"retrieved")"), std::string::npos) << status();
  };
  ASSERT_DONE(t.retrieve_session());
  refused("retrieved");
  ASSERT_DONE(t.retrieve_memory());
  ASSERT_DONE(t.retrieve_context());
  refused("memory and context are there");
  ASSERT_DONE(t.retrieve_device());
  ASSERT_DONE(t.take_over());
  refused("taken over, not finished");
  ASSERT_DONE(t.replace());
  refused("replaced, not finished");
  for (usize i = 0; i < 2; ++i) traffic.expect_running(i);
  ASSERT_DONE(t.session.finish());
  // Finished: what it holds is its own again and must be preserved anew; the other one is handed on.
  t.session = {};
  ASSERT_DONE(t.context.mark_preserve(t.hwpt, Tenant::kHwpt));
  ASSERT_DONE(t.preserve());
  jump("a");
  for (Tenant& each : tenants) ASSERT_DONE(each.come_back());
  expect_nothing_lost();
}

// Closing a retrieved session is finish; it gives up what the session held and never what hardware walks.
TEST_F(WhoDies, ClosingARetrievedSessionIsFinishAndFreesNoTableInUse) {
  preserve_all();
  jump("b");
  Tenant& t = tenants[0];
  ASSERT_DONE(t.retrieve_all());
  ASSERT_DONE(t.take_over());
  t.session = {};  // without finish
  EXPECT_EQ(status().find("tenant-0"), std::string::npos) << "it was finished";
  // Memory is used, so that a table that was freed would be somebody else's by now.
  std::vector<Memfd> others;
  for (int i = 0; i < 8; ++i) {
    others.push_back(*Memfd::create(rig.sys(), "other", u64{4} << 20));
    ASSERT_TRUE(rig.kernel().frames().alloc_zeroed(9).has_value());
  }
  rig.board().unit(0).drop_caches();
  expect_nothing_lost();
  // And goes on to be replaced and preserved like any other.
  ASSERT_DONE(t.replace());
  ASSERT_DONE(t.context.mark_preserve(t.hwpt, Tenant::kHwpt));
  ASSERT_DONE(t.preserve());
  others.clear();
  jump("a");
  for (Tenant& each : tenants) ASSERT_DONE(each.come_back());
  expect_nothing_lost();
}

// Closed with a device that nobody took over: finish is refused, the session stays and keeps the device at work; the
// next jump is refused, and says which.
TEST_F(WhoDies, ClosedBeforeItsDeviceWasTakenOverStaysAndRefusesTheJump) {
  preserve_all();
  jump("b");
  Tenant& t = tenants[0];
  ASSERT_DONE(t.retrieve_session());
  ASSERT_DONE(t.retrieve_memory());
  EXPECT_EQ(t.session.finish().error(), Errno::Ebusy);
  t.session = {};
  t.memory = {};
  EXPECT_NE(status().find(R"("name":"tenant-0","state":"stuck")"), std::string::npos) << status();
  rig.board().unit(0).drop_caches();
  expect_nothing_lost();
  ASSERT_DONE(rig.kernel().kexec_load("a"));
  rig.take_problems();
  EXPECT_EQ(rig.kernel().kexec().error(), Errno::Ebusy);
  said("session \"tenant-0\" was closed");
  expect_nothing_lost();
}

// Sessions of memory alone, for which no device waits.
TEST_F(WhoDies, MemoryThatNobodyComesForIsHandedOnAndIntact) {
  preserve_all();
  Memfd memory = *Memfd::create(rig.sys(), "notes", kPageSize);
  {
    const client::Mapping page = *memory.map(0, kPageSize);
    std::memcpy(page.at(), "still here", 11);
  }
  Session notes = *(*LiveUpdate::open(rig.sys())).create_session("notes");
  ASSERT_DONE(notes.preserve(memory.number(), 5));
  // One more, which its program takes back before the jump: it does not cross.
  {
    Memfd other = *Memfd::create(rig.sys(), "other", kPageSize);
    Session gone = *(*LiveUpdate::open(rig.sys())).create_session("gone");
    ASSERT_DONE(gone.preserve(other.number(), 5));
  }
  leave("b");
  notes.fd().release();
  memory.fd().release();
  arrive();
  jump("a");
  jump("b");
  const LiveUpdate lu = *LiveUpdate::open(rig.sys());
  EXPECT_EQ(lu.retrieve_session("gone").error(), Errno::Enoent);
  notes = *lu.retrieve_session("notes");
  memory = Memfd(*notes.retrieve(5));
  EXPECT_STREQ(reinterpret_cast<const char*>((*memory.map(0, kPageSize)).at()), "still here");
  ASSERT_DONE(notes.finish());
  notes = {};
  memory = {};
  expect_nothing_lost();
}

}  // namespace
}  // namespace perdure::tool
