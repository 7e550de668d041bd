#include "machine/intercept/lender.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstring>

#include "machine/host/host_files.h"
#include "machine/intercept/filter.h"
#include "machine/intercept/task_questions.h"

namespace perdure::intercept {

using wire::Call;
using wire::Lent;
using wire::LentFile;
using wire::LentThread;

namespace {

static_assert(wire::kFirstPosition == kOurPositions);

// The kernel's questions while it receives calls itself: about the one that they name.
class LentQuestions final : public Questions {
 public:
  explicit LentQuestions(Machine& machine) : machine_(machine) {}
  Result<wire::Reply> answer(wire::Message& question) override {
    const auto process = static_cast<s32>(wire::tgid_of(question.head.task));
    const auto thread = static_cast<s32>(wire::tid_of(question.head.task));
    Target target = TRY(machine_.processes->target(thread));
    if (target.process() != process) target = TRY(machine_.processes->target_again(thread));
    if (target.process() != process) return fail(Errno::Esrch);
    const SystemCall call{.id = question.head.d, .tid = thread};
    return TaskQuestions(*machine_.listener, *machine_.registry, machine_.events, call, target).answer(question);
  }

 private:
  Machine& machine_;
};

// Known to all threads while it lasts: what makes its lists out of date ends it. Made under Machine::closing: whoever
// has found out that something was closed, and is on the way to tell the kernel, ends it first or is waited for.
class Loan {
 public:
  Loan(Machine& machine, const wire::LentTurn& turn) : machine_(machine), turn_(turn) {
    turn_.lend();
    const std::scoped_lock lock(machine_.loans_mutex);
    machine_.loans.push_back(&turn_);
  }
  ~Loan() {
    const std::scoped_lock lock(machine_.loans_mutex);
    std::erase(machine_.loans, &turn_);
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

 private:
  Machine& machine_;
  const wire::LentTurn& turn_;
};

template <class T>
void append(std::vector<std::byte>& to, const std::vector<T>& from) {
  const auto bytes = std::as_bytes(std::span(from));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

bool Lender::worth(bool lendable) {
  streak_ = lendable ? streak_ + 1 : 0;
  // What is served there is not in the log.
  return streak_ >= wanted_ && possible_ && !machine_.log;
}

Result<void> Lender::hand_over(Lent what, int fd) {
  TRY(link_.call(Call::Lend, {.a = static_cast<u64>(what)}, {}, nullptr, [] {}, fd));
  return {};
}

Result<void> Lender::prepare() {
  if (turn_) return {};
  host::Descriptor closes(epoll_create1(EPOLL_CLOEXEC));
  if (!closes) return fail(host::last_error());
  for (const int fd : {machine_.registry->poll_fd(), machine_.processes->poll_fd()}) {
    epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(closes.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail(host::last_error());
  }
  wire::LentTurn turn = TRY(wire::LentTurn::create());
  TRY(hand_over(Lent::Listener, machine_.listener->fd()));
  TRY(hand_over(Lent::Closes, closes.get()));
  TRY(hand_over(Lent::Turn, turn.fd()));
  closes_ = std::move(closes);
  turn_ = std::move(turn);
  return {};
}

Result<std::optional<SystemCall>> Lender::lend(FunctionRef<void()> stalled) {
  streak_ = 0;
  if (const auto prepared = prepare(); !prepared) {
    possible_ = false;
    if (prepared.error() == Errno::Ekilled) return fail(Errno::Ekilled);
    return std::optional<SystemCall>();
  }
  std::unique_lock closing(machine_.closing, std::try_to_lock);
  if (!closing) return std::optional<SystemCall>();
  const Loan loan(machine_, *turn_);
  closing.unlock();
  const std::vector<LentFile> files = machine_.registry->lent_files(wire::kMostLentFiles);
  const std::vector<LentThread> threads = machine_.processes->lent_threads(wire::kMostLentThreads);
  std::vector<std::byte> payload;
  payload.reserve(files.size() * sizeof(LentFile) + threads.size() * sizeof(LentThread));
  append(payload, files);
  append(payload, threads);
  LentQuestions questions(machine_);
  const auto back = link_.lend({.b = files.size(), .c = threads.size()}, payload, questions, *turn_, stalled);
  if (!back) {
    possible_ = false;
    if (back.error() == Errno::Ekilled) return fail(Errno::Ekilled);
    return std::optional<SystemCall>();
  }
  wanted_ = back->head.a >= kFirst ? kFirst : std::min(2 * wanted_, kMost);
  if (back->payload.empty()) return std::optional<SystemCall>();
  wire::LeftCall left;
  if (back->payload.size() != sizeof left) return fail(Errno::Ekilled);  // it will not be answered by anybody
  std::memcpy(&left, back->payload.data(), sizeof left);
  SystemCall call{.id = left.id, .tid = left.thread, .number = left.number};
  std::memcpy(call.args.data(), left.args, sizeof left.args);
  return std::optional(call);
}

}  // namespace perdure::intercept
