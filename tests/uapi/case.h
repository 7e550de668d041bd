// Tests of the user API, one call and one errno at a time, that know nothing but the system calls: the same test runs
// in process, under interception as a dynamic or static program, and on a real Linux 7.3.
//
//   UAPI_TEST("4 CREATE_SESSION", EmptyNameIsEinval) {
//     Fd device = t.open("/dev/liveupdate");        // skips where there is none
//     uapi::LiveupdateSession call{.size = 72, .fd = -1, .name = {}};
//     CHECK_ERRNO(t.ioctl(device, uapi::kLiveupdateCreateSession, call), Errno::Einval);
//   }
//
// The first argument is the row of docs/uapi.md that the test belongs to. CHECK_… goes on after a failure; REQUIRE and
// MUST (a Result's value) end the test. UAPI_PROGRAM_TEST is one that only a process of its own can run: it forks, or
// uses descriptors by number. UAPI_STAGED_TEST has two halves with a live update between them.
#pragma once
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "client/fd.h"
#include "client/syscalls.h"

namespace perdure::uapi_test {

using client::Fd;
using client::Syscalls;

// Ends a test; whoever runs it reports.
struct Skip {
  std::string reason;
};
struct Stop {};

class Case {
 public:
  Case(Syscalls& s, std::string name, std::vector<std::string> devices, bool is_program)
      : sys(s), program(is_program), name_(std::move(name)), devices_(std::move(devices)) {}

  Syscalls& sys;
  // Descriptors are those of this process: libc may be called with them.
  const bool program;

  // --- what there is -----------------------------------------------------------------------------------------------
  // A node of /dev. Skips the test where there is none, or where this user may not.
  Fd open(std::string_view path);
  // The VFIO devices that tests may use, as paths; skips the test where there are fewer than `at_least`.
  const std::vector<std::string>& devices(usize at_least = 1);
  [[noreturn]] static void skip(std::string reason);

  // --- calls -------------------------------------------------------------------------------------------------------
  template <class T>
  Result<u64> ioctl(const Fd& fd, u32 cmd, T& arg) {
    static_assert(!std::is_pointer_v<T>, "the structure itself, or ioctl_at()");
    return sys.ioctl(fd.number(), cmd, &arg);
  }
  // At an address that need not be one of this program's.
  Result<u64> ioctl_at(const Fd& fd, u32 cmd, const void* at) {
    return sys.ioctl(fd.number(), cmd, const_cast<void*>(at));
  }

  // A name that no other test uses, for sessions: staged tests share a machine.
  std::string name(std::string_view suffix = {}) const;

  // Stays open until the jump.
  s32 keep(Fd fd);
  std::vector<Fd> take_kept() { return std::exchange(kept_, {}); }

  // --- results -----------------------------------------------------------------------------------------------------
  void fail(const char* file, int line, const std::string& what);
  const std::vector<std::string>& failures() const { return failures_; }

 private:
  std::string name_;
  std::vector<std::string> devices_;
  std::vector<Fd> kept_;
  std::vector<std::string> failures_;
};

// --- values in messages
// ------------------------------------------------------------------------------------------------

template <class T>
std::string show(const T& value) {
  std::ostringstream out;
  if constexpr (std::is_same_v<T, Errno>) {
    out << errno_name(value);
  } else if constexpr (std::is_same_v<T, bool>) {
    out << (value ? "true" : "false");
  } else if constexpr (std::is_enum_v<T>) {
    out << static_cast<s64>(value);
  } else if constexpr (std::is_integral_v<T>) {
    out << +value;
    if (value > T{9}) out << " (0x" << std::hex << +value << ")";
  } else {
    out << '"' << value << '"';
  }
  return out.str();
}

// What std::cmp_equal takes.
template <class T>
concept Number = std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char>;

template <class A, class B>
bool same(const A& a, const B& b) {
  if constexpr (Number<A> && Number<B>) {
    return std::cmp_equal(a, b);
  } else {
    return a == b;
  }
}

template <class A, class B>
bool check_equal(Case& t, const char* file, int line, const char* text, const A& a, const B& b) {
  if (same(a, b)) return true;
  t.fail(file, line, std::string(text) + ": " + show(a) + " is not " + show(b));
  return false;
}

template <class T>
bool check_ok(Case& t, const char* file, int line, const char* text, const Result<T>& result) {
  if (result) return true;
  t.fail(file, line, std::string(text) + " failed: " + show(result.error()));
  return false;
}

template <class T>
bool check_errno(Case& t, const char* file, int line, const char* text, const Result<T>& result, Errno expected) {
  if (!result && result.error() == expected) return true;
  t.fail(file, line,
         std::string(text) + ": " + (result ? "succeeded" : show(result.error())) + ", should be " + show(expected));
  return false;
}

template <class T>
T must(Case& t, const char* file, int line, const char* text, Result<T> result) {
  if (!check_ok(t, file, line, text, result)) throw Stop{};
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace perdure::uapi_test

// `t` is the case, as in every test's signature; functions that check for a test take it under that name.
#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) t.fail(__FILE__, __LINE__, #condition " is not true"); \
  } while (false)
#define REQUIRE(condition)                                   \
  do {                                                       \
    if (!(condition)) {                                      \
      t.fail(__FILE__, __LINE__, #condition " is not true"); \
      throw ::perdure::uapi_test::Stop{};                    \
    }                                                        \
  } while (false)
#define CHECK_EQ(a, b) ((void)::perdure::uapi_test::check_equal(t, __FILE__, __LINE__, #a, a, b))
#define CHECK_OK(result) ((void)::perdure::uapi_test::check_ok(t, __FILE__, __LINE__, #result, result))
#define CHECK_ERRNO(result, expected) \
  ((void)::perdure::uapi_test::check_errno(t, __FILE__, __LINE__, #result, result, expected))
#define MUST(result) ::perdure::uapi_test::must(t, __FILE__, __LINE__, #result, result)

#include "tests/uapi/row.h"
