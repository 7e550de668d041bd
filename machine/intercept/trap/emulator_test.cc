// Every instruction is carried out twice from the same random state: by a thread of another process, one step of it, on
// ordinary memory; and by the emulator on a copy of that memory. Registers, flags, vectors and memory must be equal.
#include "machine/intercept/trap/emulator.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "machine/intercept/trap/ptrace_state.h"

namespace perdure::intercept {
namespace {

// Where no sanitizer has its shadow.
constexpr u64 kCodeAt = 0x2000'0000'0000;
constexpr u64 kDataAt = kCodeAt + 0x1000;
constexpr usize kDataBytes = 0x4000;
constexpr usize kWindow = 0x1000 + kDataBytes;

// One instruction each. rdi and rsi point into the data, rcx is 0 to 15, r9 a bit offset of either sign.
// clang-format off: it does not come to an end with this.
#define INSTRUCTIONS(X) \
  /* MOV */ \
  X("mov al, [rdi]") X("mov ah, [rdi+1]") X("mov sil, [rdi]") X("mov r9b, [rdi]") X("mov ax, [rdi]") \
  X("mov eax, [rdi]") X("mov rax, [rdi]") X("mov r15, [rdi+8*rcx-3]") X("mov rdi, [rdi]") X("mov edi, [rdi]") \
  X("mov [rdi], al") X("mov [rdi], bh") X("mov [rdi], dil") X("mov [rdi], r12w") X("mov [rdi], edx") \
  X("mov [rdi], r8") X("mov [rdi+4*rcx+0x100], r11d") X("mov byte ptr [rdi], 0x80") X("mov word ptr [rdi], 0x8123") \
  X("mov dword ptr [rdi], 0x81234567") X("mov qword ptr [rdi], -2") X("mov eax, [rip+0x1800]") \
  X("mov [rip+0x1801], rbx") X("mov dword ptr [rip+0x1802], 7") X("movabs eax, [0x200000001100]") \
  X("movabs [0x200000001108], al") X("movnti [rdi], eax") X("movnti [rdi], r14") X("xacquire lock xchg [rdi], eax") \
  /* extending */ \
  X("movzx eax, byte ptr [rdi]") X("movzx ax, byte ptr [rdi]") X("movzx r9, word ptr [rdi]") \
  X("movsx eax, byte ptr [rdi]") X("movsx ax, byte ptr [rdi]") X("movsx rdx, word ptr [rdi]") \
  X("movsxd rax, dword ptr [rdi]") X("movsx r10, byte ptr [rdi]") \
  /* two operands, memory on either side */ \
  X("add [rdi], al") X("add [rdi], ebx") X("add rdx, [rdi]") X("add word ptr [rdi], 0x7fff") \
  X("add byte ptr [rdi], -1") X("lock add dword ptr [rdi], 0x40") X("add qword ptr [rdi], -1") X("adc [rdi], r8d") \
  X("adc al, [rdi]") X("adc qword ptr [rdi], 0") X("sub [rdi], cx") X("sub r9d, [rdi]") \
  X("lock sub qword ptr [rdi], 1") X("sbb [rdi], rax") X("sbb bl, [rdi]") X("cmp [rdi], al") X("cmp rax, [rdi]") \
  X("cmp dword ptr [rdi], 5") X("cmp byte ptr [rdi], 0x80") X("cmp qword ptr [rdi], -1") X("and [rdi], eax") \
  X("and ah, [rdi]") X("lock and byte ptr [rdi], 0xf0") X("and qword ptr [rdi], -16") X("or [rdi], r13w") \
  X("or rbp, [rdi]") X("lock or dword ptr [rdi], 0x80000000") X("xor [rdi], rdx") X("xor r8d, [rdi]") \
  X("xor word ptr [rdi], -1") X("test [rdi], al") X("test [rdi], r9") X("test dword ptr [rdi], 0x80000001") \
  X("test byte ptr [rdi], 1") \
  /* one operand */ \
  X("inc byte ptr [rdi]") X("inc word ptr [rdi]") X("lock inc dword ptr [rdi]") X("inc qword ptr [rdi]") \
  X("dec byte ptr [rdi]") X("lock dec dword ptr [rdi]") X("dec qword ptr [rdi]") X("neg byte ptr [rdi]") \
  X("neg dword ptr [rdi]") X("neg qword ptr [rdi]") X("not word ptr [rdi]") X("lock not qword ptr [rdi]") \
  /* exchanges */ \
  X("xchg [rdi], al") X("xchg [rdi], ah") X("xchg [rdi], dx") X("xchg [rdi], r8d") X("xchg [rdi], rdi") \
  X("xadd [rdi], al") X("lock xadd [rdi], eax") X("xadd [rdi], r12") X("xadd [rdi], bx") X("cmpxchg [rdi], bl") \
  X("cmpxchg [rdi], dx") X("lock cmpxchg [rdi], r8d") X("lock cmpxchg [rdi], r9") X("cmpxchg [rsi], rsi") \
  X("lock cmpxchg8b [rdi]") X("lock cmpxchg16b [rdi]") \
  /* bits */ \
  X("bt dword ptr [rdi], 3") X("bt dword ptr [rdi], r9d") X("bts dword ptr [rdi], 31") X("lock bts [rdi], r9") \
  X("bts word ptr [rdi], r9w") X("btr dword ptr [rdi], r9d") X("lock btr qword ptr [rdi], 63") \
  X("btc dword ptr [rdi], 35") X("btc [rdi], r9") \
  /* strings */ \
  X("movsb") X("movsw") X("movsd") X("movsq") X("stosb") X("stosw") X("stosd") X("stosq") X("rep movsb") \
  X("rep movsw") X("rep movsd") X("rep movsq") X("rep stosb") X("rep stosd") X("rep stosq") \
  /* 128 bits, legacy */ \
  X("movaps xmm1, [rdi]") X("movaps [rdi], xmm15") X("movups xmm2, [rdi]") X("movups [rdi], xmm3") \
  X("movapd xmm4, [rdi]") X("movupd [rdi], xmm5") X("movdqa xmm6, [rdi]") X("movdqu xmm7, [rdi]") \
  X("movdqu [rdi], xmm8") X("lddqu xmm9, [rdi]") X("movntps [rdi], xmm1") X("movntpd [rdi], xmm2") \
  X("movntdq [rdi], xmm3") X("movntdqa xmm4, [rdi]") X("movd xmm5, dword ptr [rdi]") X("movd dword ptr [rdi], xmm6") \
  X("movq xmm7, qword ptr [rdi]") X("movq qword ptr [rdi], xmm8") X("movss xmm9, dword ptr [rdi]") \
  X("movss dword ptr [rdi], xmm10") X("movsd xmm11, qword ptr [rdi]") X("movsd qword ptr [rdi], xmm12") \
  X("movlps xmm1, [rdi]") X("movlps [rdi], xmm2") X("movhps xmm3, [rdi]") X("movhps [rdi], xmm4") \
  X("movlpd xmm5, [rdi]") X("movhpd [rdi], xmm6") \
  /* VEX */ \
  X("vmovaps xmm1, [rdi]") X("vmovaps ymm2, [rdi]") X("vmovups ymm3, [rdi]") X("vmovups [rdi], ymm4") \
  X("vmovapd [rdi], xmm5") X("vmovupd ymm5, [rdi]") X("vmovdqa ymm6, [rdi]") X("vmovdqa [rdi], ymm15") \
  X("vmovdqu xmm7, [rdi]") X("vmovdqu ymm8, [rdi]") X("vmovdqu [rdi], ymm9") X("vlddqu ymm1, [rdi]") \
  X("vmovntps [rdi], ymm1") X("vmovntdq [rdi], ymm2") X("vmovntdqa ymm3, [rdi]") X("vmovd xmm4, dword ptr [rdi]") \
  X("vmovd dword ptr [rdi], xmm5") X("vmovq xmm6, qword ptr [rdi]") X("vmovq qword ptr [rdi], xmm7") \
  X("vmovss xmm8, dword ptr [rdi]") X("vmovss dword ptr [rdi], xmm9") X("vmovsd xmm10, qword ptr [rdi]") \
  X("vmovsd qword ptr [rdi], xmm11") X("vmovlps xmm1, xmm2, [rdi]") X("vmovhps xmm3, xmm4, [rdi]") \
  X("vmovlpd [rdi], xmm5") X("vmovhpd [rdi], xmm6") X("vextractf128 [rdi], ymm1, 1") \
  X("vextracti128 [rdi], ymm2, 0") X("vinsertf128 ymm3, ymm4, [rdi], 1") X("vinserti128 ymm5, ymm6, [rdi], 0") \
  /* EVEX */ \
  X("vmovdqu64 zmm1, [rdi]") X("vmovdqu64 [rdi], zmm2") X("vmovdqu64 ymm17, [rdi]") X("vmovdqu64 [rdi], ymm18") \
  X("vmovdqu8 zmm31, [rdi]") X("vmovdqu16 [rdi], zmm30") X("vmovdqu32 xmm29, [rdi]") X("vmovdqa64 zmm3, [rdi]") \
  X("vmovdqa32 [rdi], zmm4") X("vmovups zmm5, [rdi+64]") X("vmovaps [rdi], zmm6") X("vmovntdq [rdi], zmm7") \
  X("vmovntdqa zmm8, [rdi]") X("vmovdqu8 zmm9{k1}, [rdi]") X("vmovdqu8 zmm10{k2}{z}, [rdi]") \
  X("vmovdqu8 [rdi]{k3}, zmm11") X("vmovdqu16 ymm12{k4}{z}, [rdi]") X("vmovdqu32 [rdi]{k5}, ymm13") \
  X("vmovdqu64 xmm14{k6}, [rdi]") X("vmovups zmm15{k7}{z}, [rdi]") X("vmovapd [rdi]{k1}, zmm16") \
  X("vmovss xmm20, dword ptr [rdi]") X("vmovq qword ptr [rdi], xmm21") X("vmovlps xmm22, xmm23, [rdi]") \
  X("vmovdqu ymm7, [rsi+rcx*2+1]") \
  /* what not every processor has */ \
  X("movdiri [rdi], eax") X("movdiri [rdi], r9") X("movdir64b rdi, [rsi]")
// clang-format on

#define BYTES(text) ".byte 2f-1f\n1: " text "\n2:\n"
__asm__(".pushsection .rodata\n.globl perdure_instructions\nperdure_instructions:\n.intel_syntax noprefix\n"  //
        INSTRUCTIONS(BYTES) ".att_syntax\n.byte 0\n.popsection\n");
extern "C" const u8 perdure_instructions[];

#define TEXT(text) text,
constexpr const char* kTexts[] = {INSTRUCTIONS(TEXT)};

// A process that does single instructions in a window of memory that both see.
class Processor {
 public:
  Processor() {
    const int file = memfd_create("window", MFD_CLOEXEC);
    EXPECT_EQ(ftruncate(file, kWindow), 0);
    window_ = static_cast<std::byte*>(mmap(nullptr, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    EXPECT_NE(static_cast<void*>(window_), MAP_FAILED);
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (mmap(reinterpret_cast<void*>(kCodeAt), kWindow, PROT_READ | PROT_WRITE | PROT_EXEC,
               MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0) == MAP_FAILED ||
          ptrace(PTRACE_TRACEME, 0, 0, 0) != 0) {
        _exit(1);
      }
      raise(SIGSTOP);
      _exit(2);
    }
    close(file);
    int status = 0;
    EXPECT_EQ(waitpid(child_, &status, 0), child_);
    EXPECT_TRUE(WIFSTOPPED(status)) << status;
    EXPECT_EQ(ptrace(PTRACE_GETREGS, child_, 0, &initial_), 0);
  }
  Processor(const Processor&) = delete;
  Processor& operator=(const Processor&) = delete;
  ~Processor() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    munmap(window_, kWindow);
  }

  std::span<std::byte> data() { return std::span(window_, kWindow).subspan(0x1000); }
  std::vector<std::byte> vectors() { return *read_vectors(child_); }

  // The signal it ended in, 0: done.
  int run(std::span<const u8> instruction, CpuState& cpu, std::vector<std::byte>& vectors) {
    std::memcpy(window_, instruction.data(), instruction.size());
    user_regs_struct regs = initial_;
    from_cpu_state(cpu, regs);
    regs.orig_rax = ~u64{0};
    EXPECT_EQ(ptrace(PTRACE_SETREGS, child_, 0, &regs), 0);
    EXPECT_TRUE(write_vectors(child_, vectors));
    for (;;) {
      int status = 0;
      EXPECT_EQ(ptrace(PTRACE_SINGLESTEP, child_, 0, 0), 0);
      EXPECT_EQ(waitpid(child_, &status, 0), child_);
      EXPECT_TRUE(WIFSTOPPED(status)) << status;
      if (!WIFSTOPPED(status)) return SIGKILL;
      EXPECT_EQ(ptrace(PTRACE_GETREGS, child_, 0, &regs), 0);
      if (WSTOPSIG(status) != SIGTRAP) return WSTOPSIG(status);
      if (regs.rip != cpu.rip) break;  // else a repetition
    }
    const CpuState before = cpu;
    cpu = to_cpu_state(regs);
    cpu.fs_base = before.fs_base;
    cpu.gs_base = before.gs_base;
    vectors = *read_vectors(child_);
    return 0;
  }

 private:
  std::byte* window_ = nullptr;
  pid_t child_ = 0;
  user_regs_struct initial_{};
};

// The data's copy.
class Copy final : public Memory {
 public:
  explicit Copy(std::span<const std::byte> data) : bytes(data.begin(), data.end()) {}
  Result<void> read(u64 address, std::span<std::byte> to) override {
    ++accesses;
    if (!inside(address, to.size())) return fail(Errno::Efault);
    std::memcpy(to.data(), bytes.data() + (address - kDataAt), to.size());
    return {};
  }
  Result<void> write(u64 address, std::span<const std::byte> from) override {
    ++accesses;
    if (broken) return fail(Errno::Eio);
    if (!inside(address, from.size())) return fail(Errno::Efault);
    std::memcpy(bytes.data() + (address - kDataAt), from.data(), from.size());
    return {};
  }
  std::vector<std::byte> bytes;
  unsigned accesses = 0;
  bool broken = false;

 private:
  bool inside(u64 address, usize length) const {
    return address >= kDataAt && length <= bytes.size() && address - kDataAt <= bytes.size() - length;
  }
};

std::vector<u8> instruction(usize index) {
  const u8* at = perdure_instructions;
  for (usize i = 0; i < index; ++i) at += 1 + *at;
  return {at + 1, at + 1 + *at};
}

class Random {
 public:
  explicit Random(u64 seed) : engine_(seed) {}
  u64 operator()() { return engine_(); }
  u64 below(u64 n) { return engine_() % n; }

 private:
  std::mt19937_64 engine_;
};

CpuState random_state(Random& random, bool aligned) {
  CpuState cpu;
  for (u64& g : cpu.general) g = random.below(4) == 0 ? random.below(3) - 1 : random();
  const auto pointer = [&] { return kDataAt + 0x1000 + 64 * random.below(64) + (aligned ? 0 : random.below(64)); };
  cpu.general[CpuState::kRdi] = pointer();
  cpu.general[CpuState::kRsi] = pointer();
  cpu.general[CpuState::kRcx] = random.below(16);
  cpu.general[9] = random.below(8192) - 4096;
  cpu.rip = kCodeAt;
  cpu.flags = 0x202 | (random() & (flag::kArithmetic | flag::kDirection));
  return cpu;
}

void randomize(std::vector<std::byte>& area, Random& random) {
  u64 in_use = 0;
  std::memcpy(&in_use, area.data() + 512, sizeof in_use);
  for (usize i = 160; i < 416; ++i) area[i] = static_cast<std::byte>(random());
  for (usize i = 576; i < area.size(); ++i) area[i] = static_cast<std::byte>(random());
  // SSE, AVX, masks, upper halves, the other registers: each may be in its initial state. Nothing else is touched.
  for (const unsigned component : {1U, 2U, 5U, 6U, 7U}) {
    const u64 bit = u64{1} << component;
    in_use = random.below(4) == 0 ? in_use & ~bit : in_use | bit;
  }
  in_use &= 0xE6 | 1;
  std::memcpy(area.data() + 512, &in_use, sizeof in_use);
}

void expect_same_vectors(std::vector<std::byte>& real, std::vector<std::byte>& emulated) {
  const VectorState a{std::span(real)};
  const VectorState b{std::span(emulated)};
  for (unsigned i = 0; i < 32; ++i) {
    Vector x;
    Vector y;
    ASSERT_EQ(a.read(i, x), b.read(i, y));
    EXPECT_EQ(x, y) << "vector register " << i;
  }
  for (unsigned i = 0; i < 8; ++i) {
    u64 x = 0;
    u64 y = 0;
    ASSERT_EQ(a.mask(i, x), b.mask(i, y));
    EXPECT_EQ(x, y) << "mask " << i;
  }
}

class Oracle : public testing::TestWithParam<usize> {};

TEST_P(Oracle, SameAsTheProcessor) {
  const std::vector<u8> code = instruction(GetParam());
  Instruction decoded;
  ASSERT_TRUE(decoded.decode(code));
  ASSERT_EQ(decoded.head.length, code.size());
  Processor processor;
  const u64 undefined = decoded.head.cpu_flags != nullptr ? decoded.head.cpu_flags->undefined : 0;
  unsigned compared = 0;
  for (u64 seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(testing::Message() << kTexts[GetParam()] << ", seed " << seed);
    Random random(seed);
    for (std::byte& b : processor.data()) b = static_cast<std::byte>(random());
    CpuState real = random_state(random, seed % 2 == 0);
    // Half of the comparisons are to be equal.
    if (random.below(2) == 0) {
      const usize at = real.general[CpuState::kRdi] - kDataAt;
      std::memcpy(processor.data().data() + at, &real.general[CpuState::kRax], 8);
      if (decoded.head.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
        std::memcpy(processor.data().data() + at + 8, &real.general[CpuState::kRdx], 8);
      } else {
        std::memcpy(processor.data().data() + at + 4, &real.general[CpuState::kRdx], 4);
      }
    }
    std::vector<std::byte> real_vectors = processor.vectors();
    randomize(real_vectors, random);
    CpuState emulated = real;
    std::vector<std::byte> vectors = real_vectors;
    Copy copy(processor.data());

    const int signal = processor.run(code, real, real_vectors);
    if (signal == SIGILL) GTEST_SKIP() << "this processor has no " << kTexts[GetParam()];
    if (signal != 0) {
      // Only for want of alignment.
      ASSERT_EQ(signal, SIGSEGV);
      ASSERT_NE(seed % 2, 0U);
      continue;
    }
    VectorState state{std::span(vectors)};
    const Outcome outcome = emulate(decoded, emulated, state, copy);
    ASSERT_EQ(outcome.verdict, Verdict::Done) << std::hex << outcome.address;
    ++compared;

    for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(real.general[i], emulated.general[i]) << "register " << i;
    EXPECT_EQ(real.rip, emulated.rip);
    const u64 flags = (flag::kArithmetic | flag::kDirection) & ~undefined;
    EXPECT_EQ(real.flags & flags, emulated.flags & flags);
    expect_same_vectors(real_vectors, vectors);
    EXPECT_TRUE(std::equal(copy.bytes.begin(), copy.bytes.end(), processor.data().begin()));
    if (HasFailure()) return;
  }
  EXPECT_GE(compared, 15U);
}

INSTANTIATE_TEST_SUITE_P(All, Oracle, testing::Range(usize{0}, std::size(kTexts)), [](const auto& tested) {
  std::string name = std::to_string(tested.param) + '_';
  for (const char* c = kTexts[tested.param]; *c != 0; ++c) name += std::isalnum(*c) != 0 ? *c : '_';
  return name;
});

// --- what is not compared with a processor
// ------------------------------------------------------------------------------

struct World {
  World() : copy(std::vector<std::byte>(kDataBytes)) {
    cpu.rip = kCodeAt;
    cpu.flags = 0x202;
    cpu.general[CpuState::kRdi] = kDataAt;
    cpu.general[CpuState::kRsi] = kDataAt + 0x1000;
  }
  Outcome run(std::initializer_list<u8> code) {
    EXPECT_TRUE(instruction.decode(std::span(code.begin(), code.size())));
    return emulate(instruction, cpu, vectors, copy);
  }
  u8 at(usize i) const { return static_cast<u8>(copy.bytes[i]); }
  Copy copy;
  CpuState cpu;
  VectorState vectors;
  Instruction instruction;
};

// Where the processor has no such instruction the program gets SIGILL, not SIGBUS; the emulator knows it anyway.
TEST(Emulator, DirectStores) {
  World w;
  for (usize i = 0; i < 64; ++i) w.copy.bytes[0x1000 + i] = static_cast<std::byte>(i + 1);
  EXPECT_EQ(w.run({0x66, 0x0F, 0x38, 0xF8, 0x3E}).verdict, Verdict::Done);  // movdir64b rdi, [rsi]
  for (usize i = 0; i < 64; ++i) EXPECT_EQ(w.at(i), i + 1);
  EXPECT_EQ(w.copy.accesses, 2U);  // one store of 64 bytes
  EXPECT_EQ(w.cpu.rip, kCodeAt + 5);
  w.cpu.general[CpuState::kRax] = 0x1122'3344'5566'7788;
  EXPECT_EQ(w.run({0x48, 0x0F, 0x38, 0xF9, 0x07}).verdict, Verdict::Done);  // movdiri [rdi], rax
  EXPECT_EQ(w.at(0), 0x88);
  EXPECT_EQ(w.at(7), 0x11);
}

TEST(Emulator, SegmentsAndShortAddresses) {
  World w;
  w.copy.bytes[0x10] = std::byte{0x5A};
  w.cpu.general[CpuState::kRdi] = 0xFFFF'FFFF'0000'0010;
  w.cpu.fs_base = kDataAt;
  w.cpu.gs_base = kDataAt - 0x20;
  EXPECT_EQ(w.run({0x64, 0x67, 0x8A, 0x07}).verdict, Verdict::Done);  // mov al, fs:[edi]
  EXPECT_EQ(w.cpu.general[CpuState::kRax], 0x5AU);
  w.cpu.general[CpuState::kRdi] = 0x30;
  EXPECT_EQ(w.run({0x65, 0x8A, 0x27}).verdict, Verdict::Done);  // mov ah, gs:[rdi]
  EXPECT_EQ(w.cpu.general[CpuState::kRax], 0x5A5AU);
}

TEST(Emulator, OthersAreLeftAloneAndNamed) {
  World w;
  const CpuState before = w.cpu;
  // push [rdi]; fld [rdi]; pand xmm0, [rdi]; vpgatherdd; mov [rdi], ds; cmpsb; repne movsb; movq mm0, [rdi]
  for (const std::initializer_list<u8> code : {std::initializer_list<u8>{0xFF, 0x37},
                                               {0xD9, 0x07},
                                               {0x66, 0x0F, 0xDB, 0x07},
                                               {0xC4, 0xE2, 0x6D, 0x90, 0x04, 0x0F},
                                               {0x8E, 0x1F},
                                               {0xA6},
                                               {0xF2, 0xA4},
                                               {0x0F, 0x6F, 0x07}}) {
    EXPECT_EQ(w.run(code).verdict, Verdict::Unsupported);
    EXPECT_EQ(w.copy.accesses, 0U);
    EXPECT_EQ(w.cpu.rip, before.rip);
  }
  char text[64];
  w.run({0x66, 0x0F, 0xDB, 0x47, 0x10});
  w.instruction.describe(kCodeAt, text);
  EXPECT_STREQ(text, "pand xmm0, [rdi+0x10]");
  char little[6];
  w.instruction.describe(kCodeAt, little);
  EXPECT_LT(std::strlen(little), sizeof little);
}

TEST(Emulator, VectorsNeedTheirState) {
  World w;
  EXPECT_EQ(w.run({0x0F, 0x10, 0x07}).verdict, Verdict::Unsupported);  // movups xmm0, [rdi]
  EXPECT_TRUE(w.instruction.uses_vectors());
  EXPECT_EQ(w.copy.accesses, 0U);
  EXPECT_EQ(w.run({0x8B, 0x07}).verdict, Verdict::Done);
  EXPECT_FALSE(w.instruction.uses_vectors());
}

TEST(Emulator, FailedAccessesChangeNothing) {
  World w;
  w.cpu.general[CpuState::kRdi] = kDataAt + kDataBytes - 2;
  w.cpu.general[CpuState::kRax] = 77;
  const Outcome read = w.run({0x8B, 0x07});  // mov eax, [rdi]
  EXPECT_EQ(read.verdict, Verdict::Fault);
  EXPECT_EQ(read.address, kDataAt + kDataBytes - 2);
  EXPECT_FALSE(read.write);
  EXPECT_EQ(w.cpu.general[CpuState::kRax], 77U);
  EXPECT_EQ(w.cpu.rip, kCodeAt);

  w.cpu.general[CpuState::kRdi] = kDataAt;
  w.copy.broken = true;
  w.cpu.flags |= flag::kCarry;
  const u64 flags = w.cpu.flags;
  const Outcome add = w.run({0x01, 0x07});  // add [rdi], eax
  EXPECT_EQ(add.verdict, Verdict::Bus);
  EXPECT_TRUE(add.write);
  EXPECT_EQ(w.cpu.flags, flags);
  const Outcome exchange = w.run({0x87, 0x07});  // xchg [rdi], eax
  EXPECT_EQ(exchange.verdict, Verdict::Bus);
  EXPECT_EQ(w.cpu.general[CpuState::kRax], 77U);
}

// As the processor: what is done is done, and the instruction can be started again behind it.
TEST(Emulator, RepetitionsStopWhereTheyFail) {
  World w;
  w.cpu.general[CpuState::kRdi] = kDataAt + kDataBytes - 8;
  w.cpu.general[CpuState::kRcx] = 5;
  const Outcome outcome = w.run({0xF3, 0xAB});  // rep stosd
  EXPECT_EQ(outcome.verdict, Verdict::Fault);
  EXPECT_EQ(outcome.address, kDataAt + kDataBytes);
  EXPECT_TRUE(outcome.write);
  EXPECT_EQ(w.cpu.general[CpuState::kRcx], 3U);
  EXPECT_EQ(w.cpu.general[CpuState::kRdi], kDataAt + kDataBytes);
  EXPECT_EQ(w.cpu.rip, kCodeAt);
}

TEST(Emulator, LongRepetitionsComeInParts) {
  World w;
  w.cpu.general[CpuState::kRax] = 0xAB;
  w.cpu.general[CpuState::kRcx] = 2500;
  unsigned runs = 0;
  while (w.cpu.rip == kCodeAt) {
    ASSERT_EQ(w.run({0xF3, 0xAA}).verdict, Verdict::Done);  // rep stosb
    ASSERT_LE(++runs, 3U);
  }
  EXPECT_EQ(runs, 3U);
  EXPECT_EQ(w.cpu.general[CpuState::kRcx], 0U);
  EXPECT_EQ(w.at(2499), 0xAB);
  EXPECT_EQ(w.at(2500), 0);
}

TEST(BusAccesses, AreAlignedAndAscending) {
  const auto pieces = [](u64 at, usize bytes) {
    std::vector<std::pair<u64, usize>> out;
    EXPECT_TRUE(in_bus_accesses(at, bytes, [&](u64 where, usize width, usize done) -> Result<void> {
      EXPECT_EQ(where, at + done);
      out.emplace_back(where, width);
      return {};
    }));
    return out;
  };
  using Pieces = std::vector<std::pair<u64, usize>>;
  EXPECT_EQ(pieces(0x10, 8), (Pieces{{0x10, 8}}));
  EXPECT_EQ(pieces(0x12, 4), (Pieces{{0x12, 2}, {0x14, 2}}));
  EXPECT_EQ(pieces(0x1, 8), (Pieces{{1, 1}, {2, 2}, {4, 4}, {8, 1}}));
  EXPECT_EQ(pieces(0x40, 64).size(), 8U);
}

}  // namespace
}  // namespace perdure::intercept
