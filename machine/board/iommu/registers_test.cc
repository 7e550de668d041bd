// Access rules, GCMD/GSTS, events, protected memory, and what counts as a violation.
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

class Registers : public IommuTest {};

TEST_F(Registers, CapabilitiesAsQemuReportsThem) {
  IommuModelConfig c;
  c.mgaw = c.haw = 39;
  c.sagaw = 0b0010;
  c.coherent = false;
  c.snoop_control = false;
  c.interrupt_remap = false;
  start(c);
  EXPECT_EQ(model->read(0x00, 4), 0x10u);
  EXPECT_EQ(model->read(0x08, 8), 0x00D2008C22260206u);
  EXPECT_EQ(model->read(0x10, 8), 0x0000000000000F42u);
  c.mgaw = c.haw = 48;
  c.sagaw = 0b0110;
  c.snoop_control = true;
  start(c);
  EXPECT_EQ(model->read(0x08, 8), 0x00D2008C222F0606u);
  EXPECT_EQ(model->read(0x10, 8), 0xFC2u);
  c.snoop_control = false;
  c.interrupt_remap = true;
  c.extended_interrupts = false;
  c.caching_mode = true;
  c.dwd = c.drd = false;
  start(c);
  EXPECT_EQ(model->read(0x08, 8), 0x0012008C222F0686u);
  EXPECT_EQ(model->read(0x10, 8), 0xF00F4Au);
}

TEST_F(Registers, CapabilitiesBitByBit) {
  const auto cap = [&](const IommuModelConfig& c) { return c.cap(); };
  const auto ecap = [&](const IommuModelConfig& c) { return c.ecap(); };
  IommuModelConfig c;
  const u64 plain = cap(c);
  c.rwbf = c.plmr = c.phmr = c.esrtps = true;
  EXPECT_EQ(cap(c) ^ plain, 0x70u | u64{1} << 63);
  c = {};
  c.nfr = 256;
  EXPECT_EQ((cap(c) >> 40) & 0xFF, 255u);
  c = {};
  const u64 plain_ecap = ecap(c);
  EXPECT_EQ(plain_ecap, 0xF00FDBu);
  c.device_tlb = c.abort_mode = true;
  EXPECT_EQ(ecap(c) ^ plain_ecap, 0x4u | u64{1} << 52);
  c = {};
  c.scalable = true;
  EXPECT_EQ(ecap(c) ^ plain_ecap,
            u64{1} << 31 | u64{19} << 35 | u64{1} << 43 | u64{1} << 45 | u64{1} << 46 | u64{1} << 48);
}

TEST_F(Registers, WrongWidthIsAViolationAndDoesNothing) {
  start();
  model->write(0x18, 8, u64{1} << 31);  // GCMD with 64 bits
  EXPECT_EQ(gsts(), 0u);
  EXPECT_EQ(violations(ViolationKind::BadWidth), 1u);
  for (u64 offset : {0x38, 0x40, 0xA0, 0xA8, 0x18}) model->write(offset, 8, 0);
  EXPECT_EQ(violations(ViolationKind::BadWidth), 6u);
  EXPECT_EQ(model->read(0x18, 8), ~u64{0});
  EXPECT_EQ(model->read(0x08, 2), 0xFFFFu);
  EXPECT_EQ(model->read(0x0A, 4), 0xFFFF'FFFFu);  // not aligned
  EXPECT_EQ(model->read(0x0C, 8), ~u64{0});
  EXPECT_EQ(model->read(0x1000, 4), 0xFFFF'FFFFu);
  EXPECT_EQ(model->read(~u64{0} - 3, 4), 0xFFFF'FFFFu);
  EXPECT_EQ(violations(ViolationKind::BadWidth), 12u);
}

TEST_F(Registers, HalvesOfWideOnes) {
  start();
  EXPECT_EQ(model->read(0x08, 4), model->read(0x08, 8) & 0xFFFF'FFFF);
  EXPECT_EQ(model->read(0x0C, 4), model->read(0x08, 8) >> 32);
  model->write(0x24, 4, 0x12);
  model->write(0x20, 4, 0x3456'7400);
  EXPECT_EQ(model->read(0x20, 8), 0x12'3456'7400u);
  model->write(0xBC, 4, 0x1);
  model->write(0xB8, 4, 0x2000'080F);
  EXPECT_EQ(model->read(0xB8, 8), 0x1'2000'080Fu);
  expect_clean();
}

TEST_F(Registers, UnknownAndReadOnly) {
  start();
  EXPECT_EQ(model->read(0x64, 4), 0xFFFF'FFFFu);  // PMEN without PLMR, PHMR
  EXPECT_EQ(model->read(0xC0, 8), ~u64{0});       // page requests are not modelled
  model->write(0x400, 8, 1);
  EXPECT_EQ(violations(ViolationKind::UnknownRegister), 3u);
  model->write(0x08, 8, 0);
  model->write(0x1C, 4, u64{1} << 31);
  model->write(0x80, 8, 0);
  EXPECT_EQ(violations(ViolationKind::ReadOnlyWrite), 3u);
  IommuModelConfig c;
  c.queued = false;
  start(c);
  EXPECT_EQ(model->read(0x90, 8), ~u64{0});
}

// --- GCMD ---------------------------------------------------------------------------------------------------------

TEST_F(Registers, OneBitAtATime) {
  start();
  set_root(root);
  model->write(0x90, 8, kQueue);
  model->write(0x18, 4, kTe | kQie);
  EXPECT_EQ(violations(ViolationKind::GcmdManyBits), 1u);
  model->write(0x18, 4, kTe | kQie);
  EXPECT_EQ(violations(ViolationKind::GcmdNoChange), 1u);
}

TEST_F(Registers, ForgottenTeIsAGap) {
  start_translating();
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000);
  environment.clock = 5000;
  model->write(0x90, 8, kQueue);
  model->write(0x18, 4, kQie);  // states QIE alone
  EXPECT_EQ(gsts() & kTe, 0u);
  EXPECT_EQ(violations(ViolationKind::GcmdManyBits), 1u);
  EXPECT_EQ(read(kDevice, 0x1000).verdict, Verdict::Untranslated);
  EXPECT_EQ(write(kDevice, 0x1000).phys, 0x1000u);
  ASSERT_EQ(model->gaps().size(), 1u);
  EXPECT_EQ(model->gaps()[0].end_ns, 0u);
  environment.clock = 9000;
  gcmd(kTe, true);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  const DmaGap gap = model->gaps().at(0);
  EXPECT_GE(gap.begin_ns, 5000u);
  EXPECT_LT(gap.begin_ns, 5010u);
  EXPECT_GE(gap.end_ns, 9000u);
  EXPECT_EQ(gap.transfers, 2u);
  ASSERT_EQ(environment.switches.size(), 3u);
  EXPECT_TRUE(environment.switches[0].first);
  EXPECT_EQ(environment.switches[1], (std::pair<bool, u64>{false, gap.begin_ns}));
  EXPECT_EQ(environment.switches[2], (std::pair<bool, u64>{true, gap.end_ns}));
}

TEST_F(Registers, TeWithoutRoot) {
  start();
  gcmd(kTe, true);
  EXPECT_EQ(violations(ViolationKind::TeWithoutRoot), 1u);
  EXPECT_EQ(read(kDevice, 0).fault, 0x8);
}

TEST_F(Registers, UnsupportedCommands) {
  IommuModelConfig c;
  c.queued = false;
  c.interrupt_remap = false;
  start(c);
  for (u32 bit : {27, 26, 25, 24, 23, 28, 29}) model->write(0x18, 4, u64{1} << bit);
  EXPECT_EQ(violations(ViolationKind::GcmdUnsupported), 7u);
  EXPECT_EQ(gsts(), 0u);
}

TEST_F(Registers, CommandsTakeTheirTime) {
  IommuModelConfig c;
  c.delay = {4, 4};
  c.step_on_access = false;
  start(c);
  const auto steps_until = [&](u32 bit) {
    unsigned n = 0;
    for (; (gsts() & bit) == 0 && n < 50; ++n) model->step();
    return n;
  };
  model->write(0x20, 8, root);
  model->write(0x18, 4, kSrtp);
  EXPECT_EQ(steps_until(kSrtp), 5u);
  model->write(0x18, 4, kSrtp);
  EXPECT_EQ(gsts() & kSrtp, 0u);  // drops with the command
  EXPECT_EQ(steps_until(kSrtp), 5u);
  model->write(0x18, 4, kTe);
  EXPECT_EQ(read(kDevice, 0).verdict, Verdict::Untranslated);
  EXPECT_EQ(steps_until(kTe), 5u);
  EXPECT_EQ(gsts(), kTe | kSrtp);
  expect_clean();
  model->write(0x18, 4, kTe | kSrtp);
  model->write(0x18, 4, kTe | kQie);
  EXPECT_EQ(violations(ViolationKind::GcmdWhilePending), 1u);
}

TEST_F(Registers, InterruptBits) {
  start();
  model->write(0xB8, 8, 0x40'0000 | 0x800 | 7);
  gcmd(1 << 24, true);
  EXPECT_EQ(gsts(), 1u << 24);
  gcmd(1 << 25, true);
  gcmd(1 << 23, true);
  EXPECT_EQ(gsts(), 1u << 24 | 1u << 25 | 1u << 23);
  gcmd(1 << 25, false);
  EXPECT_EQ(gsts(), 1u << 24 | 1u << 23);
  expect_clean();
  model->write(0xB8, 8, 0x4000'0000);
  gcmd(1 << 24, true);
  EXPECT_EQ(violations(ViolationKind::IrtaNotRam), 1u);
}

TEST_F(Registers, QueueStateIsNotLostWithOtherCommands) {
  start_translating();
  start_queue();
  gcmd(1 << 23, true);
  EXPECT_EQ(gsts() & (kTe | kQie), kTe | kQie);
  EXPECT_TRUE(submit({}));
  expect_clean();
}

// --- translation mode -----------------------------------------------------------------------------------------------

TEST_F(Registers, TranslationModeIsFixedWhileEnabled) {
  IommuModelConfig c;
  c.abort_mode = true;
  start_translating(c);
  set_root(root);
  expect_clean();
  set_root(root, 3);
  EXPECT_EQ(violations(ViolationKind::TtmWhileEnabled), 1u);
}

TEST_F(Registers, ReservedModes) {
  start();
  set_root(root, 2);
  EXPECT_EQ(violations(ViolationKind::BadTtm), 1u);
  set_root(root, 1);
  EXPECT_EQ(violations(ViolationKind::BadTtm), 2u);  // no scalable mode
  set_root(root, 3);
  EXPECT_EQ(violations(ViolationKind::BadTtm), 3u);  // no abort mode
  gcmd(kTe, true);
  EXPECT_EQ(read(kDevice, 0).fault, 0x30);
}

TEST_F(Registers, AbortModeBlocksWithoutRecord) {
  IommuModelConfig c;
  c.abort_mode = true;
  start(c);
  set_root(0, 3);
  gcmd(kTe, true);
  const Translation t = write(kDevice, 0x1000);
  EXPECT_EQ(t.verdict, Verdict::Blocked);
  EXPECT_EQ(t.fault, 0);
  EXPECT_EQ(fsts(), 0u);
  expect_clean();
}

TEST_F(Registers, RootOutsideRam) {
  start();
  set_root(0x4000'0000);
  EXPECT_EQ(violations(ViolationKind::RootNotRam), 1u);
}

// --- register-based invalidation against the queue ------------------------------------------------------------------

TEST_F(Registers, NoRegisterInvalidationWhileQueued) {
  start_translating();
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000);
  read(kDevice, 0x1000);
  start_queue();
  model->write(0x28, 8, u64{5} << 61);
  model->write(config.iro + 8, 8, u64{9} << 60);
  EXPECT_EQ(violations(ViolationKind::RegisterInvalidationWhileQueued), 2u);
  EXPECT_EQ(model->read(0x28, 8) >> 63, 0u);
  map(top, 0x1000, 0xB000);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);  // nothing was flushed
}

TEST_F(Registers, ReservedGranularity) {
  start();
  model->write(0x28, 8, u64{1} << 63);
  model->write(config.iro + 8, 8, u64{1} << 63);
  EXPECT_EQ(violations(ViolationKind::BadRegisterInvalidation), 2u);
  EXPECT_EQ(model->read(0x28, 8) >> 63, 0u);
}

// Ignored: the granularity that was done is 0.
TEST_F(Registers, OrderBeyondTheLargest) {
  IommuModelConfig c;
  c.mamv = 9;
  start_translating(c);
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  map(top, 0x1000, 0xB000);
  model->write(config.iro, 8, 10);
  model->write(config.iro + 8, 8, u64{0xB} << 60 | u64{5} << 32);
  EXPECT_EQ(model->read(config.iro + 8, 8) >> 63, 0u);
  EXPECT_EQ(model->read(config.iro + 8, 8) >> 57 & 3, 0u);
  EXPECT_EQ(violations(ViolationKind::BadRegisterInvalidation), 1u);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  model->write(config.iro, 8, 9);
  model->write(config.iro + 8, 8, u64{0xB} << 60 | u64{5} << 32);
  EXPECT_EQ(model->read(config.iro + 8, 8) >> 57 & 3, 3u);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xB000u);
}

TEST_F(Registers, OneRegisterInvalidationAtATime) {
  IommuModelConfig c;
  c.delay = {3, 3};
  c.step_on_access = false;
  start(c);
  model->write(0x28, 8, u64{5} << 61);
  EXPECT_EQ(model->read(0x28, 8) >> 63, 1u);
  model->write(0x28, 8, u64{5} << 61);
  EXPECT_EQ(violations(ViolationKind::BadRegisterInvalidation), 1u);
  for (int i = 0; i < 4; ++i) model->step();
  EXPECT_EQ(model->read(0x28, 8) >> 63, 0u);
}

// --- events
// -----------------------------------------------------------------------------------------------------------

class Events : public IommuTest {
 protected:
  using Message = FakeEnvironment::Message;
  static constexpr u32 kIm = u32{1} << 31, kIp = u32{1} << 30;
  u32 fectl() { return static_cast<u32>(model->read(0x38, 4)); }
  void arm(u64 control) {
    model->write(control, 4, kIm);
    model->write(control + 4, 4, 0x4321);
    model->write(control + 8, 4, 0xFEE0'1000);
    model->write(control + 12, 4, 0x55);
    model->write(control, 4, 0);
  }
  const Message expected{0x55'FEE0'1000, 0x4321};
};

TEST_F(Events, MaskedAtReset) {
  start_translating();
  EXPECT_EQ(fectl(), kIm);
  read(kDevice, 0);
  EXPECT_EQ(fectl(), kIm | kIp);
  EXPECT_TRUE(environment.messages.empty());
}

TEST_F(Events, FaultSendsOneMessageUntilServed) {
  IommuModelConfig c;
  c.nfr = 4;
  start_translating(c);
  arm(0x38);
  read(kDevice, 0x1000);
  read(kDevice, 0x2000);
  EXPECT_EQ(environment.messages, (std::vector<Message>{expected}));
  clear_fault(0);
  read(kDevice, 0x3000);  // record 1 is still there
  EXPECT_EQ(environment.messages.size(), 1u);
  clear_fault(1);
  clear_fault(2);
  EXPECT_EQ(fsts() & 2, 0u);
  read(kDevice, 0x4000);
  EXPECT_EQ(environment.messages.size(), 2u);
  expect_clean();
}

TEST_F(Events, UnmaskingSendsWhatIsPending) {
  start_translating();
  arm(0x38);
  model->write(0x38, 4, kIm);
  read(kDevice, 0x1000);
  EXPECT_EQ(fectl(), kIm | kIp);
  EXPECT_TRUE(environment.messages.empty());
  model->write(0x38, 4, 0);
  EXPECT_EQ(environment.messages, (std::vector<Message>{expected}));
  EXPECT_EQ(fectl(), 0u);
}

TEST_F(Events, ServedWhileMaskedIsNotSent) {
  start_translating();
  arm(0x38);
  model->write(0x38, 4, kIm);
  read(kDevice, 0x1000);
  clear_fault();
  EXPECT_EQ(fectl(), kIm);
  model->write(0x38, 4, 0);
  EXPECT_TRUE(environment.messages.empty());
}

TEST_F(Events, PendingBitIsReadOnly) {
  start();
  model->write(0x38, 4, kIm | kIp);
  EXPECT_EQ(fectl(), kIm);
  model->write(0x38, 4, kIp);
  EXPECT_TRUE(environment.messages.empty());
}

TEST_F(Events, ProgrammingWhileUnmasked) {
  start();
  arm(0x38);
  expect_clean();
  model->write(0x3C, 4, 1);
  model->write(0x40, 4, 1);
  EXPECT_EQ(violations(ViolationKind::EventWhileUnmasked), 2u);
}

TEST_F(Events, QueueErrorIsAFaultEvent) {
  start();
  start_queue();
  arm(0x38);
  push(0xF, 0);
  ring();
  EXPECT_EQ(environment.messages.size(), 1u);
  model->write(0x34, 4, 0x10);  // not repaired: stops again, and says so again
  EXPECT_EQ(environment.messages.size(), 2u);
}

TEST_F(Events, OverflowAloneIsReported) {
  start_translating();
  read(kDevice, 0x1000);
  arm(0x38);
  EXPECT_EQ(environment.messages.size(), 1u);
  read(kDevice, 0x2000);
  EXPECT_EQ(fsts() & 1, 1u);
  EXPECT_EQ(environment.messages.size(), 1u);  // the record is not served yet
}

TEST_F(Events, Completion) {
  start();
  start_queue();
  push(0x15, 0);  // wait, IF
  ring();
  EXPECT_EQ(model->read(0x9C, 4), 1u);
  EXPECT_EQ(model->read(0xA0, 4), u64{kIm | kIp});
  arm(0xA0);
  EXPECT_EQ(environment.messages, (std::vector<Message>{expected}));
  push(0x15, 0);
  ring();
  EXPECT_EQ(environment.messages.size(), 1u);  // IWC is still set
  model->write(0x9C, 4, 1);
  EXPECT_EQ(model->read(0x9C, 4), 0u);
  push(0x15, 0);
  ring();
  EXPECT_EQ(environment.messages.size(), 2u);
  expect_clean();
}

TEST_F(Events, CompletionServedWhileMasked) {
  start();
  start_queue();
  push(0x15, 0);
  ring();
  model->write(0x9C, 4, 1);
  EXPECT_EQ(model->read(0xA0, 4), u64{kIm});
  arm(0xA0);
  EXPECT_TRUE(environment.messages.empty());
}

// --- protected memory
// ---------------------------------------------------------------------------------------------------

TEST_F(Registers, ProtectedMemory) {
  IommuModelConfig c;
  c.plmr = c.phmr = true;
  start(c);
  model->write(0x68, 4, 0x20'0000);
  model->write(0x6C, 4, 0x20'0000);
  model->write(0x70, 8, 0x1'0000'0000);
  model->write(0x78, 8, 0x1'0020'0000);
  EXPECT_TRUE(write(kDevice, 0x20'0000).ok());
  model->write(0x64, 4, u64{1} << 31);
  EXPECT_EQ(model->read(0x64, 4), u64{1} << 31 | 1);
  EXPECT_TRUE(write(kDevice, 0x1F'FFF8).ok());
  EXPECT_FALSE(write(kDevice, 0x20'0000).ok());
  EXPECT_FALSE(read(kDevice, 0x3F'FFF8).ok());
  EXPECT_TRUE(write(kDevice, 0x40'0000).ok());
  EXPECT_FALSE(write(kDevice, 0x1'003F'FFF8).ok());
  EXPECT_TRUE(write(kDevice, 0x1'0040'0000).ok());
  // A page table may lead there; a pass-through entry may not.
  set_root(root);
  gcmd(kTe, true);
  const u64 top = page();
  set_context(kDevice, top, 5);
  set_context(kSibling, 0, 1, 2, 0b1001);
  map(top, 0x1000, 0x20'0000);
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
  EXPECT_FALSE(write(kSibling, 0x20'0000).ok());
  model->write(0x64, 4, 0);
  EXPECT_TRUE(write(kSibling, 0x20'0000).ok());
  expect_clean();
}

}  // namespace
}  // namespace perdure::board::testing
