// The table of tests: every UAPI_TEST is a row of it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace perdure::uapi_test {

class Case;

enum class Needs : unsigned char {
  Calls,    // nothing but system calls
  Program,  // a process of its own
  Update,   // a live update after before()
};

struct Row {
  std::string_view id;    // of docs/uapi.md: "4 CREATE_SESSION"
  std::string_view name;  // an identifier, unique in the row
  Needs needs;
  void (*run)(Case&);
  void (*before)(Case&) = nullptr;  // only with Needs::Update: what happens under the old kernel

  std::string full_name() const { return std::string(id) + ": " + std::string(name); }
};

// All there are, sorted by id and name.
std::vector<Row> rows();

struct Registrar {
  explicit Registrar(const Row& row);
};

}  // namespace perdure::uapi_test

#define UAPI_NAME2(a, b) a##b
#define UAPI_NAME(a, b) UAPI_NAME2(a, b)
// The name of the function has the line in it, so that rows of one file may use a name each for themselves.
#define UAPI_REGISTER(id, name, needs, function)                                                                  \
  static void function(::perdure::uapi_test::Case& t);                                                            \
  static const ::perdure::uapi_test::Registrar UAPI_NAME(function, _row)({id, #name, needs, &function, nullptr}); \
  static void function([[maybe_unused]] ::perdure::uapi_test::Case& t)
#define UAPI_TEST(id, name) UAPI_REGISTER(id, name, ::perdure::uapi_test::Needs::Calls, UAPI_NAME(name##_, __LINE__))
#define UAPI_PROGRAM_TEST(id, name) \
  UAPI_REGISTER(id, name, ::perdure::uapi_test::Needs::Program, UAPI_NAME(name##_, __LINE__))
// UAPI_STAGED_TEST("4 FINISH", Name, prepare) { … }: `prepare(Case&)` under the old kernel, the body under the new one.
#define UAPI_STAGED(id, name, prepare, function)                                                \
  static void function(::perdure::uapi_test::Case& t);                                          \
  static const ::perdure::uapi_test::Registrar UAPI_NAME(                                       \
      function, _row)({id, #name, ::perdure::uapi_test::Needs::Update, &function, &(prepare)}); \
  static void function([[maybe_unused]] ::perdure::uapi_test::Case& t)
#define UAPI_STAGED_TEST(id, name, prepare) UAPI_STAGED(id, name, prepare, UAPI_NAME(name##_, __LINE__))
